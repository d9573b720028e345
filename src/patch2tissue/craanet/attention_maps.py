"""From a classifier's scores to attention maps in 0..1 that can be overlaid and compared between tissues."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor, nn

from patch2tissue.craanet.network import CRAANet

MapForm = Literal["softmax", "rectified", "plain"]


def attention_maps(scores: Tensor, labels: Tensor, form: MapForm = "softmax") -> Tensor:
    """Turn scores into maps in 0..1; a tissue that is not in the patch gets zeros.

    Args:
        scores: scores of every tissue at every position, [B, K, h, w], any range.
        labels: 1 for each tissue that is present, [B, K].
        form: `rectified` is `relu(s)` divided by its own maximum (the usual CAM); `plain` is `sigmoid(s)`, which
            keeps the order of tissues at a position; `softmax` is the softmax over the tissues that are present.
            The last two are our reading: scaling every map by its own maximum loses that order (docs/results.md).

    Returns:
        float32 [B, K, h, w] in 0..1.
    """
    scores = scores.float()
    present = (labels > 0.5)[:, :, None, None]
    if form == "rectified":
        rectified = scores.clamp(min=0.0)
        maps = rectified / rectified.amax(dim=(2, 3), keepdim=True).clamp(min=1e-6)
        return maps * present
    if form == "plain":
        return torch.sigmoid(scores) * present
    if form == "softmax":
        masked = scores.masked_fill(~present, -torch.inf)
        # a patch with no tissue at all would give softmax over nothing
        return torch.nan_to_num(torch.softmax(masked, dim=1), nan=0.0)
    raise ValueError(f"unknown form '{form}': use softmax, rectified or plain")


def grad_cam(network: CRAANet, images: Tensor, stage: int = -1) -> Tensor:
    """Grad-CAM scores: features weighed by the mean gradient of each tissue's logit (Selvaraju et al., ICCV 2017).

    The logit is that of the deepest feature map, however many stages give attention.

    Args:
        network: a classifier.
        images: float RGB in 0..1, [B, 3, H, W].
        stage: which feature map of the encoder; -1 is the deepest, and the only one of a vision transformer, whose
            earlier maps are copies that its logits do not come from.

    Returns:
        float32 [B, K, h, w], not rectified; hand it to `attention_maps`.
    """
    was_training = network.training
    network.eval()
    try:
        with torch.enable_grad():
            features = network.encoder(images.detach().clone().requires_grad_())
            chosen = features[stage]
            logits, _ = network.heads(features[-1])
            maps = []
            for tissue in range(logits.shape[1]):
                (gradient,) = torch.autograd.grad(logits[:, tissue].sum(), chosen, retain_graph=True)
                weights = gradient.float().mean(dim=(2, 3), keepdim=True)
                maps.append((weights * chosen.float()).sum(dim=1))
    finally:
        network.train(was_training)
    return torch.stack(maps, dim=1).detach()


def enlarge(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize maps [B, K, h, w] to [B, K, H, W] bilinearly, with pixel centres aligned."""
    return nn.functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)
