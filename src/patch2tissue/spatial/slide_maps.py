"""The files that `slide predict` wrote of one slide, found by its name and read without the run that made them."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import tifffile

from patch2tissue.errors import DataError
from patch2tissue.evaluation.slides import find_maps
from patch2tissue.plain_files import reason
from patch2tissue.slides.map_file import MapFile, described_map
from patch2tissue.slides.tiled_page import TiledPage
from patch2tissue.tissues import Tissue, TissueSet

CONFIDENCE_STEP = 4
"""Map pixels per pixel of the confidence picture, in each direction."""


@dataclass(frozen=True)
class SlideMap:
    """One slide's tissue map.

    Attributes:
        name: of the slide.
        path: `NAME_classes.tif` or `NAME_classes.ome.tif`.
        tissues: names and colours, as the file tells them.
        shape: height and width of the map in pixels.
        scale: (sx, sy), level-0 pixels of the slide per map pixel.
        um_per_pixel: (x, y) of the map.
    """

    name: str
    path: Path
    tissues: TissueSet
    shape: tuple[int, int]
    scale: tuple[float, float]
    um_per_pixel: tuple[float, float]

    @property
    def slide_um_per_pixel(self) -> tuple[float, float]:
        """(x, y) of the slide's level 0."""
        return self.um_per_pixel[0] / self.scale[0], self.um_per_pixel[1] / self.scale[1]

    @property
    def confidence_file(self) -> Path | None:
        """Its confidence picture, None if none was written."""
        path = self.path.with_name(f"{self.name}_confidence.tif")
        return path if path.is_file() else None

    @property
    def outlines_file(self) -> Path | None:
        """Its GeoJSON, None if none was written."""
        paths = (self.path.with_name(f"{self.name}.geojson{end}") for end in ("", ".gz"))
        return next((path for path in paths if path.is_file()), None)

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """Tissue indices of rows of the map, uint8 [bottom - top, W], 255 where there is none.

        Raises:
            DataError: if the file is damaged.
        """
        with MapFile(self.path, self.tissues) as opened:
            return opened.read(top, bottom)

    @cached_property
    def confidence(self) -> np.ndarray | None:
        """How sure the network was, uint8 [⌈H / 4⌉, ⌈W / 4⌉] in 1/255, 0 where there is no tissue; None without file.

        Raises:
            DataError: if the file is damaged, or of another map.
        """
        path = self.confidence_file
        if path is None:
            return None
        try:
            with tifffile.TiffFile(path) as file:
                page = TiledPage(file, file.pages.first, threading.Lock())
                found = page.read(0, 0, page.width, page.height)[..., 0]
        except Exception as error:  # tifffile raises every kind on damaged files
            raise DataError(f"{path}: cannot be read: {reason(error)}. Make the map again.") from None
        wanted = tuple(-(-length // CONFIDENCE_STEP) for length in self.shape)
        if found.shape != wanted:
            raise DataError(f"{path}: is not the confidence of {self.path.name}. Make the map again.")
        return found


def open_slide_map(maps: Path | str, slide: str | None = None) -> SlideMap:
    """Find the map of a slide.

    Args:
        maps: `NAME_classes.tif`, or the folder that `slide predict` wrote.
        slide: name of the slide, without extension; None: the only one.

    Raises:
        DataError: if there is no such map, several where none is named, or it is not one that `slide predict` wrote.
    """
    found = find_maps(Path(maps))
    if slide is None and len(found) > 1:
        raise DataError(f"{maps}: holds maps of {len(found)} slides. Name one of them: {', '.join(sorted(found)[:6])}.")
    if slide is not None and slide not in found:
        raise DataError(f"{maps}: holds no map of '{slide}'. It has {', '.join(sorted(found)[:6])}.")
    name = next(iter(found)) if slide is None else slide
    path = found[name]
    described = described_map(path)
    if described is None:
        raise DataError(f"{path}: is no map that `patch2tissue slide predict` wrote: it does not tell its tissues.")
    names, scale = described
    with tifffile.TiffFile(path) as file:
        colours = (np.asarray(file.pages.first.colormap).T // 257).tolist()
    listed = tuple(Tissue(each, each, tuple(colours[k])) for k, each in enumerate(names))
    tissues = TissueSet(name, listed)
    with MapFile(path, tissues) as opened:
        if opened.um_per_pixel is None:
            raise DataError(f"{path}: does not tell its µm per pixel. Make the map again.")
        return SlideMap(name, path, tissues, opened.shape, scale, opened.um_per_pixel)
