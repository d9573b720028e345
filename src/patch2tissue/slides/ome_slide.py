"""OME-TIFF pyramids through tifffile: OpenSlide sees only their finest level."""

from __future__ import annotations

import math
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import tifffile

from patch2tissue.errors import DataError
from patch2tissue.slides.resolution import Resolution, resolution_of
from patch2tissue.slides.slide import Slide

_UM_PER = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "Å": 1e-4, "in": 25_400.0}
_LARGEST_PIECE = 2**26
"""Most pixels of one stored tile or strip; a larger one cannot be read in parts."""


def is_ome_tiff(path: Path) -> bool:
    """Whether a file is a TIFF with an OME description."""
    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.is_ome)
    except (tifffile.TiffFileError, OSError, ValueError, IndexError):
        return False


class OmeSlide(Slide):
    """An 8-bit RGB OME-TIFF of one series with its SubIFD levels.

    Raises:
        DataError: if it is damaged, or no RGB picture.
    """

    reader = f"tifffile {tifffile.__version__}"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._file = tifffile.TiffFile(path)
            series = max(self._file.series, key=lambda one: math.prod(one.shape))
            self._pages = [level.keyframe for level in series.levels]
            description = self._file.ome_metadata or ""
        except Exception as error:
            raise _damaged(self.path, error) from None
        first = self._pages[0]
        if first.dtype != np.uint8 or first.samplesperpixel not in (3, 4) or first.planarconfig != 1:
            self._file.close()
            raise DataError(
                f"{path}: is no 8-bit RGB picture (its pixels are {first.samplesperpixel} × {first.dtype}). Export the "
                "slide as RGB."
            )
        if math.prod(first.chunks) > _LARGEST_PIECE * first.samplesperpixel:
            self._file.close()
            raise DataError(f"{path}: is stored in one piece, not in tiles. Save it as a tiled pyramid.")
        self.levels = tuple((int(page.imagewidth), int(page.imagelength)) for page in self._pages)
        self.downsamples = tuple(self.levels[0][0] / width for width, _ in self.levels)
        self.resolution = _physical_size(description) or resolution_of(self.path, resolution_tags(first))
        self._lock = threading.Lock()

    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        page = self._pages[level]
        tall, wide = page.chunks[0], page.chunks[1]
        across = -(-page.imagewidth // wide)
        found = np.full((height, width, 3), 255, np.uint8)
        for row in range(top // tall, -(-(top + height) // tall)):
            for column in range(left // wide, -(-(left + width) // wide)):
                piece = self._piece(page, row * across + column)
                if piece is None:
                    continue
                y, x = row * tall, column * wide
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + piece.shape[0], top + height), min(x + piece.shape[1], left + width)
                found[y0 - top : y1 - top, x0 - left : x1 - left] = piece[y0 - y : y1 - y, x0 - x : x1 - x, :3]
        return found

    def _piece(self, page: tifffile.TiffPage, index: int) -> np.ndarray | None:
        """One stored tile or strip [h, w, samples], None if it is empty."""
        offset, count = page.dataoffsets[index], page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            self._file.filehandle.seek(offset)
            content = self._file.filehandle.read(count)
        try:
            piece, _, _ = page.decode(content, index, jpegtables=page.jpegtables)
        except Exception as error:
            raise _damaged(self.path, error) from None
        return None if piece is None else np.asarray(piece)[0]

    def close(self) -> None:
        """See `Slide.close`."""
        self._file.close()


def _physical_size(description: str) -> Resolution | None:
    try:
        root = ElementTree.fromstring(description)
    except ElementTree.ParseError:
        return None
    for element in root.iter():
        if not element.tag.endswith("Pixels"):
            continue
        sizes = []
        for axis in "XY":
            unit = _UM_PER.get(element.get(f"PhysicalSize{axis}Unit", "µm"))
            try:
                value = float(element.get(f"PhysicalSize{axis}", "nan"))
            except ValueError:
                return None
            if unit is None or not math.isfinite(value) or value <= 0:
                return None
            sizes.append(value * unit)
        return Resolution(sizes[0], sizes[1], "OME metadata")
    return None


def resolution_tags(page: tifffile.TiffPage) -> dict[str, str]:
    """Resolution tags of a TIFF page under the names that OpenSlide gives them."""
    found = {}
    for name in ("XResolution", "YResolution"):
        tag = page.tags.get(name)
        if tag is not None and tag.value[1]:
            found[f"tiff.{name}"] = str(tag.value[0] / tag.value[1])
    unit = page.tags.get("ResolutionUnit")
    if unit is not None:
        found["tiff.ResolutionUnit"] = str(int(unit.value))
    return found


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(f"{path}: cannot be read as an OME-TIFF ({reason}). It is damaged or cut short; copy it again.")
