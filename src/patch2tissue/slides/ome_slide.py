"""OME-TIFF pyramids through tifffile: OpenSlide sees only their finest level."""

from __future__ import annotations

import math
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import tifffile

from patch2tissue.errors import DataError
from patch2tissue.slides.resolution import Resolution, checked, resolution_of
from patch2tissue.slides.slide import Slide, warn_of_odd_levels
from patch2tissue.slides.tiled_page import TiledPage

_UM_PER = {"m": 1e6, "cm": 1e4, "mm": 1e3, "µm": 1.0, "μm": 1.0, "um": 1.0, "nm": 1e-3, "Å": 1e-4, "in": 25_400.0}


def is_ome_tiff(path: Path) -> bool:
    """Whether a file is a TIFF with an OME description."""
    try:
        with tifffile.TiffFile(path) as file:
            return bool(file.is_ome)
    except Exception:  # tifffile raises every kind on damaged files
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
            pages = [level.keyframe for level in series.levels]
            description = self._file.ome_metadata or ""
        except Exception as error:
            raise _damaged(self.path, error) from None
        first, lock = pages[0], threading.Lock()
        if first.samplesperpixel not in (3, 4):
            self._file.close()
            raise DataError(f"{path}: is no RGB picture ({first.samplesperpixel} channels). Export the slide as RGB.")
        try:
            self._pages = [TiledPage(self._file, page, lock) for page in pages]
        except ValueError as error:
            self._file.close()
            raise DataError(f"{path}: cannot be read as a slide: {error}. Export it as 8-bit RGB in tiles.") from None
        try:
            self.levels = tuple((page.width, page.height) for page in self._pages)
            self.downsamples = tuple(self.levels[0][0] / width for width, _ in self.levels)
            warn_of_odd_levels(self.path, self.levels)
            stated = _physical_size(description)
            self.resolution = (
                resolution_of(path, resolution_tags(first)) if stated is None else checked(self.path, stated)
            )
        except DataError:
            self._file.close()
            raise
        except Exception as error:
            self._file.close()
            raise _damaged(self.path, error) from None

    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        try:
            return self._pages[level].read(left, top, width, height)[..., :3]
        except Exception as error:
            raise _damaged(self.path, error) from None

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
