"""Test-time augmentation by the 8 symmetries of the square."""

from __future__ import annotations

import torch
from torch import Tensor

from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, invert_symmetry
from patch2tissue.inference.tiling import Network


def average_symmetries(network: Network, upright: Network | None = None) -> Network:
    """Wrap a network so that it returns the mean over the 8 symmetries of its input, mapped back exactly.

    Args:
        network: what is wrapped.
        upright: takes its place for the input as it is, None for the same network.
    """

    def averaged(images: Tensor) -> Tensor:
        total: Tensor | None = None
        for operation in range(SYMMETRIES):
            view = apply_symmetry(images, operation).contiguous(memory_format=torch.channels_last)
            of_view = network if operation or upright is None else upright
            found = invert_symmetry(of_view(view), operation)
            total = found if total is None else total + found
        assert total is not None
        return total / SYMMETRIES

    return averaged
