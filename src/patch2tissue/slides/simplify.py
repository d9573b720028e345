"""Outlines with fewer corners, none of them farther away than a tolerance.

GEOS' topology-preserving simplification looks at every segment of a polygon for each one it draws, so that an outline
of a hundred thousand corners takes it minutes. Large outlines are simplified here arc by arc by plain Douglas-Peucker;
arcs that come to cross each other stay as they were.
"""

from __future__ import annotations

import numpy as np
import shapely

LARGE = 2_000
"""Corners from which on a polygon is simplified arc by arc."""

_ARC = 64
_ROUNDS = 6


def simplified(polygon: shapely.Polygon, tolerance: float, *, large: int = LARGE) -> shapely.Polygon:
    """A valid polygon with the same holes, of which no corner of the given one is farther away than the tolerance.

    Args:
        polygon: valid.
        tolerance: in its units; 0: it is returned as it is, as is one that would vanish.
        large: see `LARGE`.
    """
    if tolerance <= 0:
        return polygon
    if shapely.get_num_coordinates(polygon) >= large:
        found = _by_arcs(polygon, tolerance)
        if found is not None:
            return found
    for attempt in (tolerance, 0.7 * tolerance, 0.4 * tolerance):
        found = shapely.simplify(polygon, attempt, preserve_topology=True)
        usable = isinstance(found, shapely.Polygon) and found.is_valid and found.area > 0
        if usable and _within(polygon, found, tolerance):
            return found
    return polygon


def _within(exact: shapely.Polygon, simple: shapely.Polygon, tolerance: float) -> bool:
    """Whether all corners of an outline lie near the simplified one; GEOS may drop a ring's first corner unasked."""
    outline = simple.boundary
    shapely.prepare(outline)
    corners = shapely.points(shapely.get_coordinates(exact))
    return bool(shapely.dwithin(outline, corners, tolerance * (1 + 1e-9)).all())


def _by_arcs(polygon: shapely.Polygon, tolerance: float) -> shapely.Polygon | None:
    """See `simplified`; None if what comes out is not valid."""
    rings = np.asarray([polygon.exterior, *polygon.interiors])
    exact, ring_of_arc = _arcs(rings)
    simple = shapely.simplify(exact, tolerance, preserve_topology=False)
    kept = ~shapely.is_simple(simple)
    corners, ring_of_corner = shapely.get_coordinates(rings, return_index=True)
    areas = _areas(corners, ring_of_corner, len(rings))
    for _ in range(_ROUNDS):
        arcs = np.where(kept, exact, simple)
        points, ring_of_point = _joined(arcs, ring_of_arc)
        # a ring that is pressed flat, or turned over
        lost = np.bincount(ring_of_point, minlength=len(rings)) < 3
        lost |= _areas(points, ring_of_point, len(rings)) * areas <= 0
        bad = (_crossing(arcs, kept) | lost[ring_of_arc]) & ~kept
        if not bad.any():
            found: shapely.Polygon = _polygon(points, ring_of_point)
            return found if found.is_valid else None
        kept |= bad
    return None


def _arcs(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rings cut into lines, and the ring of each line.

    Cut is at each ring's first corner, at every 64th one, so that what is kept is short, and where rings touch.
    """
    points, ring = shapely.get_coordinates(rings, return_index=True)
    sizes = np.bincount(ring)
    ends = np.cumsum(sizes) - 1  # a ring's last point is its first one again
    begins = ends - sizes + 1
    place = np.arange(len(points)) - np.repeat(begins, sizes)
    cuts = place % _ARC == 0
    cuts[ends] = True
    _, inverse, counts = np.unique(np.delete(points, ends, axis=0), axis=0, return_inverse=True, return_counts=True)
    cuts[np.delete(np.arange(len(points)), ends)] |= counts[inverse.ravel()] > 1
    at = np.flatnonzero(cuts)
    first, last = at[:-1], at[1:]
    own = ring[first] == ring[last]
    first, last = first[own], last[own]
    lengths = last - first + 1
    arc = np.repeat(np.arange(len(first)), lengths)
    inner = np.arange(len(arc)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
    return shapely.linestrings(points[first[arc] + inner], indices=arc), ring[first]


def _joined(arcs: np.ndarray, ring_of_arc: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Points of the arcs in order, each once, and the ring of each point."""
    points, arc = shapely.get_coordinates(arcs, return_index=True)
    follows = np.append(arc[1:] == arc[:-1], False)  # the last point of an arc is the first of the next one
    return points[follows], ring_of_arc[arc[follows]]


def _areas(points: np.ndarray, ring: np.ndarray, count: int) -> np.ndarray:
    """Twice the signed area of each ring, whose points need not repeat the first one."""
    ahead = np.roll(points, -1, axis=0)
    ends = np.flatnonzero(np.append(ring[1:] != ring[:-1], True))
    begins = np.append(0, ends[:-1] + 1)
    ahead[ends] = points[begins]
    return np.bincount(ring, points[:, 0] * ahead[:, 1] - ahead[:, 0] * points[:, 1], minlength=count)


def _crossing(arcs: np.ndarray, kept: np.ndarray) -> np.ndarray:
    """Arcs that meet another one elsewhere than at their ends; those that are kept may meet each other."""
    changed = np.flatnonzero(~kept)
    found = np.zeros(len(arcs), bool)
    if not len(changed):
        return found
    one, other = shapely.STRtree(arcs).query(arcs[changed], predicate="intersects")
    one = changed[one]
    pairs = one != other
    one, other = one[pairs], other[pairs]
    cross = ~shapely.touches(arcs[one], arcs[other])
    found[one[cross]] = found[other[cross]] = True
    return found


def _polygon(points: np.ndarray, ring: np.ndarray) -> shapely.Polygon:
    rings = shapely.linearrings(points, indices=ring)
    return shapely.polygons(rings[0], holes=rings[1:] if len(rings) > 1 else None)
