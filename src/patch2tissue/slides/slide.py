"""What a slide is to the rest of the program, whatever library reads it."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from patch2tissue.slides.resolution import Resolution

logger = logging.getLogger(__name__)

WHITE = 255
_ODD, _ODD_PIXELS = 1.1, 64


def slide_name(path: Path) -> str:
    """A slide's file name without its extension, which for OME-TIFF has two parts."""
    for ending in (".ome.tiff", ".ome.tif"):
        if path.name.lower().endswith(ending):
            return path.name[: -len(ending)]
    return path.stem


def warn_of_odd_levels(path: Path, sizes: Sequence[tuple[int, int]]) -> None:
    """Warn if a level has another shape than the full size: what is read from it lies elsewhere than it seems.

    Args:
        path: the slide.
        sizes: (width, height) of each level as the file states them. Some formats fill up the last tile, so that small
            differences mean nothing.
    """
    width, height = sizes[0]
    for number, (wide, tall) in enumerate(sizes[1:], start=1):
        across, down = width / wide, height / tall
        apart = min(abs(wide - width / down), abs(tall - height / across))
        if max(across, down) > _ODD * min(across, down) and apart > _ODD_PIXELS:
            logger.warning(
                "%s: level %d has %d × %d pixels, which is not the shape of its full size (%d × %d). Look at the "
                "result, and export the slide again if that is off.",
                *(path, number, wide, tall, width, height),
            )


class Slide(ABC):
    """A picture of several levels.

    Pixels are counted from the left upper corner of the scanned area: formats of which only a part is scanned (MRXS)
    leave out the rest, as QuPath does.

    Attributes:
        path: the file.
        levels: (width, height) of each level in its own pixels, from the finest on.
        downsamples: level-0 pixels per pixel of each level.
        origin: left upper corner of the scanned area in the file's own level-0 pixels; (0, 0) for most formats.
        resolution: µm per pixel of level 0, None if the file does not tell.
        reader: name and version of the library.
    """

    path: Path
    levels: tuple[tuple[int, int], ...]
    downsamples: tuple[float, ...]
    origin: tuple[int, int] = (0, 0)
    resolution: Resolution | None = None
    reader: str = ""

    @property
    def name(self) -> str:
        """The file's name without its extension; results are named after it."""
        return slide_name(self.path)

    def level_for(self, downsample: float) -> int:
        """The coarsest level that is as fine as so many level-0 pixels per pixel, to a thousandth; else the finest."""
        return max((k for k, factor in enumerate(self.downsamples) if factor <= downsample * 1.001), default=0)

    @property
    def size(self) -> tuple[int, int]:
        """(width, height) in level-0 pixels."""
        return self.levels[0]

    def read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """Pixels of one level, uint8 RGB [height, width, 3]; white where the slide has none.

        Args:
            level: index of the level.
            left: of the region, in pixels of that level; may be negative.
            top: likewise.
            width: of the region, in pixels of that level.
            height: likewise.

        Raises:
            DataError: if the file turns out to be damaged there.
        """
        whole_width, whole_height = self.levels[level]
        x0, y0 = max(0, left), max(0, top)
        x1, y1 = min(whole_width, left + width), min(whole_height, top + height)
        if x0 >= x1 or y0 >= y1:
            return np.full((height, width, 3), WHITE, np.uint8)
        found = self._read(level, x0, y0, x1 - x0, y1 - y0)
        if (x1 - x0, y1 - y0) == (width, height):
            return found
        padded = np.full((height, width, 3), WHITE, np.uint8)
        padded[y0 - top : y1 - top, x0 - left : x1 - left] = found
        return padded

    @abstractmethod
    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        """As `read`, for a region inside the level."""

    def close(self) -> None:
        """Let go of the file."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
