"""Whether an exported model gives what the run gives, on drawn H&E pictures of several sizes."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patch2tissue.errors import Patch2TissueError
from patch2tissue.inference.confidence import apply_temperature
from patch2tissue.inference.tiling import predict_batch
from patch2tissue.pfscnet.network import PFSCNet

SIZES = ((1, 128, 192), (2, 64, 96), (1, 131, 97), (1, 33, 140), (1, 9, 20))
"""Batch, height and width of the pictures; most are no multiples of the stride, the last is less than its padding."""

TOLERANCE = 1e-4
"""Most that a probability may differ from PyTorch's in float32, between 0 and 1."""


@cache
def check_pictures() -> tuple[np.ndarray, ...]:
    """Pictures of all `SIZES`, uint8 RGB [B, H, W, 3], cut from two synthetic patches; always the same."""
    from patch2tissue.data.synthetic.patches import render_patch

    drawn = np.stack([render_patch(seed, 192, (0, 1, 2, 3))[0] for seed in (1, 2)])
    return tuple(drawn[:batch, :height, :width].copy() for batch, height, width in SIZES)


def run_probabilities(network: PFSCNet, temperature: float, pictures: np.ndarray) -> np.ndarray:
    """What `predict` gives for pictures of one size in float32: uint8 [B, H, W, 3] to float32 [B, K, H, W]."""
    found = predict_batch(lambda images: torch.softmax(network.segment(images).float(), dim=1), pictures)
    return np.stack([apply_temperature(one, temperature) for one in found])


def to_graph_input(pictures: np.ndarray) -> Tensor:
    """uint8 RGB [B, H, W, 3] as the exported graph takes it: float32 in 0..1, [B, 3, H, W]."""
    return torch.from_numpy(pictures).permute(0, 3, 1, 2).float().div(255.0).contiguous()


def compare(
    what: str, exported: Callable[[Tensor], np.ndarray], network: PFSCNet, temperature: float
) -> dict[str, Any]:
    """Compare an exported model with the run's network.

    Args:
        what: the model, for the message.
        exported: images float32 [B, 3, H, W] in 0..1 to probabilities [B, K, H, W].
        network: the run's, in evaluation mode, on the CPU.
        temperature: the run's.

    Returns:
        `max_abs_difference` of probabilities, `tolerance`, and `sizes`: lists of batch, height, width.

    Raises:
        Patch2TissueError: if they differ by more than `TOLERANCE`.
    """
    worst = 0.0
    for size, pictures in zip(SIZES, check_pictures(), strict=True):
        expected = run_probabilities(network, temperature, pictures)
        found = exported(to_graph_input(pictures))
        shape = found.shape
        difference = float(np.abs(found - expected).max()) if shape == expected.shape else float("inf")
        if not difference <= TOLERANCE:  # also where it is no number
            told = f"by up to {difference:.2g}" if shape == expected.shape else f"in shape ({shape})"
            raise Patch2TissueError(
                f"The {what} model differs from the run's network {told} on images of {size[1]}×{size[2]} px (allowed: "
                f"{TOLERANCE:g}), so it is not written. Export to another format, and report the run's encoder."
            )
        worst = max(worst, difference)
    return {"max_abs_difference": worst, "tolerance": TOLERANCE, "sizes": [list(size) for size in SIZES]}
