"""Tissue maps and probabilities as tiled pyramids on disk, written a row of tiles at a time.

The form that opens in most places is a palette BigTIFF whose pages are the levels: OpenSlide and QuPath show it in
colour with all levels and the right µm per pixel, tifffile and tiffslide give the tissue indices. OpenSlide sees only
the finest level of an OME-TIFF.
"""

from __future__ import annotations

import json
import tempfile
import uuid
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tifffile

from patch2tissue.atomic import atomic_path, temporary_prefix
from patch2tissue.slides.rows import RowFile, Rows
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

TILE = 256
"""Side of a stored tile in pixels."""

SMALLEST = 1024
"""Levels are added until the longer side is below this."""

_COMPRESSION = "deflate"  # of what OpenSlide's TIFF library reads, the one that all others read as well
_SOFTWARE = "patch2tissue"

MAP_NAMESPACE = "patch2tissue/map"
"""Key of a map's description in OME metadata."""

Reduce = Callable[[np.ndarray], np.ndarray]


def level_shapes(height: int, width: int) -> list[tuple[int, int]]:
    """(height, width) of each level, the finest first; each is half of the one before, rounded up."""
    shapes = [(height, width)]
    while max(shapes[-1]) >= SMALLEST:
        shapes.append(((shapes[-1][0] + 1) // 2, (shapes[-1][1] + 1) // 2))
    return shapes


def write_classes_tiff(
    path: Path,
    rows: Rows,
    tissues: TissueSet,
    um_per_pixel: tuple[float, float],
    *,
    form: Literal["tiff", "ome"] = "tiff",
    scale: tuple[float, float] = (1.0, 1.0),
) -> None:
    """Write a tissue map as a palette pyramid, atomically; same map, same bytes.

    The file's description tells the tissues' names and `scale`, so that it can be scored and drawn without its run.

    Args:
        path: the file to write.
        rows: uint8 [H, W]: tissue indices, 255 where there is none.
        tissues: gives the colours; 255 and background are white.
        um_per_pixel: (x, y) of the map.
        form: `tiff`: the pages are the levels; `ome`: OME-TIFF with levels as SubIFDs.
        scale: (sx, sy), level-0 pixels of the slide per map pixel.
    """
    height, width = rows.shape[:2]
    shapes = level_shapes(height, width)
    palette = np.array(tissues.palette(), np.uint16).reshape(256, 3)
    palette[len(tissues) :] = 255
    options = {"photometric": "palette", "colormap": np.ascontiguousarray(palette.T * 257)}
    told = map_description(tissues.names, scale)
    metadata = {"axes": "YX", "MapAnnotation": {"Namespace": MAP_NAMESPACE, "Value": {MAP_NAMESPACE: told}}}
    if form == "tiff":
        options["description"] = told
    with _writer(path, form) as (file, levels):
        for level, source in levels(rows, shapes, majority):
            _write_level(file, source, level, len(shapes), um_per_pixel, form, options, metadata)


def map_description(names: Sequence[str], scale: tuple[float, float]) -> str:
    """What a map's file tells of itself, as JSON."""
    return json.dumps({"patch2tissue_map": 1, "tissues": list(names), "slide_pixels_per_pixel": list(scale)})


def write_probability_tiff(path: Path, rows: Rows, tissues: TissueSet, um_per_pixel: tuple[float, float]) -> None:
    """Write probabilities as an OME-TIFF pyramid with one channel per tissue, atomically.

    Args:
        path: the file to write.
        rows: uint8 [H, W, K] in 1/255.
        tissues: gives the channels' names.
        um_per_pixel: (x, y) of the map.
    """
    shapes = level_shapes(*rows.shape[:2])
    metadata = {"axes": "CYX", "Channel": {"Name": list(tissues.names)}}
    with _writer(path, "ome") as (file, levels):
        for level, source in levels(rows, shapes, mean):
            _write_level(file, source, level, len(shapes), um_per_pixel, "ome", {"photometric": "minisblack"}, metadata)


def write_confidence_tiff(path: Path, rows: Rows, um_per_pixel: tuple[float, float]) -> None:
    """Write confidence as a grey pyramid of a quarter of the map's resolution, atomically; same confidence, same bytes.

    The network's own output has a pixel for each four; more would take far more room than the map and tell nothing.

    Args:
        path: the file to write.
        rows: uint8 [H, W] in 1/255, 0 where there is no tissue.
        um_per_pixel: (x, y) of the map.
    """
    height, width = rows.shape
    quarter = (-(-height // 4), -(-width // 4))
    step = TILE  # a multiple of 4
    with tempfile.TemporaryDirectory(prefix=temporary_prefix(path), dir=path.parent) as folder:
        small = RowFile(Path(folder) / "quarter.raw", quarter, create=True, durable=False)
        for top in range(0, height, step):
            strip = rows.read(top, min(height, top + step))
            small.write(top // 4, mean_of_known(mean_of_known(strip)))
        shapes = level_shapes(*quarter)
        coarser = (4 * um_per_pixel[0], 4 * um_per_pixel[1])
        with _writer(path, "tiff") as (file, levels):
            for level, source in levels(small, shapes, mean_of_known):
                _write_level(file, source, level, len(shapes), coarser, "tiff", {"photometric": "minisblack"}, {})


def write_picture_tiff(
    path: Path, rows: Rows, um_per_pixel: tuple[float, float], *, quality: int = 90, description: str | None = None
) -> None:
    """Write a picture as a tiled pyramid of JPEG tiles, as scanners do, atomically; same picture, same bytes.

    Args:
        path: the file to write.
        rows: uint8 RGB [H, W, 3].
        um_per_pixel: (x, y) of the picture.
        quality: of JPEG, 1 to 100.
        description: text of each level's ImageDescription.
    """
    shapes = level_shapes(*rows.shape[:2])
    options = {
        "photometric": "rgb",
        "planarconfig": "contig",
        "compression": "jpeg",
        "compressionargs": {"level": quality},
        "description": description,
    }
    with _writer(path, "tiff") as (file, levels):
        for level, source in levels(rows, shapes, mean):
            _write_level(file, source, level, len(shapes), um_per_pixel, "tiff", options, {})


class _writer:
    """A TIFF under a temporary name, and its levels, each made while the one above is read."""

    def __init__(self, path: Path, form: str) -> None:
        self._path, self._form = Path(path), form

    def __enter__(self) -> tuple[tifffile.TiffWriter, Callable[..., Iterator[tuple[int, _Level]]]]:
        self._atomic = atomic_path(self._path)
        temporary = self._atomic.__enter__()
        self._folder = tempfile.TemporaryDirectory(prefix=temporary_prefix(self._path), dir=self._path.parent)
        self._file = tifffile.TiffWriter(temporary, bigtiff=True, ome=self._form == "ome")
        return self._file, self._levels

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        self._file.close()
        self._folder.cleanup()
        self._atomic.__exit__(kind, error, trace)

    def _levels(self, rows: Rows, shapes: list[tuple[int, int]], reduce: Reduce) -> Iterator[tuple[int, _Level]]:
        source = rows
        for level, _ in enumerate(shapes):
            coarser = None
            if level + 1 < len(shapes):
                shape = (*shapes[level + 1], *rows.shape[2:])
                coarser = RowFile(Path(self._folder.name) / f"{level}.raw", shape, create=True, durable=False)
            yield level, _Level(source, coarser, reduce)
            if coarser is not None:
                source = coarser


class _Level:
    """One level as tiles; while they are read the next one is made."""

    def __init__(self, rows: Rows, coarser: RowFile | None, reduce: Reduce) -> None:
        self.rows, self._coarser, self._reduce = rows, coarser, reduce

    def tiles(self) -> Iterator[np.ndarray]:
        """Tiles in the order in which TIFF stores them, plane by plane, padded at the right and bottom."""
        return self._tiles(planes=self.rows.shape[2] if len(self.rows.shape) > 2 else 1)

    def pixels(self) -> Iterator[np.ndarray]:
        """Tiles of which each pixel holds all its channels."""
        return self._tiles(planes=None)

    def _tiles(self, planes: int | None) -> Iterator[np.ndarray]:
        height, width = self.rows.shape[:2]
        for channel in range(planes or 1):
            for top in range(0, height, TILE):
                strip = self.rows.read(top, min(height, top + TILE))
                if channel == 0 and self._coarser is not None:
                    self._coarser.write(top // 2, self._reduce(strip))
                plane = strip[..., channel] if strip.ndim > 2 and planes else strip
                for left in range(0, width, TILE):
                    tile = plane[:, left : left + TILE]
                    if tile.shape[:2] != (TILE, TILE):
                        missing = [(0, TILE - length) for length in tile.shape[:2]] + [(0, 0)] * (tile.ndim - 2)
                        tile = np.pad(tile, missing, mode="edge")
                    yield np.ascontiguousarray(tile)


def _write_level(
    file: tifffile.TiffWriter,
    source: _Level,
    level: int,
    levels: int,
    um_per_pixel: tuple[float, float],
    form: str,
    options: dict[str, Any],
    metadata: dict[str, Any],
) -> None:
    shape = source.rows.shape
    contiguous = options.get("planarconfig") == "contig"
    whole = shape if len(shape) == 2 or contiguous else (shape[2], *shape[:2])
    ome = form == "ome"
    if ome and level == 0:
        for axis, um in zip("XY", um_per_pixel, strict=True):
            metadata = metadata | {f"PhysicalSize{axis}": um, f"PhysicalSize{axis}Unit": "µm"}
        # one that is drawn at random would make every file differ
        metadata = metadata | {"UUID": str(uuid.uuid5(uuid.NAMESPACE_URL, f"patch2tissue:{whole}:{um_per_pixel}"))}
    file.write(
        data=source.pixels() if contiguous else source.tiles(),
        shape=whole,
        dtype=np.uint8,
        tile=(TILE, TILE),
        subfiletype=1 if level else 0,
        subifds=levels - 1 if ome and level == 0 else None,
        metadata=metadata if ome and level == 0 else None,
        software=_SOFTWARE,
        resolution=tuple(1e4 / (um * 2**level) for um in um_per_pixel),
        resolutionunit="CENTIMETER",
        **{"compression": _COMPRESSION} | options,
    )


def majority(strip: np.ndarray) -> np.ndarray:
    """Halve a map: of each 2 × 2 pixels the value that most have; uint8 [h, w] to [⌈h/2⌉, ⌈w/2⌉].

    Of values with equally many pixels the first in reading order is taken, but a tissue before none.
    """
    a, b, c, d = _quarters(strip)
    found = np.where((a == b) | (a == c) | (a == d), a, np.where((b == c) | (b == d), b, np.where(c == d, c, a)))
    # where all four are none there is nothing to decide, which on most slides is most places
    nothing = (found == IGNORE_INDEX) & ((a & b & c & d) != IGNORE_INDEX)
    if nothing.any():
        pixels = np.stack([part[nothing] for part in (a, b, c, d)]).astype(np.int16)
        pixels.sort(axis=0)  # 255 comes last
        first, second, third = pixels[:3]
        tie = (third == IGNORE_INDEX) & (first == second) & (first != IGNORE_INDEX)
        # four different pixels of which the first in reading order is none
        other = third != IGNORE_INDEX
        found[nothing] = np.where(other, b[nothing], np.where(tie, first, IGNORE_INDEX)).astype(np.uint8)
    return np.asarray(found, np.uint8)


def mean(strip: np.ndarray) -> np.ndarray:
    """Halve a raster: the mean of each 2 × 2 pixels, rounded; uint8 [h, w, ...] to [⌈h/2⌉, ⌈w/2⌉, ...]."""
    total = sum(part.astype(np.uint16) for part in _quarters(strip))
    return np.asarray((total + 2) // 4, np.uint8)


def mean_of_known(strip: np.ndarray) -> np.ndarray:
    """Halve a raster in which 0 is unknown: the mean of the others of each 2 × 2 pixels; see `mean`."""
    quarters = _quarters(strip)
    total = sum(part.astype(np.uint16) for part in quarters)
    known = sum((part > 0).astype(np.uint16) for part in quarters)
    return np.asarray((total + known // 2) // np.maximum(known, 1), np.uint8)


def _quarters(strip: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    odd = [(0, strip.shape[axis] % 2) for axis in (0, 1)] + [(0, 0)] * (strip.ndim - 2)
    even = np.pad(strip, odd, mode="edge") if any(after for _, after in odd) else strip
    return even[::2, ::2], even[::2, 1::2], even[1::2, ::2], even[1::2, 1::2]
