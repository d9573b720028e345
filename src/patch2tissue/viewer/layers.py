"""Deep-zoom tiles of slides and of tissue maps.

Levels are counted as deep zoom does: level n holds the picture at a size of at most 2**n pixels, the last one at full
size, each half as large as the next.
"""

from __future__ import annotations

import io
import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from patch2tissue.errors import DataError
from patch2tissue.slides.map_file import described_map
from patch2tissue.slides.slide import Slide
from patch2tissue.slides.tiled_page import TiledPage

TILE = 256
"""Side of a tile in pixels."""

_QUALITY = 85


def deepest_level(width: int, height: int) -> int:
    """The level of full size."""
    return math.ceil(math.log2(max(width, height, 1)))


def _tile(size: tuple[int, int], level: int, column: int, row: int) -> tuple[int, int, int, int, int]:
    """Of a tile: left, top, width and height at its level, and full-size pixels per pixel.

    Raises:
        IndexError: if there is no such tile.
    """
    deepest = deepest_level(*size)
    if not 0 <= level <= deepest:
        raise IndexError(level)
    factor = 2 ** (deepest - level)
    width, height = -(-size[0] // factor), -(-size[1] // factor)
    left, top = column * TILE, row * TILE
    if column < 0 or row < 0 or left >= width or top >= height:
        raise IndexError((column, row))
    return left, top, min(TILE, width - left), min(TILE, height - top), factor


class SlideLayer:
    """Tiles of a slide as JPEG.

    Args:
        slide: open; read by several threads.
    """

    def __init__(self, slide: Slide) -> None:
        self.slide = slide

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.slide.size

    def tile(self, level: int, column: int, row: int) -> bytes:
        """One tile.

        Raises:
            IndexError: if there is none.
            DataError: if the slide is damaged there.
        """
        left, top, width, height, factor = _tile(self.size, level, column, row)
        source = self.slide.level_for(factor)
        ratio = factor / self.slide.downsamples[source]
        # not beyond the slide's edge, where a pixel of a coarse level reaches: what is there is white
        whole = self.slide.levels[source]
        x, y = (min(round(of * ratio), side - 1) for of, side in zip((left, top), whole, strict=True))
        right, bottom = min(round((left + width) * ratio), whole[0]), min(round((top + height) * ratio), whole[1])
        pixels = self.slide.read(source, x, y, max(1, right - x), max(1, bottom - y))
        picture = Image.fromarray(pixels)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BOX if ratio >= 2 else Image.Resampling.BILINEAR)
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=_QUALITY)
        return content.getvalue()


class MapLayer:
    """Tiles of a tissue map that `slide predict` wrote, as PNG with the tissues' colours; nothing is transparent.

    Args:
        path: the map.

    Attributes:
        names: of the tissues.
        colours: RGB 0..255 of each.
        size: (width, height) in map pixels.
        scale: (sx, sy), pixels of the slide per map pixel.

    Raises:
        DataError: if the file is no such map.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        told = described_map(self.path)
        if told is None:
            raise DataError(f"{path}: is no tissue map that `patch2tissue slide predict` wrote.")
        self.names, self.scale = told
        self._file = tifffile.TiffFile(self.path)
        lock = threading.Lock()
        levels = self._file.series[0].levels
        self._pages = [TiledPage(self._file, level.pages[0], lock) for level in levels]  # type: ignore[arg-type]
        self.size = (self._pages[0].width, self._pages[0].height)
        colormap = (np.asarray(self._file.pages.first.colormap).T // 257).astype(np.uint8)
        self.colours = [tuple(int(value) for value in colour) for colour in colormap[: len(self.names)]]
        self._palette = colormap

    def tile(self, level: int, column: int, row: int, shown: Sequence[bool]) -> bytes:
        """One tile with the tissues that are shown.

        Raises:
            IndexError: if there is none.
            DataError: if the file is damaged there.
        """
        left, top, width, height, factor = _tile(self.size, level, column, row)
        # of the pyramid's levels, each half of the one before, the one of this size or the coarsest
        source = min(int(math.log2(factor)), len(self._pages) - 1)
        page, ratio = self._pages[source], factor // 2**source
        right, bottom = min((left + width) * ratio, page.width), min((top + height) * ratio, page.height)
        try:
            found = page.read(left * ratio, top * ratio, right - left * ratio, bottom - top * ratio)[
                ::ratio, ::ratio, 0
            ]
        except Exception as error:
            raise DataError(f"{self.path}: is damaged ({str(error).rstrip('.')}). Make it again.") from None
        alpha = np.zeros(256, np.uint8)
        alpha[np.flatnonzero(shown[: len(self.names)])] = 255
        # what is not seen is black, too: some ways of drawing add its colour
        palette = np.where(alpha[:, None] > 0, self._palette, 0).astype(np.uint8)
        picture = Image.frombytes("P", (found.shape[1], found.shape[0]), np.ascontiguousarray(found).tobytes())
        picture.putpalette(palette.tobytes())
        content = io.BytesIO()
        picture.save(content, format="PNG", transparency=alpha.tobytes(), compress_level=1)
        return content.getvalue()

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
