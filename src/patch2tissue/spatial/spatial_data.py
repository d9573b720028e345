"""Tissue maps as SpatialData (extra `spatial`), in pixels of the slide and in µm."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from patch2tissue.atomic import remove_abandoned, temporary_prefix
from patch2tissue.errors import DataError
from patch2tissue.optional import optional_import
from patch2tissue.slides.filling import paint
from patch2tissue.slides.geojson import read_features
from patch2tissue.spatial.points import hex_color
from patch2tissue.spatial.slide_maps import CONFIDENCE_STEP, SlideMap, open_slide_map

if TYPE_CHECKING:
    from spatialdata import SpatialData

_CHUNK = 4096
_SMALLEST_LEVEL = 1024


def to_spatialdata(maps: Path | str, slide: str | None = None) -> SpatialData:
    """One slide's map, outlines and areas as a SpatialData object.

    Elements lie in two coordinate systems: `global`, pixels of the slide's full size (level 0), and `um`.

    - labels `tissue`: the map as a pyramid, 0 where there is no tissue, k + 1 for tissue k; read when it is needed.
    - table `tissue_table` of those labels: `tissue`, `pixels`, `area_mm2`.
    - image `confidence`, where it was written: 255 times the probability of the drawn tissue.
    - shapes `regions`, where outlines were written: polygons in pixels of the slide, with `classification` (the
      tissue) and `color`.
    - table `region_table` of the shapes: in `obs` `tissue`, `area_um2` (counted on the map's pixels), `perimeter_um`,
      `probability` (mean over the region, NaN without confidence) and the QuPath `id`; in `obsm["spatial"]` a point
      inside each region, in pixels of the slide.

    Both tables have the tissues' colours in `uns["tissue_colors"]`.

    Args:
        maps: folder or file that `slide predict` wrote.
        slide: which slide of the folder, by its name; None: the only one.

    Raises:
        DataError: if there is no such map, or a file is damaged.
        ConfigError: if spatialdata is not installed.
    """
    spatialdata: Any = optional_import("spatialdata", "A SpatialData object", "spatial")
    found = open_slide_map(maps, slide)
    labels, counts = _labels(found)
    elements: dict[str, Any] = {"tissue": labels, "tissue_table": _tissue_table(found, counts)}
    if found.confidence is not None:
        elements["confidence"] = _confidence(found, found.confidence)
    if found.outlines_file is not None:
        elements["regions"], elements["region_table"] = _regions(found, found.outlines_file)
    attributes = {"slide": found.name, "slide_um_per_pixel": list(found.slide_um_per_pixel)}
    made: SpatialData = spatialdata.SpatialData.init_from_elements(elements, attrs={"patch2tissue": attributes})
    return made


def write_spatialdata(maps: Path | str, out: Path | str, slide: str | None = None) -> SpatialData:
    """Write `to_spatialdata` as a Zarr folder, which appears whole or not at all; returns the object.

    Raises:
        DataError: as `to_spatialdata`, or if `out` is there already.
    """
    target = Path(out)
    if target.exists():
        raise DataError(f"{target}: is there already. Remove it, or choose another name.")
    made = to_spatialdata(maps, slide)
    target.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(target.parent, below=False)
    folder = Path(tempfile.mkdtemp(prefix=temporary_prefix(target), dir=target.parent))
    try:
        made.write(folder / target.name)
        (folder / target.name).rename(target)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    return made


def _systems(per_pixel: tuple[float, float], um_per_pixel: tuple[float, float]) -> dict[str, Any]:
    """Transformations to both coordinate systems of what has so many level-0 pixels, and µm, per unit."""
    transformations: Any = optional_import("spatialdata.transformations", "A SpatialData object", "spatial")
    return {
        "global": transformations.Scale(list(per_pixel), axes=("x", "y")),
        "um": transformations.Scale(list(um_per_pixel), axes=("x", "y")),
    }


def _models() -> Any:
    return optional_import("spatialdata.models", "A SpatialData object", "spatial")


def _levels(shape: tuple[int, ...]) -> list[int]:
    """Factors of 2 until the coarsest level is small; one at least, so that every map is a pyramid."""
    levels = 0
    while max(shape) / 2**levels > _SMALLEST_LEVEL:
        levels += 1
    return [2] * max(levels, 1)


def _label_rows(found: SlideMap, top: int, bottom: int) -> np.ndarray:
    """Rows of the map with 0 for no tissue, uint8 [bottom - top, W]."""
    rows = found.rows(top, bottom)
    return np.where(rows < len(found.tissues), rows + 1, 0).astype(np.uint8)


def _labels(found: SlideMap) -> tuple[Any, np.ndarray]:
    """The map as labels, and how many of its pixels each label has, int64 [K + 1]."""
    dask: Any = optional_import("dask", "A SpatialData object", "spatial")
    array: Any = optional_import("dask.array", "A SpatialData object", "spatial")
    height, width = found.shape
    read, strips, counts = dask.delayed(_label_rows), [], np.zeros(len(found.tissues) + 1, np.int64)
    for top in range(0, height, _CHUNK):
        bottom = min(height, top + _CHUNK)
        strips.append(array.from_delayed(read(found, top, bottom), (bottom - top, width), np.uint8))
        counts += np.bincount(_label_rows(found, top, bottom).ravel(), minlength=len(counts))
    whole = array.concatenate(strips).rechunk((_CHUNK, _CHUNK))
    labels = _models().Labels2DModel.parse(
        whole,
        dims=("y", "x"),
        scale_factors=_levels(found.shape),
        transformations=_systems(found.scale, found.um_per_pixel),
    )
    return labels, counts


def _tissue_table(found: SlideMap, counts: np.ndarray) -> Any:
    pandas: Any = optional_import("pandas", "A SpatialData object", "spatial")
    names = list(found.tissues.names)
    area = found.um_per_pixel[0] * found.um_per_pixel[1] / 1e6
    obs = pandas.DataFrame(
        {
            "tissue": pandas.Categorical(names, categories=names),
            "pixels": counts[1:],
            "area_mm2": counts[1:] * area,
            "region": pandas.Categorical(["tissue"] * len(names)),
            "instance_id": np.arange(1, len(names) + 1),
        },
        index=names,
    )
    return _table(found, obs, "tissue", None)


def _table(found: SlideMap, obs: Any, region: str, places: np.ndarray | None) -> Any:
    anndata: Any = optional_import("anndata", "A SpatialData object", "spatial")
    table = anndata.AnnData(obs=obs)
    if places is not None:
        table.obsm["spatial"] = places
    table.uns["tissue_colors"] = [hex_color(color) for color in found.tissues.colors]
    return _models().TableModel.parse(table, region=region, region_key="region", instance_key="instance_id")


def _confidence(found: SlideMap, confidence: np.ndarray) -> Any:
    step = CONFIDENCE_STEP
    return _models().Image2DModel.parse(
        confidence[None],
        dims=("c", "y", "x"),
        c_coords=["probability"],
        transformations=_systems(
            (step * found.scale[0], step * found.scale[1]),
            (step * found.um_per_pixel[0], step * found.um_per_pixel[1]),
        ),
    )


def _regions(found: SlideMap, path: Path) -> tuple[Any, Any]:
    """Shapes and their table."""
    pandas: Any = optional_import("pandas", "A SpatialData object", "spatial")
    geopandas: Any = optional_import("geopandas", "A SpatialData object", "spatial")
    names, rows, shapes = list(found.tissues.names), [], []
    for number, (feature, shape) in enumerate(read_features(path), start=1):
        try:
            properties = feature["properties"]
            tissue, measured = properties["classification"]["name"], properties["measurements"]
            if tissue not in names:
                raise KeyError
            area, perimeter = float(measured["Area µm^2"]), float(measured["Perimeter µm"])
        except (KeyError, TypeError, ValueError):
            raise DataError(
                f"{path}, feature {number}: is not as `slide predict` wrote it. Make the outlines again."
            ) from None
        rows.append((tissue, area, perimeter, _mean_probability(found, shape), str(feature.get("id"))))
        shapes.append(shape)
    columns = ["tissue", "area_um2", "perimeter_um", "probability", "id"]
    obs = pandas.DataFrame.from_records(rows, columns=columns)
    obs["tissue"] = pandas.Categorical(obs["tissue"], categories=names)
    numbers = np.arange(1, len(obs) + 1)
    # not by the table's name for it: spatialdata takes no value that is in two places
    colors = [hex_color(found.tissues.colors[k]) for k in obs["tissue"].cat.codes]
    columns_of_shapes = {"classification": [row[0] for row in rows], "color": colors}
    frame = geopandas.GeoDataFrame(columns_of_shapes, geometry=shapes, index=numbers)
    regions = _models().ShapesModel.parse(frame, transformations=_systems((1.0, 1.0), found.slide_um_per_pixel))
    obs["region"] = pandas.Categorical(["regions"] * len(obs))
    obs["instance_id"] = numbers
    obs.index = [str(number) for number in numbers]
    inside = [shape.representative_point() for shape in shapes]
    places = np.array([(point.x, point.y) for point in inside], np.float64).reshape(-1, 2)
    return regions, _table(found, obs, "regions", places)


def _mean_probability(found: SlideMap, shape: Any) -> float:
    """Mean of the confidence picture in a region, NaN without one; of a tiny region the value at a point inside."""
    confidence = found.confidence
    if confidence is None:
        return float("nan")
    scale = (CONFIDENCE_STEP * found.scale[0], CONFIDENCE_STEP * found.scale[1])
    left, upper, right, lower = shape.bounds
    first, start = int(upper / scale[1]), int(left / scale[0])
    part = confidence[first : int(lower / scale[1]) + 1, start : int(right / scale[0]) + 1]
    inside = np.zeros((part.shape[0], start + part.shape[1]), bool)
    paint(inside, shape, True, scale, first)
    known = part[inside[:, start:] & (part > 0)]
    if not len(known):
        point = shape.representative_point()
        known = confidence[int(point.y / scale[1]), int(point.x / scale[0])][None]
    return float(known.mean() / 255.0) if known.any() else float("nan")
