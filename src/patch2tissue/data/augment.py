"""Augmentation of training patches: the 8 symmetries of the square, exactly invertible, and stain and brightness.

The symmetries move whole pixels and whole positions of an attention map, so that a map computed on an augmented
patch is mapped back onto the patch's own grid without any interpolation.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from skimage.color.colorconv import hed_from_rgb, rgb_from_hed
from torch import Tensor

SYMMETRIES = 8
"""Number of symmetries of the square; operation 0 is the identity."""


def apply_symmetry(x: Tensor, operation: int) -> Tensor:
    """Apply one symmetry of the square to the last two dimensions.

    Args:
        x: tensor [..., H, W] of any dtype.
        operation: 0..7; `operation % 4` quarter turns, then a left-right flip if it is 4 or more.

    Returns:
        Tensor [..., H, W], or [..., W, H] after an odd number of quarter turns.

    Raises:
        ValueError: if `operation` is not in 0..7.
    """
    _check(operation)
    x = torch.rot90(x, operation % 4, dims=(-2, -1))
    return x.flip(-1) if operation >= 4 else x


def invert_symmetry(x: Tensor, operation: int) -> Tensor:
    """Undo `apply_symmetry` exactly: `invert_symmetry(apply_symmetry(x, o), o)` equals `x`."""
    _check(operation)
    if operation >= 4:
        x = x.flip(-1)
    return torch.rot90(x, -(operation % 4), dims=(-2, -1))


def invert_symmetries(x: Tensor, operations: Tensor) -> Tensor:
    """Undo one symmetry per sample.

    Args:
        x: tensor [B, ..., S, S]; square, since a batch mixes quarter turns.
        operations: integers [B] in 0..7.
    """
    result = torch.empty_like(x)
    for operation in torch.unique(operations).tolist():
        rows = operations == operation
        result[rows] = invert_symmetry(x[rows], int(operation))
    return result


def _check(operation: int) -> None:
    if not 0 <= operation < SYMMETRIES:
        raise ValueError(f"operation must be in 0..7, not {operation}")


@dataclass(frozen=True)
class StainShift:
    """An affine change of optical density, the same for every pixel of a patch.

    Attributes:
        matrix: float32 [3, 3]; optical density (row vector, RGB) is multiplied by it.
        offset: float32 [3]; then this is added.
    """

    matrix: np.ndarray
    offset: np.ndarray


def random_stain_shift(rng: np.random.Generator, stain: float, brightness: float) -> StainShift:
    """Draw a stain and brightness change.

    Haematoxylin, eosin and residual concentrations are each scaled by 1 + U(-stain, stain)·2 and shifted by
    U(-stain, stain)/4 in optical density (colour deconvolution of Ruifrok & Johnston; jitter after Tellez et al. 2018);
    brightness scales the transmitted light by 1 + U(-brightness, brightness).
    """
    scale = 1.0 + 2.0 * rng.uniform(-stain, stain, size=3)
    shift = 0.25 * rng.uniform(-stain, stain, size=3)
    light = -np.log(1.0 + rng.uniform(-brightness, brightness))
    # rows of rgb_from_hed are the stains' optical densities; hed_from_rgb is its inverse
    matrix = hed_from_rgb @ np.diag(scale) @ rgb_from_hed
    offset = shift @ rgb_from_hed + light
    return StainShift(matrix.astype(np.float32), offset.astype(np.float32))


def shift_stain(images: Tensor, matrix: Tensor, offset: Tensor) -> Tensor:
    """Apply one stain shift per image.

    Args:
        images: float RGB in 0..1, [B, 3, H, W].
        matrix: [B, 3, 3], see `StainShift`.
        offset: [B, 3].

    Returns:
        float RGB in 0..1, [B, 3, H, W].
    """
    density = -images.clamp(min=1.0 / 255.0).log()
    shifted = torch.einsum("bchw,bcd->bdhw", density, matrix) + offset[:, :, None, None]
    return torch.exp(-shifted).clamp(0.0, 1.0)
