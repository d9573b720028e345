"""The contrast of anchors with keys, one tissue after another, with its gradient computed by hand.

Autograd would keep and cross several arrays of anchors × keys. Here, pairs of one tissue's anchors are held in blocks
that fit a CPU's cache, only pairs of one tissue are looked at one by one, and the gradient is made from the same block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

_CPU_PAIRS = 1 << 19
_DEVICE_PAIRS = 1 << 25


class _PixelPairs(torch.autograd.Function):
    """Mean loss over the usable anchors; its gradient is computed with the value and kept."""

    @staticmethod
    def forward(
        ctx: Any,
        anchors: Tensor,
        keys: Tensor,
        anchor_tissue: Tensor,
        anchor_image: Tensor,
        key_tissue: Tensor,
        key_image: Tensor,
        temperature: float,
    ) -> Tensor:
        """See `contrast_pairs`; returns the sum over usable anchors and their number, [2]."""
        # sorted by tissue, so that the pairs of a tissue's anchors with keys of the same tissue are one block
        anchor_order, key_order = anchor_tissue.argsort(stable=True), key_tissue.argsort(stable=True)
        tissues = 1 + max(int(anchor_tissue.max()), int(key_tissue.max()))
        anchor_ends = torch.bincount(anchor_tissue, minlength=tissues).cumsum(0).tolist()
        key_ends = torch.bincount(key_tissue, minlength=tissues).cumsum(0).tolist()
        sorted_keys = keys[key_order] / temperature
        sorted_images = key_image[key_order]
        sorted_gradient = torch.zeros_like(sorted_keys) if ctx.needs_input_grad[1] else None
        gradient = torch.zeros_like(anchors)
        total, usable = anchors.new_zeros(()), 0
        rows = max(16, (_CPU_PAIRS if anchors.device.type == "cpu" else _DEVICE_PAIRS) // max(1, len(keys)))
        for tissue in range(tissues):
            low, high = (key_ends[tissue - 1] if tissue else 0), key_ends[tissue]
            if high == low or high - low == len(keys):  # nothing alike, or nothing unlike
                continue
            for start in range(anchor_ends[tissue - 1] if tissue else 0, anchor_ends[tissue], rows):
                chosen = anchor_order[start : min(start + rows, anchor_ends[tissue])]
                own = anchors[chosen]
                positive = anchor_image[chosen][:, None] != sorted_images[low:high]
                count = positive.sum(dim=1)
                share = (count > 0) / count.clamp(min=1).to(own.dtype)
                pairs = own @ sorted_keys.mT
                alike = pairs[:, low:high].clone()
                pairs[:, low:high] = -torch.inf
                largest = pairs.amax(dim=1, keepdim=True)
                pairs.sub_(largest).exp_()
                mass = pairs.sum(dim=1, keepdim=True)
                above = largest + mass.log() - alike
                total += (F.softplus(above).mul_(positive).sum(dim=1) * share).sum()
                usable += int((count > 0).sum())
                pull = above.sigmoid_().mul_(positive).mul_(share[:, None])
                pairs.mul_(pull.sum(dim=1, keepdim=True) / mass)
                pairs[:, low:high] = -pull
                gradient[chosen] = pairs @ sorted_keys
                if sorted_gradient is not None:
                    sorted_gradient.addmm_(pairs.mT, own)
        key_gradient: Tensor | None = None
        if sorted_gradient is not None:
            key_gradient = torch.empty_like(keys)
            key_gradient[key_order] = sorted_gradient / temperature
        ctx.usable = usable
        ctx.save_for_backward(gradient, key_gradient)
        return total / max(1, usable)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradients that forward kept."""
        gradient, key_gradient = ctx.saved_tensors
        scale = grad / max(1, ctx.usable)
        return gradient * scale, None if key_gradient is None else key_gradient * scale, None, None, None, None, None


def contrast_pairs(
    anchors: Tensor,
    keys: Tensor,
    anchor_tissue: Tensor,
    anchor_image: Tensor,
    key_tissue: Tensor,
    key_image: Tensor,
    temperature: float,
) -> Tensor:
    """Pixel to pixel contrast (see `pixel_contrast`): mean over the anchors that have a positive and a negative key.

    Args:
        anchors: [A, D] float32 or float64.
        keys: [M, D] of the same type.
        anchor_tissue: [A] long.
        anchor_image: [A] long, the image of each anchor; a key of the same tissue and another image is positive.
        key_tissue: [M] long.
        key_image: [M] long.
        temperature: τ.

    Returns:
        Scalar; 0 if no anchor is usable.
    """
    if not len(anchors) or not len(keys):
        return 0.0 * (anchors.sum() + keys.sum())
    loss: Tensor = _PixelPairs.apply(anchors, keys, anchor_tissue, anchor_image, key_tissue, key_image, temperature)
    return loss
