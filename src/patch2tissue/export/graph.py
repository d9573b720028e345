"""What is exported: the network with everything from padding to probabilities inside, for images of any size."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from patch2tissue.inference.folding import folded
from patch2tissue.pfscnet.network import PFSCNet

MULTIPLE = 32
"""Images are padded inside to sides that are multiples of this, as `predict_batch` pads them."""

INPUT, OUTPUT = "images", "probabilities"
"""Names of the graph's input and output."""


class _Logits(nn.Module):
    """A network whose `forward` gives logits [B, K, H, W] in float32, for sides that are multiples of `MULTIPLE`."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network.segment(images).float()
        return logits


class TissueProbabilities(nn.Module):
    """Images of any size to probabilities of the same size.

    What it does is what `Predictor` does with one image that fits a tile, without gate and symmetries. Written without
    branches, so that one text serves as it is, scripted, and exported.

    Args:
        logits: images whose sides are multiples of `MULTIPLE` to logits [B, K, H, W]; their normalisation is inside.
        temperature: divides the logits, see `calibrate_run`; 1 where none was chosen.
    """

    def __init__(self, logits: nn.Module, temperature: float) -> None:
        super().__init__()
        self.logits = logits
        self.temperature = float(temperature)

    def forward(self, images: Tensor) -> Tensor:
        """Probabilities of tissues.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].

        Returns:
            float32 [B, K, H, W] in 0..1, summing to one over K.
        """
        height, width = images.shape[2], images.shape[3]
        rows = torch.arange(32 * ((height + 31) // 32), device=images.device)
        columns = torch.arange(32 * ((width + 31) // 32), device=images.device)
        # mirrored at the last row and column; where the image is too small for that, these are repeated
        back_rows, back_columns = 2 * height - 2 - rows, 2 * width - 2 - columns
        mirrored = (back_rows[-1] >= 0) & (back_columns[-1] >= 0)
        beyond_rows = torch.where(mirrored, back_rows, torch.full_like(rows, height - 1))
        beyond_columns = torch.where(mirrored, back_columns, torch.full_like(columns, width - 1))
        rows = torch.where(rows < height, rows, beyond_rows)
        columns = torch.where(columns < width, columns, beyond_columns)
        padded = images.index_select(2, rows).index_select(3, columns)
        logits = self.logits(padded)[:, :, :height, :width]
        return torch.softmax(logits / self.temperature, dim=1)


def logits_module(network: PFSCNet) -> nn.Module:
    """A network's logits, on the CPU, its batch normalisations folded."""
    plain = folded(network.cpu().eval(), lambda one, images: one.segment(images))
    # in torch's usual layout: exporters need not know of another one
    return _Logits(plain.to(memory_format=torch.contiguous_format)).eval()


def tissue_probabilities(network: PFSCNet, temperature: float) -> TissueProbabilities:
    """What is exported of a network."""
    return TissueProbabilities(logits_module(network), temperature).eval()
