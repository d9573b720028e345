"""A slide at a physical resolution: the best level is chosen, read and resampled."""

from __future__ import annotations

import math

import numpy as np
from PIL import Image

from patch2tissue.slides.resolution import missing_resolution
from patch2tissue.slides.slide import Slide

SNAP = 0.02
"""Largest relative difference from a whole number of level-0 pixels per pixel that is not resampled."""

_MARGIN = 2
"""Pixels that are read around a region, so that its edges are resampled as if it were larger."""

_STRIP_PIXELS = 2**22
"""Pixels of a level that are read at a time for a thumbnail; each takes about ten bytes on its way."""


class ScaledSlide:
    """A slide as one large picture at a resolution.

    Pixel (x, y) covers level-0 pixels [x·sx, (x+1)·sx) × [y·sy, (y+1)·sy). Where the wanted resolution is within 2% of
    a whole number of level-0 pixels (a scan at 0.2525 µm for a model of 0.5 µm, say), pixels are exactly that many:
    resampling by 1.98 would cost sharpness and time for nothing. What a pixel value is does not depend on the region
    in which it is read, but for rounding of at most 2 of 255 where pixels are resampled.

    Args:
        slide: an open slide with a resolution.
        um_per_pixel: the wanted resolution in µm per pixel.

    Attributes:
        scale: (sx, sy), level-0 pixels per pixel.
        um_per_pixel: (x, y) as it is after this rounding.
        size: (width, height) in pixels.
        level: index of the level that is read.

    Raises:
        DataError: if the slide does not tell its resolution.
    """

    def __init__(self, slide: Slide, um_per_pixel: float) -> None:
        if slide.resolution is None:
            raise missing_resolution(slide.path)
        self.slide = slide
        own = (slide.resolution.x, slide.resolution.y)
        self.scale = (_snapped(um_per_pixel / own[0]), _snapped(um_per_pixel / own[1]))
        self.um_per_pixel = (own[0] * self.scale[0], own[1] * self.scale[1])
        width, height = slide.size
        self.size = (max(1, round(width / self.scale[0])), max(1, round(height / self.scale[1])))
        self.level = slide.level_for(min(self.scale))
        factor = slide.downsamples[self.level]
        self._ratio = (_snapped(self.scale[0] / factor, 1e-3), _snapped(self.scale[1] / factor, 1e-3))

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.size[1], self.size[0]

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """A region, uint8 RGB [height, width, 3]; white where the slide has no pixels.

        Args:
            left: in pixels of this resolution, as are the others.
            top: likewise.
            width: likewise.
            height: likewise.

        Raises:
            DataError: if the file turns out to be damaged there.
        """
        rx, ry = self._ratio
        if rx == 1 and ry == 1:
            return self.slide.read(self.level, left, top, width, height)
        if rx.is_integer() and ry.is_integer():
            kx, ky = int(rx), int(ry)
            found = self.slide.read(self.level, left * kx, top * ky, width * kx, height * ky)
            return np.array(Image.fromarray(found).reduce((kx, ky)))
        x0, y0 = math.floor((left - _MARGIN) * rx), math.floor((top - _MARGIN) * ry)
        x1, y1 = math.ceil((left + width + _MARGIN) * rx), math.ceil((top + height + _MARGIN) * ry)
        found = self.slide.read(self.level, x0, y0, x1 - x0, y1 - y0)
        box = (left * rx - x0, top * ry - y0, (left + width) * rx - x0, (top + height) * ry - y0)
        resized = Image.fromarray(found).resize((width, height), Image.Resampling.BILINEAR, box=box)
        return np.array(resized)

    def thumbnail(self) -> np.ndarray:
        """The whole picture at this resolution, uint8 RGB [H, W, 3], read in strips."""
        width, height = self.size
        rows = max(1, _STRIP_PIXELS // max(1, round(width * self._ratio[0] * self._ratio[1])))
        whole = np.empty((height, width, 3), np.uint8)
        for top in range(0, height, rows):
            bottom = min(height, top + rows)
            whole[top:bottom] = self.read(0, top, width, bottom - top)
        return whole


def _snapped(value: float, tolerance: float = SNAP) -> float:
    """The nearest whole number if it is close."""
    nearest = max(1.0, float(round(value)))
    return nearest if abs(value - nearest) <= tolerance * nearest else value
