"""Polygons as pixels: against shapely's own answer for each pixel, and as the inverse of tracing."""

from __future__ import annotations

import numpy as np
import shapely
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slides.pictures import blobs

from patch2tissue.slides.filling import fill_polygons, paint
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.rows import ArrayRows


@settings(max_examples=100, deadline=None)
@given(st.integers(0, 10_000), st.integers(3, 30), st.floats(0.4, 4.0), st.floats(0.4, 4.0), st.integers(0, 20))
def test_pixels_whose_middle_lies_inside(seed: int, corners: int, sx: float, sy: float, top: int) -> None:
    rng = np.random.default_rng(seed)
    angles = np.sort(rng.uniform(0, 2 * np.pi, corners))
    radii = rng.uniform(5, 25, corners)
    outline = np.stack([20 + radii * np.cos(angles), 15 + radii * np.sin(angles)], axis=1) * (sx, sy)
    shape = shapely.make_valid(shapely.Polygon(outline))
    polygons = [part for part in getattr(shape, "geoms", [shape]) if isinstance(part, shapely.Polygon)]
    found = fill_polygons(polygons, 40 - top, 50, (sx, sy), top=top)
    x, y = np.meshgrid((np.arange(50) + 0.5) * sx, (np.arange(top, 40) + 0.5) * sy)
    np.testing.assert_array_equal(found, shapely.contains_xy(shapely.union_all(polygons), x, y))


def test_tracing_and_filling_give_the_map_back() -> None:
    classes = blobs(210, 330, 3, 3.0)
    again = np.full_like(classes, 255)
    for piece in trace(ArrayRows(classes), 3):
        paint(again, piece.polygon, piece.tissue)
    np.testing.assert_array_equal(again, classes)
    # the same a few rows at a time
    pieces = list(trace(ArrayRows(classes), 3))
    for top in range(0, 210, 17):
        strip = np.full((min(17, 210 - top), 330), 255, np.uint8)
        for piece in pieces:
            paint(strip, piece.polygon, piece.tissue, top=top)
        np.testing.assert_array_equal(strip, classes[top : top + 17])


def test_shapes_outside_leave_the_map_alone() -> None:
    raster = np.zeros((10, 10), np.uint8)
    for box in (shapely.box(-9, -9, -1, -1), shapely.box(11, 0, 20, 10), shapely.box(0, 10, 10, 20)):
        paint(raster, box, 1)
    assert not raster.any()
    paint(raster, shapely.MultiPolygon([shapely.box(-5, -5, 3, 3), shapely.box(8, 8, 50, 50)]), 2)
    assert raster.sum() == 2 * (9 + 4) and (raster[:3, :3] == 2).all() and (raster[8:, 8:] == 2).all()
