"""Deep-zoom tiles of slides, and of tissues laid over them.

Levels are counted as deep zoom does: level n holds the picture at a size of at most 2**n pixels, the last one at full
size, each half as large as the next.
"""

from __future__ import annotations

import io
import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache

import numpy as np
from PIL import Image

from patch2tissue.slides.slide import Slide

TILE = 256
"""Side of a tile in pixels."""

THUMBNAIL_LEVEL = int(math.log2(TILE))
"""At this level the whole picture is one tile."""

_QUALITY = 85


def deepest_level(width: int, height: int) -> int:
    """The level of full size."""
    return math.ceil(math.log2(max(width, height, 1)))


@dataclass(frozen=True)
class Box:
    """Where a tile lies: left, top, width and height in pixels of its level, and full-size pixels per such pixel."""

    left: int
    top: int
    width: int
    height: int
    factor: int


def tile_box(size: tuple[int, int], level: int, column: int, row: int) -> Box:
    """The place of a tile of a picture of a size (width, height).

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
    return Box(left, top, min(TILE, width - left), min(TILE, height - top), factor)


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
        box = tile_box(self.size, level, column, row)
        width, height = box.width, box.height
        source = self.slide.level_for(box.factor)
        ratio = box.factor / self.slide.downsamples[source]
        # not beyond the slide's edge, where a pixel of a coarse level reaches: what is there is white
        whole = self.slide.levels[source]
        x, y = (min(round(of * ratio), side - 1) for of, side in zip((box.left, box.top), whole, strict=True))
        right, bottom = (
            min(round((of + length) * ratio), side)
            for of, length, side in zip((box.left, box.top), (width, height), whole, strict=True)
        )
        pixels = self.slide.read(source, x, y, max(1, right - x), max(1, bottom - y))
        picture = Image.fromarray(pixels)
        if picture.size != (width, height):
            picture = picture.resize((width, height), Image.Resampling.BOX if ratio >= 2 else Image.Resampling.BILINEAR)
        content = io.BytesIO()
        picture.save(content, format="JPEG", quality=_QUALITY)
        return content.getvalue()


@dataclass(frozen=True)
class Look:
    """What is drawn of a layer.

    Attributes:
        shown: whether each tissue is shown; those that are not named are.
        heat: the tissue whose probability is drawn in colours of heat instead of tissues; None: tissues.
        epoch: of training, counted from 0, for layers that have epochs; None: the last.
    """

    shown: tuple[bool, ...] = ()
    heat: int | None = None
    epoch: int | None = None


class TissueLayer(ABC):
    """Tissues of a slide or a patch, drawn as PNG tiles. May be used by several threads.

    Attributes:
        names: of the tissues.
        colours: RGB 0..255 of each.
        size: (width, height) in pixels of the layer.
        scale: (sx, sy), pixels of what lies below per pixel of the layer.
        epochs: number of epochs of training to choose from; 0 if there is no choice.
        has_heat: whether there are probabilities.
    """

    names: tuple[str, ...]
    colours: tuple[tuple[int, int, int], ...]
    size: tuple[int, int]
    scale: tuple[float, float] = (1.0, 1.0)
    epochs: int = 0
    has_heat: bool = False

    def tile(self, level: int, column: int, row: int, look: Look) -> bytes:
        """One tile.

        Raises:
            IndexError: if there is none, or no such tissue or epoch.
            DataError: if the file is damaged there.
        """
        box = tile_box(self.size, level, column, row)
        if look.epoch is not None and not 0 <= look.epoch < max(1, self.epochs):
            raise IndexError(look.epoch)
        if look.heat is not None:
            if not self.has_heat or not 0 <= look.heat < len(self.names):
                raise IndexError(look.heat)
            return _png(self.probabilities(box, look.heat, look.epoch), *_heat_palette())
        shown = look.shown[: len(self.names)] + (True,) * (len(self.names) - len(look.shown))
        palette, alpha = np.zeros((256, 3), np.uint8), np.zeros(256, np.uint8)
        for index in np.flatnonzero(shown):
            # what is not seen is black, too: some ways of drawing add its colour
            palette[index], alpha[index] = self.colours[index], 255
        return _png(self.classes(box, look.epoch), palette, alpha)

    @abstractmethod
    def classes(self, box: Box, epoch: int | None) -> np.ndarray:
        """Tissue indices in a box, uint8 [height, width]; larger than any index where there is none."""

    @abstractmethod
    def probabilities(self, box: Box, tissue: int, epoch: int | None) -> np.ndarray:
        """Probabilities of a tissue in a box, uint8 [height, width] in 1/255."""

    @abstractmethod
    def shares(self, epoch: int | None) -> list[dict[str, float]]:
        """Of each tissue `share`, 0..1 of all tissue, and `area_mm2` where it is known; empty if nothing is known.

        Raises:
            DataError: if a file is damaged.
        """

    def close(self) -> None:
        """Let go of files."""


def heat_colours() -> np.ndarray:
    """Colours of the probabilities 0, 1/255, … 1: RGB uint8 [256, 3]; apart from those of H&E, and lighter is more."""
    return _heat_palette()[0]


@cache
def _heat_palette() -> tuple[np.ndarray, np.ndarray]:
    from matplotlib import colormaps

    colours = np.asarray(colormaps["viridis"](np.arange(256), bytes=True))[:, :3].astype(np.uint8)
    # what is next to impossible lets the tissue below be seen
    alpha = np.clip(np.arange(256) * 4, 0, 255).astype(np.uint8)
    return colours, alpha


def _png(indices: np.ndarray, palette: np.ndarray, alpha: np.ndarray) -> bytes:
    picture = Image.frombytes("P", (indices.shape[1], indices.shape[0]), np.ascontiguousarray(indices).tobytes())
    picture.putpalette(palette.tobytes())
    content = io.BytesIO()
    picture.save(content, format="PNG", transparency=alpha.tobytes(), compress_level=1)
    return content.getvalue()
