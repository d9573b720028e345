"""The square on which training patches of any size are placed."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from patch2tissue.data.images import image_size
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError

CANVAS_MULTIPLE = 16
"""Canvas sides are multiples of this, so that every encoder gives whole positions at output stride 8 and 16."""


Longest = tuple[int, str]
"""The longest side of some pictures in pixels, and the picture that has it."""


def longest_side(patches: Iterable[Patch]) -> Longest:
    """The longest side, from the pictures' headers; the first picture that has it."""
    longest, name = 0, ""
    for patch in patches:
        side = max(image_size(patch.path))
        if side > longest:
            longest, name = side, str(patch.path)
    return longest, name


def canvas_size(patches: Iterable[Patch], requested: int | None, known: Longest | None = None) -> int:
    """Side of the square that every training patch is placed on, in pixels: a multiple of 16, for whole positions.

    Args:
        patches: patches to train on; smaller ones are padded at the right and bottom.
        requested: `data.patch_size`, or None for the longest side found.
        known: their longest side where it is known already; the pictures are not opened then.

    Raises:
        DataError: if a patch is larger than `requested`.
    """
    longest, name = known or longest_side(patches)
    if requested is None:
        return rounded_side(longest)
    if longest > requested:
        raise DataError(
            f"{name}: {longest} px is larger than data.patch_size = {requested}. Raise data.patch_size, or cut large "
            "images into patches with `patch2tissue patches`."
        )
    return rounded_side(requested)


def rounded_side(longest: int) -> int:
    """Side of the canvas that patches of at most so many pixels need."""
    return -(-longest // CANVAS_MULTIPLE) * CANVAS_MULTIPLE


def place_on_canvas(array: np.ndarray, side: int, fill: int) -> np.ndarray:
    """Pad an image [H, W(, 3)] at the right and bottom to [side, side(, 3)]."""
    height, width = array.shape[:2]
    if (height, width) == (side, side):
        return array
    padding = [(0, side - height), (0, side - width)] + [(0, 0)] * (array.ndim - 2)
    return np.pad(array, padding, constant_values=fill)
