"""OEEM, a peer of stage 2: cross-entropy that trusts easy pixels more, since noisy labels are hard to learn.

Published: Li Y. et al., Online Easy Example Mining for weakly-supervised gland segmentation, MICCAI 2022. A pixel's
weight is the softmax of the negative loss over the pixels of its image, divided by its mean, without gradient; the
authors' released code leaves images whose label map holds a single tissue unweighted. Since the loss of a pixel is
minus the log-probability of its label, the weight is that probability divided by its mean over the image.
Our reading: pixels without a label take no part in the normalisation, and the loss is the mean over labelled pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.config import RunConfig
from patch2tissue.data.patches import Patch
from patch2tissue.pfscnet.training import PFSCNetStage, train_pfscnet
from patch2tissue.tissues import IGNORE_INDEX


def oeem_cross_entropy(
    logits: Tensor, target: Tensor, *, ignore_index: int = IGNORE_INDEX, mixed_only: bool = True
) -> Tensor:
    """Cross-entropy weighted towards easy pixels.

    Args:
        logits: [B, K, H, W], any floating type; computed in float32.
        target: integer labels [B, H, W], 0..K-1 or `ignore_index`.
        ignore_index: label of pixels that are left out.
        mixed_only: weigh only images whose target holds two tissues or more, as the authors' released code does.

    Returns:
        Scalar float32: mean over labelled pixels of weight times loss; 0 where no pixel is labelled. The weights of an
        image have mean one over its labelled pixels and carry no gradient.

    Raises:
        ValueError: if the shapes do not fit together.
    """
    if logits.ndim != 4 or target.shape != (logits.shape[0], *logits.shape[2:]):
        raise ValueError(f"target must be [B, H, W] of the logits {list(logits.shape)}, got {list(target.shape)}")
    target = target.long()
    each = F.cross_entropy(logits.float(), target, ignore_index=ignore_index, reduction="none").flatten(1)
    flat = target.flatten(1)
    labelled = flat != ignore_index
    ease = (-each.detach()).masked_fill(~labelled, -torch.inf)
    # an image without any label has no softmax; its loss is zero anyway
    weights = torch.nan_to_num(torch.softmax(ease, dim=1)) * labelled.sum(dim=1, keepdim=True)
    if mixed_only:
        highest = flat.masked_fill(~labelled, -1).amax(dim=1, keepdim=True)
        lowest = flat.masked_fill(~labelled, torch.iinfo(flat.dtype).max).amin(dim=1, keepdim=True)
        weights = torch.where(lowest < highest, weights, labelled.float())
    return (each * weights).sum() / labelled.sum().clamp(min=1)


class OEEMStage(PFSCNetStage):
    """Stage 2 whose cross-entropy is that of OEEM; arguments as for `PFSCNetStage`."""

    in_parts = False

    def _cross_entropy(self, logits: Tensor, target: Tensor, confidence: Tensor | None) -> Tensor:
        return oeem_cross_entropy(logits, target)


def train_oeem(
    config: RunConfig,
    patches: Sequence[Patch],
    targets: Sequence[Path],
    folder: Path,
    *,
    side: int,
    craanet: Path | None = None,
    title: str = "OEEM",
) -> None:
    """Train the network of stage 2 with OEEM's loss alone, in as many steps as `config.pfscnet` says.

    Network, start, data order, augmentation and optimiser are those of `train_pfscnet` with cross-entropy only.

    Args:
        config: the run's configuration.
        patches: training patches.
        targets: one pseudo-label map per patch.
        folder: stage folder; gets weights and `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.
        craanet: folder of the trained stage 1, whose encoder is the start if `pfscnet.init` is `craanet`.
        title: shown in progress bars.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    train_pfscnet(
        config,
        patches,
        targets,
        folder,
        side=side,
        title=title,
        craanet=craanet,
        cross_entropy_only=True,
        stage_type=OEEMStage,
    )
