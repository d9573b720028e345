"""Scoring tissue maps of whole slides against annotations, strip by strip."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Protocol, TypeAlias

import numpy as np
import shapely

from patch2tissue.data.images import read_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.boundaries import BoundaryCounts
from patch2tissue.evaluation.folders import Scores, group_names, number_or_none, scores_of
from patch2tissue.evaluation.scores import ConfusionMatrix
from patch2tissue.slides.filling import paint
from patch2tissue.slides.geojson import IN_PIXELS, read_geojson
from patch2tissue.slides.map_file import MapFile
from patch2tissue.slides.rows import ArrayRows, Rows
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

logger = logging.getLogger(__name__)

REGION_CLASS = "Region*"
"""QuPath's own classification for a region of interest."""

NOT_SCORED = "none"

_GEOJSON = (".geojson", ".geojson.gz", ".json")
_MASKS = (".tif", ".tiff", ".png")
_MAPS = ("_classes.ome.tif", "_classes.tif")
_STRIP_PIXELS = 2**23
_ASPECT = 0.01

_Shape: TypeAlias = "shapely.Polygon | shapely.MultiPolygon"


@dataclass(frozen=True)
class Annotations:
    """What a pathologist drew on a slide, and how it is read.

    Attributes:
        path: GeoJSON, a mask image, or a folder with `NAME.geojson`, `NAME.tif` or `NAME.png` for each map, or with
            `_truth` behind the name, which comes first: slides may lie there too.
        classes: tissue of each classification that is not named as the tissue set names it; `none`: not scored.
        region: GeoJSON of the region of interest, or a folder of them; None: the areas that `path` classifies as
            `Region*`, or everything if it has none.
        um_per_pixel: resolution of the GeoJSON's coordinates, for maps that do not tell; None: the map tells.
    """

    path: Path
    classes: Mapping[str, str] | None = None
    region: Path | None = None
    um_per_pixel: float | None = None


@dataclass(frozen=True)
class SlideScores:
    """Scores of maps.

    Attributes:
        scores: over all scored pixels; the interval is drawn over slides or patients.
        areas: for each slide and tissue `slide`, `tissue`, `true_mm2`, `predicted_mm2`, in the scored pixels; without
            areas where the map does not tell its resolution.
    """

    scores: Scores
    areas: list[dict[str, Any]]

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return self.scores.to_dict() | {"areas": self.areas}


Progress = Callable[[str, int, int], None]
"""Called with a slide's name, the rows of its map that are scored, and all rows."""


def find_maps(path: Path) -> dict[str, Path]:
    """Maps by the names of their slides: one file, or the `*_classes.tif` of a folder.

    Raises:
        DataError: if there is none.
    """
    path = Path(path)
    if path.is_dir():
        found = sorted(file for file in path.iterdir() if file.name.endswith(_MAPS))
        if not found:
            raise DataError(f"{path}: holds no maps (NAME_classes.tif, as `patch2tissue slide predict` writes them).")
    elif path.is_file():
        found = [path]
    else:
        raise DataError(f"{path}: there is no such file or folder.")
    return {_name(file): file for file in found}


def _name(file: Path) -> str:
    return next((file.name[: -len(ending)] for ending in _MAPS if file.name.endswith(ending)), file.stem)


def evaluate_slides(
    maps: Path,
    annotations: Annotations,
    tissues: TissueSet,
    *,
    group: str = "auto",
    progress: Progress = lambda name, done, total: None,
) -> SlideScores:
    """Score maps against annotations.

    A pixel is scored where its middle lies in an annotation and in the region of interest. Where annotations overlap
    the smaller one counts, as in QuPath the smaller one is drawn on top.

    Args:
        maps: a map, or a folder of them.
        annotations: what is true.
        tissues: tissue set of both.
        group: what the interval is drawn over, see `group_names`.
        progress: called as maps are read.

    Raises:
        DataError: if a file is missing or cannot be used, or nothing is annotated.
        ConfigError: if a setting makes no sense.
    """
    found = find_maps(Path(maps))
    truths = {name: _beside(annotations.path, name, (*_GEOJSON, *_MASKS), file) for name, file in found.items()}
    grouped_by, groups = group_names(list(found), group)
    if grouped_by == "image":
        grouped_by = "slide"
    by_group: dict[str, ConfusionMatrix] = {}
    boundaries, areas, per_slide = BoundaryCounts(len(tissues)), [], []
    for (name, file), which in zip(found.items(), groups, strict=True):
        with MapFile(file, tissues) as opened:
            _check_names(opened, tissues)
            truth = _truth_of(opened, truths[name], annotations, name, tissues)
            confusion = _score(opened, truth, boundaries, partial(progress, name))
            if not confusion.counts.any():
                hint = IN_PIXELS if truths[name].name.lower().endswith(_GEOJSON) else "Is it the mask of this slide?"
                raise DataError(
                    f"{truths[name]}: marks no tissue on {file.name}, or none in the region of interest. {hint}"
                )
            areas += _areas(name, opened, confusion, tissues)
        by_group.setdefault(which, ConfusionMatrix(len(tissues))).counts += confusion.counts
        per_slide.append({"name": name, "miou": number_or_none(confusion.scores()["miou"])})
    return SlideScores(scores_of(by_group, boundaries, tissues, len(found), grouped_by, per_slide), areas)


