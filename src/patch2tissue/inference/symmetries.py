"""Test-time augmentation by the 8 symmetries of the square."""

from __future__ import annotations

import torch
from torch import Tensor

from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, invert_symmetry
from patch2tissue.inference.tiling import Network


def average_symmetries(network: Network) -> Network:
    """Wrap a network so that it returns the mean over the 8 symmetries of its input, mapped back exactly."""

    def averaged(images: Tensor) -> Tensor:
        total: Tensor | None = None
        for operation in range(SYMMETRIES):
            view = apply_symmetry(images, operation).contiguous(memory_format=torch.channels_last)
            found = invert_symmetry(network(view), operation)
            total = found if total is None else total + found
        assert total is not None
        return total / SYMMETRIES

    return averaged
