"""Mosaics of patches that hold one tissue: edges that are known exactly, from patch labels alone [our reading].

Where a patch's label names one tissue, every pixel is known. Two such patches laid into each other along a random
smooth line give a picture whose tissue map is exact up to the last pixel, the edge included, which no attention map
is. Composing pictures of known content is old (CutMix, Yun et al., ICCV 2019; mosaics of gland patches in OEEM, Li et
al., MICCAI 2022 [published]); here the seam is irregular, and patches of the same tissue are joined too, so that a seam
alone is no sign of another tissue.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.tissues import IGNORE_INDEX

_COARSE = 5  # control points of the smooth line along a side
_SHARES = (0.3, 0.7)  # of a patch that stays its own


class Mosaic(NamedTuple):
    """A batch in which some patches were replaced by mosaics.

    Attributes:
        images: float [B, 3, S, S].
        target: long [B, S, S], exact in a mosaic; 255 where the pixel's own target was 255.
        labels: float [B, K], tissues of each picture now.
        inside: [B, S, S], pixels that belong to the picture.
        changed: bool [B].
    """

    images: Tensor
    target: Tensor
    labels: Tensor
    inside: Tensor
    changed: Tensor


def smooth_regions(count: int, side: int, device: torch.device | str = "cpu") -> Tensor:
    """Random regions with smooth outlines that take 30 to 70% of a square.

    Args:
        count: number of regions n.
        side: S, in pixels.
        device: where the result lives; the draw is made on the CPU.

    Returns:
        bool [n, S, S].
    """
    heights = F.interpolate(torch.randn(count, 1, _COARSE, _COARSE), size=(side, side), mode="bicubic")[:, 0]
    shares = _SHARES[0] + (_SHARES[1] - _SHARES[0]) * torch.rand(count)
    ordered = heights.flatten(1).sort(dim=1).values
    least = ordered.gather(1, (shares * (side * side - 1)).long()[:, None])
    return (heights > least[:, :, None]).to(device)


@torch.no_grad()
def make_mosaics(images: Tensor, target: Tensor, labels: Tensor, inside: Tensor, share: float) -> Mosaic:
    """Replace patches of one tissue by mosaics of two of them.

    Args:
        images: float RGB [B, 3, S, S].
        target: long [B, S, S], 0..K-1 or 255.
        labels: [B, K], 1 for each tissue present.
        inside: [B, S, S], 1 (or True) where a pixel belongs to the picture.
        share: chance, in 0..1, that a patch of one tissue becomes a mosaic with another one of the batch.

    Returns:
        The batch; new tensors, the given ones stay as they are. Patches of several tissues are never touched.
    """
    changed = torch.zeros(len(images), dtype=torch.bool, device=images.device)
    single = (labels.sum(dim=1) == 1).nonzero().flatten()
    if len(single) < 2 or share == 0:
        return Mosaic(images, target, labels, inside, changed)
    partner = single[torch.randperm(len(single)).to(single.device)]
    takes_part = (torch.rand(len(single)).to(single.device) < share) & (partner != single)
    own, other = single[takes_part], partner[takes_part]
    stays = smooth_regions(len(single), images.shape[-1], images.device)[takes_part]
    images, target, labels, inside = images.clone(), target.clone(), labels.clone(), inside.clone()
    exact = torch.where(target == IGNORE_INDEX, IGNORE_INDEX, labels.argmax(dim=1)[:, None, None])
    # everything is read before anything is written: a patch may be a partner and a mosaic at once
    pictures, maps = (
        torch.where(stays[:, None], images[own], images[other]),
        torch.where(stays, exact[own], exact[other]),
    )
    present, within = torch.maximum(labels[own], labels[other]), torch.where(stays, inside[own], inside[other])
    images[own], target[own], labels[own], inside[own] = pictures, maps, present, within
    changed[own] = True
    return Mosaic(images, target, labels, inside, changed)
