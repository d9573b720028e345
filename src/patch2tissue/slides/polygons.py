"""Pieces of tissue as polygons: traced along the pixels' edges, holes kept, simplified within a tolerance."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from itertools import chain

import numpy as np
import shapely

from patch2tissue.cores import available_cores
from patch2tissue.slides.contours import NOTHING, ContourTracer, Ring, Vertices, vertices_between
from patch2tissue.slides.rows import Rows, strips
from patch2tissue.slides.simplify import simplified

_STRIP_PIXELS = 2**22  # several arrays of this size are made


@dataclass(frozen=True)
class Piece:
    """A connected region of one tissue; pixels that touch at a corner only are not connected.

    Attributes:
        tissue: its index.
        polygon: in map pixels, valid, with its holes.
        pixels: area in pixels before the polygon was simplified.
    """

    tissue: int
    polygon: shapely.Polygon
    pixels: int

    def perimeter(self, scale: tuple[float, float] = (1.0, 1.0)) -> float:
        """Length of the polygon's outline, holes included.

        That of pixel edges is up to 1.27 times that of the true outline on average; that of a simplified polygon is
        close to it.

        Args:
            scale: units per map pixel along x and y.
        """
        return float(shapely.transform(self.polygon, lambda points: points * scale).length)


def trace(rows: Rows, tissues: int, *, simplify: float = 0.0, strip_pixels: int = _STRIP_PIXELS) -> Iterator[Piece]:
    """Trace the pieces of all tissues of a map.

    The map is read a strip at a time; in memory are the outlines that reach into the rows being read, and their holes.

    Args:
        rows: uint8 [H, W]; values of `tissues` and more are nothing.
        tissues: number of tissues K.
        simplify: tolerance in map pixels by which an outline may be moved (Douglas-Peucker); 0: pixel edges. Each
            piece is simplified for itself, so that two pieces that touch may overlap or leave a gap, narrower than
            twice the tolerance. A piece that would vanish keeps its pixel edges.
        strip_pixels: about how many pixels are read at a time.

    Yields:
        Pieces, as they are closed.
    """
    tracers = [ContourTracer(tissue) for tissue in range(tissues)]
    holes: list[list[Ring]] = [[] for _ in range(tissues)]

    def closed(tissue: int, vertices: Vertices) -> list[Piece]:
        return list(_pieces(tissue, tracers[tissue].add(vertices), holes[tissue], simplify))

    height, width = rows.shape[:2]
    nothing = np.full((1, width), NOTHING, np.uint8)
    above = nothing[0]
    # numpy and shapely let go of the interpreter, so that the tissues are traced side by side
    with ThreadPoolExecutor(max(1, min(tissues, available_cores()))) as pool:
        for top, strip in chain(strips(rows, strip_pixels), [(height, nothing)]):
            vertices = vertices_between(above, strip, top)
            above = strip[-1].copy()
            del strip
            for pieces in pool.map(partial(closed, vertices=vertices), range(tissues)):
                yield from pieces


def _pieces(tissue: int, rings: list[Ring], holes: list[Ring], simplify: float) -> Iterator[Piece]:
    """Pieces of outlines that were closed; holes of outlines that are still open are added to `holes`."""
    outer = [ring for ring in rings if ring.area > 0]
    holes.extend(ring for ring in rings if ring.area < 0)
    inside = _assign(outer, holes)
    for index, ring in enumerate(outer):
        own = inside[index]
        polygon = shapely.Polygon(ring.vertices, [hole.vertices for hole in own])
        pixels = ring.area + sum(hole.area for hole in own)
        yield Piece(tissue, simplified(polygon, simplify), pixels)


def _assign(outer: list[Ring], holes: list[Ring]) -> list[list[Ring]]:
    """Holes of each outline; those that are assigned are taken out of `holes`."""
    inside: list[list[Ring]] = [[] for _ in outer]
    if not outer or not holes:
        return inside
    # an outline closes below its holes, so that the holes of these outlines are all known
    tree = shapely.STRtree(shapely.points([hole.pixel_above for hole in holes]))
    found = tree.query([shapely.Polygon(ring.vertices) for ring in outer], predicate="contains")
    owner: dict[int, int] = {}
    for index, hole in found.T.tolist():
        if hole not in owner or outer[index].area < outer[owner[hole]].area:
            owner[hole] = index
    for hole in sorted(owner):
        inside[owner[hole]].append(holes[hole])
    holes[:] = [hole for number, hole in enumerate(holes) if number not in owner]
    return inside
