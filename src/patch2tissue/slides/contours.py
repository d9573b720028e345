"""Outlines of tissues along the pixels' edges, traced through maps of any size a few rows at a time.

A vertex (x, y) is the left upper corner of pixel (x, y). An outline turns at corners only; in every row of vertices
its corners are joined in pairs by horizontal edges, in every column by vertical ones. Horizontal pairs are known as
soon as a row is read; of a vertical edge that reaches beyond the rows read so far the upper corner waits. Outlines
without a waiting corner are closed.

Tracing a library's way (OpenCV) goes through the pixels' middles and loses half a pixel on every side.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

_OPEN = -1


@dataclass(frozen=True)
class Ring:
    """A closed outline.

    Attributes:
        vertices: int32 [n, 2], (x, y), without the first one again; clockwise as seen in the picture around tissue,
            the other way around a hole.
        area: in pixels; negative for a hole.
    """

    vertices: np.ndarray
    area: int

    def pixel_above(self) -> tuple[float, float]:
        """Of a hole: the middle of a pixel of the tissue around it, which no piece inside the hole holds."""
        first = self.vertices[np.lexsort((self.vertices[:, 0], self.vertices[:, 1]))[0]]
        return float(first[0]) + 0.5, float(first[1]) - 0.5


# What the four pixels around a vertex make of it. Bits: 1 left above, 2 right above, 4 left below, 8 right below.
# For each corner: does the outline (tissue on its right hand) leave it along a horizontal edge?
_LEAVES_ALONG = {8: True, 4: False, 1: True, 2: False, 7: False, 11: True, 13: True, 14: False}
_HORIZONTAL = np.zeros(16, bool)
for _code, _horizontal in _LEAVES_ALONG.items():
    _HORIZONTAL[_code] = _horizontal
_FALLING, _RISING = 9, 6
"""Two pixels that touch at the vertex only: the outlines of both turn there, so that pieces are joined by edges."""


class ContourTracer:
    """Traces the outlines of one tissue.

    Args:
        width: of the map in pixels.
    """

    def __init__(self, width: int) -> None:
        self._width = width
        self._above = np.zeros(width, bool)
        self._top = 0
        # corners of outlines that are not closed yet; partners are indices into these arrays
        self._x = np.empty(0, np.int32)
        self._y = np.empty(0, np.int32)
        self._along = np.empty(0, bool)
        self._beside = np.empty(0, np.int32)
        self._below = np.empty(0, np.int32)

    def add(self, mask: np.ndarray) -> list[Ring]:
        """Take the next rows, bool [n, width]; return the outlines that are closed by them."""
        padded = np.zeros((len(mask) + 1, self._width + 2), np.uint8)
        padded[0, 1:-1] = self._above
        padded[1:, 1:-1] = mask
        self._above = mask[-1].copy()
        return self._take(padded)

    def finish(self) -> list[Ring]:
        """Close what touches the last row."""
        padded = np.zeros((2, self._width + 2), np.uint8)
        padded[0, 1:-1] = self._above
        self._above = np.zeros(self._width, bool)
        return self._take(padded)

    def _take(self, padded: np.ndarray) -> list[Ring]:
        top, self._top = self._top, self._top + len(padded) - 1
        if not padded.any() and not len(self._x):
            return []
        x, y, along, order = _corners(padded)
        self._join(x, y + np.int32(top), along, order)
        return self._closed()

    def _join(self, x: np.ndarray, y: np.ndarray, along: np.ndarray, order: np.ndarray) -> None:
        """Add corners, which come row by row, and pair them."""
        known = len(self._x)
        beside = np.arange(known, known + len(x), dtype=np.int32)
        beside = beside.reshape(-1, 2)[:, ::-1].ravel()  # first with second, third with fourth, ...
        waiting = np.flatnonzero(self._below == _OPEN)
        self._x, self._y = np.concatenate([self._x, x]), np.concatenate([self._y, y])
        self._along = np.concatenate([self._along, along])
        self._beside = np.concatenate([self._beside, beside])
        self._below = np.concatenate([self._below, np.full(len(x), _OPEN, np.int32)])
        # in each column from above: a waiting corner first, then the new ones
        candidates = np.concatenate([waiting, np.arange(known, known + len(x))])
        within = np.concatenate([np.full(len(waiting), -1, np.int64), 2 * y.astype(np.int64) + order])
        candidates = candidates[np.lexsort((within, self._x[candidates]))]
        columns = self._x[candidates]
        starts = np.flatnonzero(np.diff(columns, prepend=-1))
        place = np.arange(len(columns)) - np.repeat(starts, np.diff(starts, append=len(columns)))
        first = np.flatnonzero((place % 2 == 0) & np.append(columns[1:] == columns[:-1], False))
        upper, lower = candidates[first], candidates[first + 1]
        self._below[upper], self._below[lower] = lower, upper

    def _closed(self) -> list[Ring]:
        """Take out the outlines that have no waiting corner."""
        count = len(self._x)
        if not count:
            return []
        # each corner's row: its partner beside it, then the one in its column if that is known
        joined = self._below != _OPEN
        rows = np.zeros(count + 1, np.int32)
        np.cumsum(1 + joined, out=rows[1:])
        partners = np.empty(rows[-1], np.int32)
        partners[rows[:-1]] = self._beside
        partners[rows[:-1][joined] + 1] = self._below[joined]
        graph = csr_array((np.ones(len(partners), bool), partners, rows), shape=(count, count))
        # partners are mutual, so that strong components are the outlines; others would need the graph's transpose
        parts, labels = connected_components(graph, directed=True, connection="strong")
        waits = np.zeros(parts, bool)
        waits[labels[~joined]] = True
        closed = ~waits[labels]
        rings = _rings(*self._select(closed), labels[closed]) if closed.any() else []
        self._x, self._y, self._along, self._beside, self._below = self._select(~closed)
        return rings

    def _select(self, chosen: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """The chosen corners, whose partners are chosen as well, with indices of their own."""
        renumbered = np.cumsum(chosen, dtype=np.int32) - 1
        below = self._below[chosen]
        below = np.where(below == _OPEN, np.int32(_OPEN), renumbered[below])
        return self._x[chosen], self._y[chosen], self._along[chosen], renumbered[self._beside[chosen]], below


def _corners(padded: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Corners between the rows of a mask with a column of zeros on both sides.

    Returns:
        x, y (0 is above the mask's second row), whether the outline leaves along the row, and 1 where of two corners at
        one vertex this is the lower one; row by row, from left to right, of two at one vertex the one that is joined to
        the left first.
    """
    a, b, c, d = padded[:-1, :-1], padded[:-1, 1:], padded[1:, :-1], padded[1:, 1:]
    across, sides = a ^ b, c ^ d
    # an odd number of the four is tissue, or two that touch at the vertex only
    flat = np.flatnonzero((across ^ sides) | (across & sides & (a ^ c)))
    y, x = np.divmod(flat, padded.shape[1] - 1)
    kind = padded[y, x] + 2 * padded[y, x + 1] + 4 * padded[y + 1, x] + 8 * padded[y + 1, x + 1]
    falling, rising = kind == _FALLING, kind == _RISING
    times = np.where(falling | rising, 2, 1)
    kinds, second = np.repeat(kind, times), np.zeros(int(times.sum()), bool)
    second[np.cumsum(times)[times == 2] - 1] = True
    # falling: the corner of the pixel left above, then that of the one right below, both leaving along the row;
    # rising: that of the pixel left below, then that of the one right above, both leaving along the column
    along = np.where(kinds == _FALLING, True, np.where(kinds == _RISING, False, _HORIZONTAL[kinds]))
    order = np.where(kinds == _FALLING, second, (kinds == _RISING) & ~second)
    return (
        np.repeat(x, times).astype(np.int32),
        np.repeat(y, times).astype(np.int32),
        along,
        order.astype(np.int64),
    )


