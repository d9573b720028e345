"""VICReg: views of a patch get like embeddings, while embeddings vary and their dimensions do not repeat each other.

Published: Bardes, Ponce & LeCun, ICLR 2022. Needs no negatives and no large batches, which suits a CPU.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.gaussian_kernel import at_least_float32, full_precision


class VICRegLoss(NamedTuple):
    """The loss and its three parts, scalars.

    Attributes:
        loss: the weighted sum.
        invariance: mean squared difference of the two views' embeddings.
        variance: mean over dimensions of how far the standard deviation is below 1, mean over the views.
        covariance: sum of squared covariances of different dimensions over their number, sum over the views.
    """

    loss: Tensor
    invariance: Tensor
    variance: Tensor
    covariance: Tensor


def vicreg_loss(
    one: Tensor,
    other: Tensor,
    *,
    invariance: float = 25.0,
    variance: float = 25.0,
    covariance: float = 1.0,
) -> VICRegLoss:
    """VICReg of two views; weights are those published.

    As in its authors' code, and unlike in the paper's formula, the invariance is a mean over dimensions and not a sum,
    and the variance a mean over the two views.

    Args:
        one: [B, D] embeddings of a view of each of B ≥ 2 patches.
        other: [B, D] of another view of the same patches.
        invariance: weight λ of the paper.
        variance: weight μ.
        covariance: weight ν.

    Raises:
        ValueError: for shapes that differ, or a single patch.

    >>> collapsed = torch.zeros(4, 3)
    >>> round(vicreg_loss(collapsed, collapsed).variance.item(), 2)
    0.99
    """
    if one.shape != other.shape or one.ndim != 2 or len(one) < 2:
        shapes = f"{list(one.shape)} and {list(other.shape)}"
        raise ValueError(f"views must both be [B, D] with B of 2 or more, got {shapes}")
    with full_precision(one.device):  # autocast would take products of small numbers in bfloat16
        one, other = at_least_float32(one), at_least_float32(other)
        alike = F.mse_loss(one, other)
        spread = (_missing_spread(one) + _missing_spread(other)) / 2
        repeated = _repetition(one) + _repetition(other)
    return VICRegLoss(invariance * alike + variance * spread + covariance * repeated, alike, spread, repeated)


def _missing_spread(embedding: Tensor) -> Tensor:
    deviation = torch.sqrt(embedding.var(dim=0) + 1e-4)  # the root's slope at 0 must be finite
    return F.relu(1.0 - deviation).mean()


def _repetition(embedding: Tensor) -> Tensor:
    centred = embedding - embedding.mean(dim=0)
    covariance = centred.mT @ centred / (len(embedding) - 1)
    total = covariance.square().sum() - covariance.diagonal().square().sum()
    return total / embedding.shape[1]
