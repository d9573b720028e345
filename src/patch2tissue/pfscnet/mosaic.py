"""Mosaics: two patches laid into each other along a random smooth line, as one training picture [our reading].

A pseudo label is least sure at an edge, and what a network learns there is blunt. The line of a mosaic is an edge that
is known to the pixel. Where a patch's label names one tissue, every pixel of it is known too, so that two such patches
give a tissue map that is exact everywhere, from patch labels alone. Patches of several tissues bring their pseudo
labels, ignored pixels included; most edges a network then sees are still exact ones.

Composing pictures of known content is old (CutMix, Yun et al., ICCV 2019; mosaics of gland patches in OEEM, Li et al.,
MICCAI 2022 [published]); here the line is irregular, patches of the same tissue are joined too, so that a line alone is
no sign of another tissue, and tissues are put side by side only as some patch's label says that they are.
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
        part: bool [B, S, S], pixels of a mosaic that are from the other patch.
        confidence: [B, S, S] of the targets, None if none was given.
    """

    images: Tensor
    target: Tensor
    labels: Tensor
    inside: Tensor
    changed: Tensor
    part: Tensor
    confidence: Tensor | None = None


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


class LabelSets:
    """How often each combination of tissues occurs among the labels of patches.

    Args:
        labels: [N, K] 0 or 1, labels of all training patches; K at most 62.
    """

    def __init__(self, labels: Tensor) -> None:
        self.codes, self.counts = self._code(labels).unique(return_counts=True)

    @staticmethod
    def _code(labels: Tensor) -> Tensor:
        """Labels [N, K] as numbers whose bits are the tissues, long [N]."""
        return (labels.detach().cpu() > 0).long() @ (1 << torch.arange(labels.shape[1]))

    def of_unions(self, labels: Tensor) -> Tensor:
        """How often the tissues of two patches together are a label: [B, K] → float [B, B], 0 for never.

        >>> LabelSets(torch.tensor([[1, 0], [1, 0], [0, 1]])).of_unions(torch.tensor([[1, 0], [0, 1]]))
        tensor([[2., 0.],
                [0., 1.]])
        """
        codes = self._code(labels)
        unions = codes[:, None] | codes[None]
        counts: Tensor = (unions[..., None] == self.codes) * self.counts
        return counts.sum(dim=-1).float()


@torch.no_grad()
def make_mosaics(
    images: Tensor,
    target: Tensor,
    labels: Tensor,
    inside: Tensor,
    share: float,
    *,
    label_sets: LabelSets | None = None,
    confidence: Tensor | None = None,
) -> Mosaic:
    """Replace patches by mosaics of two of them.

    Args:
        images: float RGB [B, 3, S, S].
        target: long [B, S, S], 0..K-1 or 255.
        labels: [B, K], 1 for each tissue present.
        inside: [B, S, S], 1 (or True) where a pixel belongs to the picture.
        share: chance, in 0..1, that a patch becomes a mosaic with another one of the batch.
        label_sets: join any patches whose tissues together are a label that occurs, drawn as often as it occurs; None:
            join patches of one tissue with such patches, and leave those of several as they are.
        confidence: [B, S, S] of the targets; goes along with its pixels.

    Returns:
        The batch; new tensors, the given ones stay as they are.
    """
    count = len(images)
    tissues = labels.sum(dim=1)
    takes_part = torch.rand(count) < share
    if label_sets is None:
        takes_part &= (tissues == 1).cpu()
        chances = (tissues == 1).cpu().float().expand(count, count).clone()
    else:
        chances = label_sets.of_unions(labels)
    chances.fill_diagonal_(0)
    takes_part &= chances.sum(dim=1) > 0
    own = takes_part.nonzero().flatten()
    part = torch.zeros_like(target, dtype=torch.bool)
    if not len(own):
        return Mosaic(images, target, labels, inside, takes_part.to(images.device), part, confidence)
    other = torch.multinomial(chances[own], 1).flatten().to(images.device)
    own = own.to(images.device)
    stays = smooth_regions(len(own), images.shape[-1], images.device)
    part[own] = ~stays
    exact = torch.where(
        ((tissues == 1)[:, None, None]) & (target != IGNORE_INDEX), labels.argmax(dim=1)[:, None, None], target
    )

    def joined(values: Tensor, stays: Tensor = stays) -> Tensor:
        result = values.clone()
        result[own] = torch.where(stays, values[own], values[other])
        return result

    present = labels.clone()
    present[own] = torch.maximum(labels[own], labels[other])
    return Mosaic(
        joined(images, stays[:, None]),
        torch.where(takes_part.to(images.device)[:, None, None], joined(exact), target),
        present,
        joined(inside),
        takes_part.to(images.device),
        part,
        None if confidence is None else joined(confidence),
    )