def _rings(
    x: np.ndarray, y: np.ndarray, along: np.ndarray, beside: np.ndarray, below: np.ndarray, labels: np.ndarray
) -> list[Ring]:
    """Corners of closed outlines in the order of going around, outlines in the order of their first corner."""
    count = len(x)
    indices = np.arange(count)
    following = np.where(along, beside, below)
    _, firsts, labels = np.unique(labels, return_index=True, return_inverse=True)
    first = firsts[labels]
    # steps from each corner to the first of its outline, by doubling
    pointer = np.where(indices == first, indices, following)
    steps = (indices != first).astype(np.int64)
    while not np.array_equal(pointer, first):
        steps += steps[pointer]
        pointer = pointer[pointer]
    # outlines in the order of their first corner; in each the first corner and then by falling distance to it
    order = np.lexsort((np.where(steps == 0, -count, -steps), first))
    vertices = np.stack([x[order], y[order]], axis=1)
    starts = np.flatnonzero(np.diff(first[order], prepend=-1))
    return [part for ring in np.split(vertices, starts[1:]) for part in _simple(ring)]


def _simple(ring: np.ndarray) -> list[Ring]:
    """Split an outline where it touches itself: a hole that reaches the outside at a corner is a ring of its own."""
    keys = ring[:, 1].astype(np.int64) << 32 | ring[:, 0]
    if len(np.unique(keys)) == len(keys):
        return [_ring(ring)]
    parts: list[Ring] = []
    path: list[int] = []
    places: dict[int, int] = {}
    for index, key in enumerate(keys.tolist()):
        if key in places:
            start = places[key]
            parts.append(_ring(ring[path[start:]]))
            for dropped in path[start:]:
                del places[int(keys[dropped])]
            del path[start:]
        places[key] = len(path)
        path.append(index)
    parts.append(_ring(ring[path]))
    return parts


def _ring(vertices: np.ndarray) -> Ring:
    wide = vertices.astype(np.int64)
    ahead = np.roll(wide, -1, axis=0)
    return Ring(vertices, int((wide[:, 0] * ahead[:, 1] - ahead[:, 0] * wide[:, 1]).sum()) // 2)
