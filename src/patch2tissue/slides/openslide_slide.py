"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, BIF, generic tiled TIFF, DICOM and what else it reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import openslide
from PIL import Image

from patch2tissue.errors import DataError
from patch2tissue.slides.resolution import resolution_of
from patch2tissue.slides.slide import Slide, warn_of_odd_levels


def openslide_reads(path: Path) -> bool:
    """Whether OpenSlide knows the file's format."""
    return openslide.OpenSlide.detect_format(str(path)) is not None


class OpenSlideSlide(Slide):
    """A slide that OpenSlide reads.

    Args:
        path: the file; of a slide in many files the one that names it.

    Raises:
        DataError: if it is damaged.
    """

    reader = f"OpenSlide {openslide.__library_version__}"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        try:
            self._handle = openslide.OpenSlide(str(path))
            properties = dict(self._handle.properties)
            sizes, downsamples = self._handle.level_dimensions, self._handle.level_downsamples
        except openslide.OpenSlideError as error:
            raise _damaged(self.path, error) from None
        width, height = sizes[0]
        left, top = (_whole(properties.get(f"openslide.bounds-{axis}"), 0) for axis in "xy")
        self.origin = (left, top)
        scanned = (
            min(_whole(properties.get("openslide.bounds-width"), width), width - left),
            min(_whole(properties.get("openslide.bounds-height"), height), height - top),
        )
        if min(*scanned, left + 1, top + 1) < 1:
            raise DataError(f"{path}: states a scanned area outside its picture. The file is damaged; copy it again.")
        warn_of_odd_levels(self.path, sizes)
        self.downsamples = tuple(float(value) for value in downsamples)
        self.levels = tuple(
            (max(1, int(scanned[0] / factor)), max(1, int(scanned[1] / factor))) for factor in self.downsamples
        )
        self.resolution = resolution_of(self.path, properties)
        self._background = f"#{properties.get('openslide.background-color', 'FFFFFF')}"

    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        factor = self.downsamples[level]
        location = (self.origin[0] + round(left * factor), self.origin[1] + round(top * factor))
        try:
            found = self._handle.read_region(location, level, (width, height))
        except openslide.OpenSlideError as error:
            raise _damaged(self.path, error) from None
        if found.getchannel("A").getextrema() == (255, 255):
            return np.array(found.convert("RGB"))
        # what was not scanned is transparent
        laid = Image.new("RGBA", found.size, self._background)
        laid.alpha_composite(found)
        return np.array(laid.convert("RGB"))

    def close(self) -> None:
        """See `Slide.close`."""
        self._handle.close()


def _whole(text: str | None, otherwise: int) -> int:
    try:
        return int(text) if text is not None else otherwise
    except ValueError:
        return otherwise


def _damaged(path: Path, error: Exception) -> DataError:
    reason = str(error).splitlines()[0].rstrip(".") if str(error) else type(error).__name__
    return DataError(f"{path}: cannot be read as a slide ({reason}). It is damaged or cut short; copy it again.")
