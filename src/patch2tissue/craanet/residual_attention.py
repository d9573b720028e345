"""Class residual attention (CSRA): average pooling plus an attention term per tissue.

Published: Zhu & Wu, Residual Attention: A Simple but Effective Method for Multi-Label Recognition, ICCV 2021.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HEAD_TEMPERATURES: dict[int, tuple[float, ...]] = {
    1: (1.0,),
    2: (1.0, math.inf),
    4: (1.0, 2.0, 4.0, math.inf),
    6: (1.0, 2.0, 3.0, 4.0, 5.0, math.inf),
    8: (1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, math.inf),
}
"""Temperatures of the published numbers of heads; infinity is the maximum over positions."""


def position_scores(features: Tensor, weight: Tensor) -> Tensor:
    """Score of every tissue at every position: `s_k(j) = m_k · x_j / ‖m_k‖` (published).

    Args:
        features: [B, D, h, w].
        weight: classifier rows m, [K, D].

    Returns:
        float [B, K, h, w].
    """
    return F.conv2d(features, F.normalize(weight, dim=1)[:, :, None, None])


def residual_attention(scores: Tensor, temperature: float, residual_weight: float) -> Tensor:
    """Image-level logits of one head: `mean_j s + λ · Σ_j softmax_j(T·s)·s` (published).

    Args:
        scores: [B, K, h, w].
        temperature: T > 0; infinity takes the maximum over positions.
        residual_weight: λ; 0 leaves average pooling.

    Returns:
        Logits [B, K].
    """
    flat = scores.flatten(2)
    base = flat.mean(dim=2)
    if residual_weight == 0:
        return base
    if math.isinf(temperature):
        attended = flat.amax(dim=2)
    else:
        attended = (torch.softmax(temperature * flat, dim=2) * flat).sum(dim=2)
    return base + residual_weight * attended


class ResidualAttentionHeads(nn.Module):
    """Residual attention heads, each with its own classifier and temperature; their logits add up.

    Args:
        channels: feature channels D.
        tissues: number of tissues K.
        temperatures: one temperature per head.
        residual_weight: λ of every head.

    Raises:
        ValueError: if there is no head or a temperature is not positive.
    """

    def __init__(self, channels: int, tissues: int, temperatures: Sequence[float], residual_weight: float) -> None:
        super().__init__()
        if not temperatures or any(not t > 0 for t in temperatures):
            raise ValueError(f"temperatures must be positive and at least one, not {list(temperatures)}")
        self.temperatures = tuple(float(t) for t in temperatures)
        self.residual_weight = residual_weight
        self.classifiers = nn.ModuleList(nn.Conv2d(channels, tissues, 1, bias=False) for _ in self.temperatures)

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Return logits [B, K] (sum over heads) and scores [B, K, h, w] (mean over heads), in float32."""
        logits: list[Tensor] = []
        scores: list[Tensor] = []
        # float32: softmax and maximum over positions decide which position learns
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            for classifier, temperature in zip(self.classifiers, self.temperatures, strict=True):
                head_scores = position_scores(features, cast(nn.Conv2d, classifier).weight.flatten(1))
                scores.append(head_scores)
                logits.append(residual_attention(head_scores, temperature, self.residual_weight))
            return torch.stack(logits).sum(dim=0), torch.stack(scores).mean(dim=0)
