"""Reading tissue maps and masks of whole slides back, a few rows at a time."""

from __future__ import annotations

import json
import math
import threading
import xml.etree.ElementTree as ElementTree
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile

from patch2tissue.data.images import check_mask_values
from patch2tissue.data.mask_values import from_colors, from_palette
from patch2tissue.errors import DataError
from patch2tissue.plain_files import reason
from patch2tissue.slides.ome_slide import resolution_tags
from patch2tissue.slides.pyramid import MAP_NAMESPACE
from patch2tissue.slides.resolution import resolution_of
from patch2tissue.slides.tiled_page import TiledPage
from patch2tissue.tissues import IGNORE_INDEX, TissueSet


class MapFile:
    """A TIFF of tissue indices as `Rows`: a map that `slide predict` wrote, or anyone's mask of a slide.

    Args:
        path: the file; of a pyramid its finest level is read.
        tissues: the tissue set; indices and colours must be its own.

    Attributes:
        path: the file.
        shape: height and width in pixels.
        scale: (sx, sy), level-0 pixels of the slide per pixel; None if the file does not tell.
        names: names of the tissues, as the file tells them; None if it does not.
        um_per_pixel: (x, y), None if the file does not tell.

    Raises:
        DataError: if the file cannot be used.
    """

    def __init__(self, path: Path, tissues: TissueSet) -> None:
        self.path, self._tissues = Path(path), tissues
        if not self.path.is_file():
            raise DataError(f"{path}: there is no such file.")
        try:
            self._file = tifffile.TiffFile(self.path)
            first = self._file.pages.first
            self._page = TiledPage(self._file, first, threading.Lock())
            colormap = first.colormap if first.photometric == tifffile.PHOTOMETRIC.PALETTE else None
            self._palette = None if colormap is None else (np.asarray(colormap).T // 257).ravel().tolist()
            told, tags = _told(self._file), resolution_tags(first)
        except Exception as error:  # tifffile raises every kind on damaged files
            raise DataError(
                f"{path}: cannot be read as a tissue map: {reason(error)}. Make it again, or copy it again."
            ) from None
        if self._page.samples not in (1, 3):
            self._file.close()
            raise DataError(f"{path}: has {self._page.samples} values per pixel; a tissue map has 1, or 3 for colours.")
        self.shape = (self._page.height, self._page.width)
        self.scale: tuple[float, float] | None = told.get("scale")
        self.names: tuple[str, ...] | None = told.get("names")
        resolution = resolution_of(self.path, tags)
        self.um_per_pixel = None if resolution is None else (resolution.x, resolution.y)

    def read(self, top: int, bottom: int) -> np.ndarray:
        """See `Rows.read`; values as `read_mask` gives them.

        Raises:
            DataError: if the file is damaged there, or holds what the tissue set does not have.
        """
        try:
            found = self._page.read(0, top, self.shape[1], bottom - top)
        except Exception as error:
            raise DataError(f"{self.path}: is damaged ({str(error).rstrip('.')}). Make it again.") from None
        if self._page.samples == 3:
            indices = from_colors(found, self.path, self._tissues)
        elif self._palette is not None:
            indices = from_palette(found[..., 0], self._palette, self.path, self._tissues)
        else:
            indices = found[..., 0]
        return check_mask_values(indices, self.path, self._tissues)

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def described_map(path: Path) -> tuple[tuple[str, ...], tuple[float, float]] | None:
    """Tissues and slide pixels per map pixel, as a map that `slide predict` wrote tells them; None of other files."""
    try:
        with tifffile.TiffFile(path) as file:
            first = file.pages.first
            told = _told(file)
            palette = first.photometric == tifffile.PHOTOMETRIC.PALETTE and first.colormap is not None
    except Exception:
        return None
    return (told["names"], told["scale"]) if told and palette else None


def _told(file: tifffile.TiffFile) -> dict[str, Any]:
    """What a map tells of itself; nothing if it is no map of ours."""
    description = _ome_description(file.ome_metadata or "") if file.is_ome else file.pages.first.description
    try:
        plain = json.loads(description)
        x, y = (float(value) for value in plain["slide_pixels_per_pixel"])
        names = tuple(str(name) for name in plain["tissues"])
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return {}
    if not (math.isfinite(x) and math.isfinite(y) and x > 0 and y > 0 and 0 < len(names) < IGNORE_INDEX):
        return {}
    return {"scale": (x, y), "names": names}


def _ome_description(text: str) -> str:
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError:
        return ""
    return next((node.text or "" for node in root.iter() if node.get("K") == MAP_NAMESPACE), "")
