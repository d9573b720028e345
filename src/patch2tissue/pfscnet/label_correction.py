"""Correction of wrong pseudo labels by the prototypes [our reading].

A pseudo label is taken for wrong where it has little confidence and the pixel's embedding lies nearer, by a margin, to
the prototype of another tissue that the patch's label says is present.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.gaussian_kernel import full_precision
from patch2tissue.pfscnet.prototypes import TissuePrototypes
from patch2tissue.tissues import IGNORE_INDEX


@torch.no_grad()
def correct_labels(
    labels: Tensor,
    confidence: Tensor,
    embedding: Tensor,
    prototypes: TissuePrototypes,
    present: Tensor,
    *,
    mode: Literal["relabel", "ignore"] = "relabel",
    margin: float = 0.2,
    confidence_below: float = 0.5,
    fill: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Relabel or ignore pixels whose pseudo label the prototypes contradict, and label ignored ones if asked.

    Args:
        labels: [B, H, W] integer pseudo labels, 0..K-1 or 255 (stays 255).
        confidence: [B, H, W] in 0..1, confidence of the pseudo labels.
        embedding: [B, D, h, w] L2-normalised; similarities are upsampled bilinearly to H×W.
        prototypes: tissues that have no prototype yet neither lose nor gain pixels.
        present: [B, K], 1 for the tissues that the image-level label names.
        mode: give the pixel the nearest tissue, or 255.
        margin: least lead of the nearest tissue over the label's own, in cosine.
        confidence_below: only labels with less confidence are touched.
        fill: [B, H, W] bool, ignored pixels (255) that get the nearest present tissue where it leads the second
            nearest by the margin; None for none. With one tissue present there is no second, and all are filled.

    Returns:
        The new labels (a copy, same dtype) and the mask [B, H, W] (bool) of changed pixels.

    Raises:
        ValueError: for shapes that do not fit together or an unknown mode.
    """
    tissues, _, dimensions = prototypes.vectors.shape
    if mode not in ("relabel", "ignore"):
        raise ValueError(f"mode must be 'relabel' or 'ignore', got {mode!r}")
    if labels.ndim != 3 or labels.shape != confidence.shape:
        raise ValueError(
            f"labels and confidence must both be [B, H, W], got {list(labels.shape)} and {list(confidence.shape)}"
        )
    if embedding.ndim != 4 or embedding.shape[:2] != (labels.shape[0], dimensions):
        raise ValueError(f"embedding must be [{labels.shape[0]}, {dimensions}, h, w], got {list(embedding.shape)}")
    if list(present.shape) != [labels.shape[0], tissues]:
        raise ValueError(f"present must be {[labels.shape[0], tissues]}, got {list(present.shape)}")
    with full_precision(embedding.device):
        pixels = embedding.to(prototypes.vectors.dtype).movedim(1, -1)
        similarity = prototypes.similarity(pixels.flatten(0, 2)).amax(dim=2)
        similarity = similarity.reshape(*pixels.shape[:3], tissues).movedim(-1, 1)
        similarity = F.interpolate(similarity, size=labels.shape[1:], mode="bilinear", align_corners=False)
    labelled = labels != IGNORE_INDEX
    own_tissue = torch.where(labelled, labels.long(), 0)
    own = similarity.gather(1, own_tissue[:, None])[:, 0]
    possible = (present > 0).to(labels.device) & prototypes.initialised
    best, nearest = similarity.masked_fill(~possible[:, :, None, None], -torch.inf).max(dim=1)
    changed = (
        labelled
        & prototypes.initialised[own_tissue]
        & (nearest != own_tissue)
        & (best - own >= margin)
        & (confidence < confidence_below)
    )
    replacement = nearest if mode == "relabel" else torch.full_like(nearest, IGNORE_INDEX)
    result = torch.where(changed, replacement.to(labels.dtype), labels)
    if fill is not None:
        leads = _lead(similarity.masked_fill(~possible[:, :, None, None], -torch.inf)) >= margin
        filled = ~labelled & fill.to(labels.device) & leads
        result, changed = torch.where(filled, nearest.to(labels.dtype), result), changed | filled
    return result, changed


def _lead(similarity: Tensor) -> Tensor:
    """Lead of the best over the second of K values [B, K, H, W]; infinite over an absent one, -inf if all are."""
    if similarity.shape[1] == 1:
        return torch.where(similarity[:, 0].isinf(), -torch.inf, torch.inf)
    best, second = similarity.topk(2, dim=1).values.unbind(1)
    return torch.where(best.isinf(), -torch.inf, best - second)
