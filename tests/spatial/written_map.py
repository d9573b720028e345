"""A small slide's map as `slide predict` writes it, of which everything is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patch2tissue.slides.geojson import write_geojson
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.pyramid import write_classes_tiff, write_confidence_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")
SCALE = (2.0, 2.5)
"""Level-0 pixels per map pixel: the slide has 0.5 µm per pixel."""
UM_PER_PIXEL = (1.0, 1.25)


def drawn() -> tuple[np.ndarray, np.ndarray]:
    """Blocks of 16 pixels of tissues and of none, [192, 320], and how sure the network was, of the same blocks."""
    rng = np.random.default_rng(4)
    values = np.array([0, 1, 2, 3, 255], np.uint8)[rng.integers(0, 5, (12, 20))].repeat(16, 0).repeat(16, 1)
    sure = rng.integers(100, 256, (12, 20)).astype(np.uint8).repeat(16, 0).repeat(16, 1)
    return values, np.where(values == 255, 0, sure).astype(np.uint8)


def write_map(folder: Path, name: str = "a", *, form: str = "tiff", more: bool = True) -> np.ndarray:
    """Write map, and with `more` confidence and outlines; returns the map."""
    folder.mkdir(parents=True, exist_ok=True)
    values, sure = drawn()
    ending = ".tif" if form == "tiff" else ".ome.tif"
    write_classes_tiff(
        folder / f"{name}_classes{ending}", ArrayRows(values), TISSUES, UM_PER_PIXEL, form=form, scale=SCALE
    )
    if more:
        write_confidence_tiff(folder / f"{name}_confidence.tif", ArrayRows(sure), UM_PER_PIXEL)
        pieces = trace(ArrayRows(values), len(TISSUES), simplify=0.0)
        write_geojson(folder / f"{name}.geojson", pieces, TISSUES, scale=SCALE, um_per_pixel=UM_PER_PIXEL)
    return values
