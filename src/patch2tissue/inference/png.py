"""PNG files written fast: what a person looks at once need not be the smallest file there could be."""

from __future__ import annotations

from pathlib import Path

import imagecodecs
import numpy as np

from patch2tissue.atomic import write_bytes


def write_png(path: Path, pixels: np.ndarray) -> None:
    """Write a picture as PNG, atomically.

    With imagecodecs, since it lets other threads work meanwhile, which Pillow does not, and takes one filter instead of
    trying all; at zlib's level 1, which takes a fifth of the time of level 6 for files a tenth larger.

    Args:
        path: the file.
        pixels: uint8, grey [H, W] or RGB [H, W, 3].
    """
    filters = imagecodecs.PNG.FILTER
    # of greys that change slowly the row above tells most; of tissue the mean course of three neighbours
    chosen = filters.UP if pixels.ndim == 2 else filters.PAETH
    write_bytes(path, bytes(imagecodecs.png_encode(np.ascontiguousarray(pixels), level=1, filter=chosen)))
