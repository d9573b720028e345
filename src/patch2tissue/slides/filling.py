"""Polygons as pixels: which middles of pixels they hold. The inverse of tracing."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import shapely


def fill_polygons(
    shapes: Iterable[shapely.Polygon | shapely.MultiPolygon],
    height: int,
    width: int,
    scale: tuple[float, float] = (1.0, 1.0),
    *,
    top: int = 0,
) -> np.ndarray:
    """Rows of a mask of all pixels whose middle lies in one of the shapes.

    Args:
        shapes: in level-0 pixels.
        height: rows wanted.
        width: of the map in pixels.
        scale: (sx, sy), level-0 pixels per map pixel.
        top: first row wanted.

    Returns:
        bool [height, width].
    """
    filled = np.zeros((height, width), bool)
    for shape in shapes:
        paint(filled, shape, True, scale, top)
    return filled


def paint(
    raster: np.ndarray,
    shape: shapely.Polygon | shapely.MultiPolygon,
    value: int | bool,
    scale: tuple[float, float] = (1.0, 1.0),
    top: int = 0,
) -> None:
    """Set all pixels whose middle lies in a shape.

    Args:
        raster: [h, W], rows of a map.
        shape: in level-0 pixels.
        value: to set.
        scale: (sx, sy), level-0 pixels per map pixel.
        top: which row of the map the raster's first one is.
    """
    for polygon in getattr(shape, "geoms", [shape]):
        _paint(raster, polygon, value, scale, top)


def _paint(
    raster: np.ndarray, polygon: shapely.Polygon, value: int | bool, scale: tuple[float, float], top: int
) -> None:
    """Set the pixels of one polygon: each edge flips all pixels to its right in the rows it crosses, holes as well."""
    height, width = raster.shape
    left, upper, right, lower = polygon.bounds
    first = max(0, int(np.floor(upper / scale[1])) - top)
    last = min(height, int(np.ceil(lower / scale[1])) - top)
    start, end = max(0, int(np.floor(left / scale[0]))), min(width, int(np.ceil(right / scale[0])))
    if first >= last or start >= end:
        return
    flips = np.zeros((last - first, end - start + 1), np.uint8)
    for ring in (polygon.exterior, *polygon.interiors):
        points = shapely.get_coordinates(ring) / scale - (start, top + first)
        rows, columns = _crossings(points, len(flips))
        columns = np.clip(columns, 0, flips.shape[1] - 1)
        np.add.at(flips, (rows, columns), 1)
    inside = np.bitwise_and(np.cumsum(flips, axis=1, dtype=np.uint32), 1).astype(bool)[:, :-1]
    raster[first:last, start:end][inside] = value


def _crossings(points: np.ndarray, height: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows whose middle line a closed ring crosses, and the first pixel whose middle is right of each crossing."""
    x0, y0, x1, y1 = points[:-1, 0], points[:-1, 1], points[1:, 0], points[1:, 1]
    # rows r with min(y0, y1) <= r + 0.5 < max(y0, y1)
    begin = np.clip(np.ceil(np.minimum(y0, y1) - 0.5), 0, height).astype(np.int64)
    end = np.clip(np.ceil(np.maximum(y0, y1) - 0.5), 0, height).astype(np.int64)
    times = np.maximum(end - begin, 0)
    edge = np.repeat(np.arange(len(times)), times)
    rows = np.arange(len(edge)) - np.repeat(np.cumsum(times) - times, times) + begin[edge]
    slope = (x1[edge] - x0[edge]) / (y1[edge] - y0[edge])
    x = x0[edge] + (rows + 0.5 - y0[edge]) * slope
    return rows, np.ceil(x - 0.5).astype(np.int64)