def _beside(path: Path, name: str, endings: Sequence[str], other: Path) -> Path:
    """The file of one slide."""
    path = Path(path)
    if path.is_file():
        return path
    if not path.is_dir():
        raise DataError(f"{path}: there is no such file or folder.")
    if path.resolve() == other.parent.resolve():
        raise DataError(f"{path}: holds the maps themselves. Keep annotations in a folder of their own.")
    for mark in ("_truth", ""):
        for ending in endings:
            if (path / f"{name}{mark}{ending}").is_file():
                return path / f"{name}{mark}{ending}"
    raise DataError(f"{path}: holds nothing for {other.name} ({', '.join(name + ending for ending in endings)}).")


def _check_names(opened: MapFile, tissues: TissueSet) -> None:
    if opened.names is not None and opened.names != tissues.names:
        raise DataError(
            f"{opened.path}: is a map of {', '.join(opened.names)}, but the tissue set '{tissues.name}' has "
            f"{', '.join(tissues.names)}. Pass --tissues with the set of its run."
        )


class _Truth(Protocol):
    """What is true in rows of a map."""

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """uint8 [bottom - top, W]; 255 is not scored."""


def _score(
    opened: MapFile, truth: _Truth, boundaries: BoundaryCounts, progress: Callable[[int, int], None]
) -> ConfusionMatrix:
    """Count a map's pixels and edges."""
    height, width = opened.shape
    step = max(64, _STRIP_PIXELS // width)
    confusion = ConfusionMatrix(boundaries.tissues)
    for top in range(0, height, step):
        bottom = min(height, top + step)
        first, last = max(0, top - boundaries.margin), min(height, bottom + boundaries.margin)
        predicted, true = opened.read(first, last), truth.rows(first, last)
        here = slice(top - first, bottom - first)
        confusion.update(predicted[here], true[here])
        boundaries.update(predicted, true, here)
        progress(bottom, height)
    return confusion


def _areas(name: str, opened: MapFile, confusion: ConfusionMatrix, tissues: TissueSet) -> list[dict[str, Any]]:
    if opened.um_per_pixel is None:
        return []
    pixel = opened.um_per_pixel[0] * opened.um_per_pixel[1] / 1e6
    true, predicted = confusion.counts.sum(axis=1), confusion.counts[:, : len(tissues)].sum(axis=0)
    return [
        {"slide": name, "tissue": tissue, "true_mm2": float(t * pixel), "predicted_mm2": float(p * pixel)}
        for tissue, t, p in zip(tissues.names, true.tolist(), predicted.tolist(), strict=True)
    ]


def _truth_of(opened: MapFile, path: Path, annotations: Annotations, name: str, tissues: TissueSet) -> _Truth:
    region: list[_Shape] | None = None
    if annotations.region is not None:
        file = _beside(annotations.region, name, _GEOJSON, opened.path)
        region = [shape for _, shape in read_geojson(file)]
        if not region:
            raise DataError(f"{file}: holds no areas.")
    if path.name.lower().endswith(_GEOJSON):
        scale = _scale(opened, annotations)
        shapes, regions = _classified(path, annotations.classes or {}, tissues)
        return _Drawn(shapes, region or regions or None, opened.shape[1], scale)
    mask = _mask_rows(path, opened, tissues)
    return mask if region is None else _Within(mask, region, _scale(opened, annotations))


def _scale(opened: MapFile, annotations: Annotations) -> tuple[float, float]:
    """Level-0 pixels per map pixel."""
    given = annotations.um_per_pixel
    if given is not None:
        if not given > 0:
            raise ConfigError(f"A resolution in µm per pixel is a number above 0, not {given}.")
        if opened.um_per_pixel is not None:
            return opened.um_per_pixel[0] / given, opened.um_per_pixel[1] / given
    if opened.scale is None:
        raise DataError(
            f"{opened.path}: does not tell how its pixels lie on the slide. Pass --mpp with the µm per pixel of the "
            "slide's full size, in which the annotations are drawn."
        )
    return opened.scale


def _classified(
    path: Path, classes: Mapping[str, str], tissues: TissueSet
) -> tuple[list[tuple[int, _Shape]], list[_Shape]]:
    """Shapes with the tissue's index, larger ones first, and regions of interest.

    Raises:
        DataError: if a classification is no tissue.
        ConfigError: if `classes` names something that is no tissue.
    """
    index = {name.casefold(): k for k, name in enumerate(tissues.names)}
    index |= {name.casefold(): k for k, name in enumerate(tissues.abbreviations)}
    index[NOT_SCORED] = IGNORE_INDEX
    for mine, theirs in classes.items():
        if theirs.casefold() not in index:
            raise ConfigError(
                f"--class {mine}={theirs}: '{theirs}' is no tissue of the set '{tissues.name}'. It has "
                f"{', '.join(tissues.names)}; {NOT_SCORED} is not scored."
            )
    known = index | {mine.casefold(): index[theirs.casefold()] for mine, theirs in classes.items()}
    shapes, regions, unknown = [], [], set()
    for name, shape in read_geojson(path):
        if name is not None and name.casefold() == REGION_CLASS.casefold():
            regions.append(shape)
        elif name is None:
            unknown.add("(unclassified)")
        elif name.casefold() not in known:
            unknown.add(name)
        else:
            shapes.append((known[name.casefold()], shape))
    if unknown:
        raise DataError(
            f"{path}: has annotations of the classes {', '.join(sorted(unknown))}, which are no tissues of the set "
            f"'{tissues.name}' ({', '.join(tissues.names)}). Pass --class NAME=TISSUE, or NAME={NOT_SCORED} to leave "
            "them out; annotations without a class must get one."
        )
    shapes.sort(key=lambda item: -item[1].area)
    return shapes, regions


class _Drawn:
    """Annotations as rows of a map."""

    def __init__(
        self,
        shapes: list[tuple[int, _Shape]],
        region: list[_Shape] | None,
        width: int,
        scale: tuple[float, float],
    ) -> None:
        self._shapes, self._region, self._width, self._scale = shapes, region, width, scale

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """See `_Truth.rows`."""
        found = np.full((bottom - top, self._width), IGNORE_INDEX, np.uint8)
        for tissue, shape in self._shapes:
            paint(found, shape, tissue, self._scale, top)
        return found if self._region is None else _cut(found, self._region, self._scale, top)


class _Within:
    """Another truth, scored in a region of interest only."""

    def __init__(self, truth: _Truth, region: list[_Shape], scale: tuple[float, float]) -> None:
        self._truth, self._region, self._scale = truth, region, scale

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """See `_Truth.rows`."""
        return _cut(self._truth.rows(top, bottom), self._region, self._scale, top)


def _cut(rows: np.ndarray, region: list[_Shape], scale: tuple[float, float], top: int) -> np.ndarray:
    inside = np.zeros(rows.shape, bool)
    for shape in region:
        paint(inside, shape, True, scale, top)
    return np.where(inside, rows, np.uint8(IGNORE_INDEX))


class _Resampled:
    """A mask of any size as rows of a map: the mask's pixel at each map pixel's middle."""

    def __init__(self, mask: Rows, shape: tuple[int, int]) -> None:
        self._mask = mask
        self._y, self._x = (
            np.minimum(((np.arange(mine) + 0.5) * theirs / mine).astype(np.intp), theirs - 1)
            for mine, theirs in zip(shape, mask.shape, strict=True)
        )

    def rows(self, top: int, bottom: int) -> np.ndarray:
        """See `_Truth.rows`."""
        places = self._y[top:bottom]
        found = self._mask.read(int(places[0]), int(places[-1]) + 1)
        return np.ascontiguousarray(found[places - places[0]][:, self._x])


def _mask_rows(path: Path, opened: MapFile, tissues: TissueSet) -> _Truth:
    tiled = path.suffix.lower() in (".tif", ".tiff")
    mask: Rows = MapFile(path, tissues) if tiled else ArrayRows(read_mask(path, tissues))
    (height, width), mine = mask.shape[:2], opened.shape
    if abs((width / height) / (mine[1] / mine[0]) - 1) > max(_ASPECT, 1.5 / min(height, width, *mine)):
        raise DataError(
            f"{path}: is {width} × {height} pixels, which is not the shape of {opened.path.name} "
            f"({mine[1]} × {mine[0]}). A mask covers the whole slide."
        )
    return _Resampled(mask, mine)
