"""Tissue maps of slides and their probabilities, from the files that `slide predict` wrote."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import tifffile

from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_json, reason
from patch2tissue.slides.map_file import described_map
from patch2tissue.slides.tiled_page import TiledPage
from patch2tissue.viewer.layers import Box, TissueLayer

MAP_FORMS = ("_classes.tif", "_classes.ome.tif")
"""Ends of a map's file name; before them is the slide's name."""


class MapLayer(TissueLayer):
    """A tissue map of a slide; with its probabilities and areas, where these lie beside it.

    Args:
        path: the map.

    Raises:
        DataError: if the file is no such map, or the probabilities are none.
    """

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        told = described_map(self.path)
        if told is None:
            raise DataError(f"{path}: is no tissue map that `patch2tissue slide predict` wrote.")
        self.names, self.scale = told
        name = self.path.name.removesuffix(MAP_FORMS[1]).removesuffix(MAP_FORMS[0])
        self._areas = self.path.with_name(f"{name}_areas.json")
        self._classes = _Pyramid(self.path)
        self.size = self._classes.size
        colormap = (np.asarray(self._classes.colormap).T // 257).astype(np.uint8)
        self.colours = tuple((int(r), int(g), int(b)) for r, g, b in colormap[: len(self.names)])
        probabilities = self.path.with_name(f"{name}_probabilities.ome.tif")
        self.has_heat = probabilities.is_file()
        if self.has_heat:
            self._probabilities = _Pyramid(probabilities)
            if (self._probabilities.size, self._probabilities.planes) != (self.size, len(self.names)):
                raise DataError(f"{probabilities}: does not fit {self.path.name}. Make both again, in one call.")

    def classes(self, box: Box, epoch: int | None) -> np.ndarray:
        """See `TissueLayer.classes`."""
        return self._classes.read(0, box)

    def probabilities(self, box: Box, tissue: int, epoch: int | None) -> np.ndarray:
        """See `TissueLayer.probabilities`."""
        return self._probabilities.read(tissue, box)

    def shares(self, epoch: int | None) -> list[dict[str, float]]:
        """See `TissueLayer.shares`: those that were written with the map."""
        try:
            plain = read_json(self._areas)["tissues"]
            found = [{key: float(plain[name][key]) for key in ("share", "area_mm2")} for name in self.names]
            return found if all(math.isfinite(value) for one in found for value in one.values()) else []
        except (OSError, ValueError, KeyError, TypeError, OverflowError):
            return []

    def close(self) -> None:
        """See `TissueLayer.close`."""
        self._classes.close()
        if self.has_heat:
            self._probabilities.close()


class _Pyramid:
    """A file of pages, each of which is there at several levels, each half as large as the one before."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._file = tifffile.TiffFile(path)
            lock = threading.Lock()
            levels: Sequence[tifffile.TiffPageSeries] = self._file.series[0].levels
            # of pages alike, tifffile reads only the first one's tags unless it is asked for all
            self._pages = [
                [TiledPage(self._file, page.aspage(), lock) for page in level.pages if page is not None]
                for level in levels
            ]
            first = self._pages[0][0]
        except Exception as error:  # tifffile raises every kind on damaged files
            raise DataError(f"{path}: cannot be read ({reason(error)}). Make it again.") from None
        self.size, self.planes = (first.width, first.height), len(self._pages[0])
        self.colormap = self._file.pages.first.colormap

    def read(self, plane: int, box: Box) -> np.ndarray:
        """A box of a plane, uint8 [height, width], from the level of its size or else the coarsest."""
        level = min(int(math.log2(box.factor)), len(self._pages) - 1)
        page, ratio = self._pages[level][plane], box.factor // 2**level
        left, top = box.left * ratio, box.top * ratio
        right, bottom = min(left + box.width * ratio, page.width), min(top + box.height * ratio, page.height)
        try:
            return page.read(left, top, right - left, bottom - top)[::ratio, ::ratio, 0]
        except Exception as error:
            raise DataError(f"{self.path}: is damaged ({str(error).rstrip('.')}). Make it again.") from None

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()
