"""The tissue at places of a slide: spots of Visium, cells, anything with coordinates."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.spatial.slide_maps import CONFIDENCE_STEP, SlideMap, open_slide_map

Unit = Literal["pixel", "um"]

_STRIP = 1024


class TissueAtPoints(NamedTuple):
    """What a map says of places.

    Attributes:
        tissue: name of the tissue at each place, object [n]; None where the map has none, or outside of it.
        probability: of that tissue, float64 [n] in 0..1; NaN without tissue, or without a confidence picture.
    """

    tissue: np.ndarray
    probability: np.ndarray


def tissue_at(
    maps: Path | str | SlideMap, xy: Any, unit: Unit = "pixel", *, slide: str | None = None
) -> TissueAtPoints:
    """Look places of a slide up in its tissue map.

    Args:
        maps: folder or file that `slide predict` wrote.
        xy: places, [n, 2]: x to the right and y down, from the left upper corner of the slide.
        unit: `pixel`: of the slide's full size (level 0), as QuPath and Visium's full-resolution picture count; `um`.
        slide: which slide of the folder, by its name; None: the only one.

    Raises:
        DataError: if there is no such map, it is damaged, or `xy` is not [n, 2].
        ConfigError: if `unit` is none of the two.
    """
    found = maps if isinstance(maps, SlideMap) else open_slide_map(maps, slide)
    places = np.asarray(xy, np.float64)
    if places.ndim != 2 or places.shape[1] != 2:
        raise DataError(f"Places are an array [n, 2] of x and y, not {list(places.shape)}.")
    if unit not in ("pixel", "um"):
        raise ConfigError(f"Places are in 'pixel' or 'um', not '{unit}'.")
    per_pixel = found.scale if unit == "pixel" else found.um_per_pixel
    height, width = found.shape
    with np.errstate(invalid="ignore"):
        x, y = np.floor(places / per_pixel).T
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    column, row = np.where(inside, x, 0).astype(np.intp), np.where(inside, y, 0).astype(np.intp)
    values = np.full(len(places), 255, np.uint8)
    for top in range(0, height, _STRIP):
        here = np.flatnonzero(inside & (row >= top) & (row < top + _STRIP))
        if len(here):
            strip = found.rows(top, min(height, top + _STRIP))
            values[here] = strip[row[here] - top, column[here]]
    names = np.array([*found.tissues.names, None], dtype=object)
    tissue = names[np.minimum(values, len(found.tissues))]
    probability = np.full(len(places), np.nan)
    if found.confidence is not None:
        sure = found.confidence[row // CONFIDENCE_STEP, column // CONFIDENCE_STEP] / 255.0
        probability = np.where((values < len(found.tissues)) & (sure > 0), sure, np.nan)
    return TissueAtPoints(tissue, probability)


def annotate_tissue(
    adata: Any,
    maps: Path | str | SlideMap,
    *,
    slide: str | None = None,
    key: str = "spatial",
    unit: Unit = "pixel",
    column: str = "tissue",
) -> None:
    """Write the tissue of each observation of an AnnData into its `obs`.

    Args:
        adata: gets `obs[column]` (categorical, missing where there is no tissue), `obs[column + "_probability"]`, and
            `uns[column + "_colors"]`, which scanpy and squidpy draw with.
        maps: see `tissue_at`; likewise slide and unit.
        slide: see `tissue_at`.
        key: places are in `adata.obsm[key]`, [n, 2] or more, of which the first two are x and y.
        unit: see `tissue_at`.
        column: name in `obs`.

    Raises:
        DataError: see `tissue_at`; or if there are no such places.
    """
    import pandas

    if key not in adata.obsm:
        raise DataError(f"The AnnData has no places in obsm['{key}']. It has {', '.join(adata.obsm) or 'none at all'}.")
    found = maps if isinstance(maps, SlideMap) else open_slide_map(maps, slide)
    there = tissue_at(found, np.asarray(adata.obsm[key])[:, :2], unit)
    names = list(found.tissues.names)
    adata.obs[column] = pandas.Categorical(there.tissue, categories=names)
    adata.obs[f"{column}_probability"] = there.probability
    adata.uns[f"{column}_colors"] = [hex_color(color) for color in found.tissues.colors]


def hex_color(color: tuple[int, int, int]) -> str:
    """RGB in 0..255 as `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)
