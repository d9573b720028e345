"""Outlines of tissues along the pixels' edges, traced through maps of any size a few rows at a time.

A vertex (x, y) is the left upper corner of pixel (x, y). An outline turns at corners only; in every row of vertices
its corners are joined in pairs by horizontal edges, in every column by vertical ones. Horizontal pairs are known as
soon as a row is read; of a vertical edge that reaches beyond the rows read so far the upper corner waits. Outlines
without a waiting corner are closed.

Tracing a library's way (OpenCV) goes through the pixels' middles and loses half a pixel on every side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from scipy.sparse import csr_array
from scipy.sparse.csgraph import connected_components

NOTHING = 255
"""What a map holds where there is no tissue, as around it."""

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

    @cached_property
    def pixel_above(self) -> tuple[float, float]:
        """Of a hole: the middle of a pixel of the tissue around it, which no piece inside the hole holds."""
        first = _from_first_corner(self.vertices)[0]
        return float(first[0]) + 0.5, float(first[1]) - 0.5


# What the four pixels around a vertex make of it. Bits: 1 left above, 2 right above, 4 left below, 8 right below.
# For each corner: does the outline (tissue on its right hand) leave it along a horizontal edge?
_LEAVES_ALONG = {8: True, 4: False, 1: True, 2: False, 7: False, 11: True, 13: True, 14: False}
_HORIZONTAL = np.zeros(16, bool)
for _code, _horizontal in _LEAVES_ALONG.items():
    _HORIZONTAL[_code] = _horizontal
_FALLING, _RISING = 9, 6
"""Two pixels that touch at the vertex only: the outlines of both turn there, so that pieces are joined by edges."""


_TURNS = np.array([kind in _LEAVES_ALONG or kind in (_FALLING, _RISING) for kind in range(16)])


@dataclass(frozen=True)
class Vertices:
    """Where outlines of any tissue may turn, row by row from left to right.

    Attributes:
        x: int32 [n].
        y: int32 [n].
        around: uint8 [4, n], the map's values left above, right above, left below and right below.
    """

    x: np.ndarray
    y: np.ndarray
    around: np.ndarray


def vertices_between(above: np.ndarray, rows: np.ndarray, top: int) -> Vertices:
    """The vertices on the upper edges of some rows of a map.

    Args:
        above: uint8 [width], the row above them.
        rows: uint8 [n, width].
        top: index of their first row.
    """
    padded = np.full((len(rows) + 1, rows.shape[1] + 2), NOTHING, np.uint8)
    padded[0, 1:-1], padded[1:, 1:-1] = above, rows
    # an outline that turns has a change beside it and one below or above it
    beside = padded[:, :-1] != padded[:, 1:]
    turns = beside[:-1] | beside[1:]
    del beside
    below = padded[:-1] != padded[1:]
    turns &= below[:, :-1] | below[:, 1:]
    del below
    y, x = np.divmod(np.flatnonzero(turns), turns.shape[1])
    around = np.stack([padded[y + down, x + right] for down in (0, 1) for right in (0, 1)])
    return Vertices(x.astype(np.int32), (y + top).astype(np.int32), around)


class ContourTracer:
    """Traces the outlines of one tissue.

    What is known of an open outline are paths that end in a waiting corner on both sides. Where a path begins and
    ends is all that the next rows need of it: its corners are not looked at again until its outline is closed.

    Args:
        tissue: its index.
    """

    def __init__(self, tissue: int) -> None:
        self._tissue = tissue
        # of the open paths: columns of the first and the last corner, and the corners, int32 [n, 2] each, in pieces
        self._firsts = np.empty(0, np.int32)
        self._lasts = np.empty(0, np.int32)
        self._paths: list[list[np.ndarray]] = []

    def add(self, vertices: Vertices) -> list[Ring]:
        """Take the vertices of the next rows; return the outlines that are closed by them.

        After the last row comes one of `NOTHING`, which closes all.
        """
        x, y, along, order = self._corners(vertices)
        if not len(x) and not self._paths:
            return []
        # corners come row by row: first with second, third with fourth, ... are joined by a horizontal edge, which the
        # outline enters at the corner that it leaves along the row
        enters = np.arange(0, len(x), 2) + ~along[::2]
        leaves = enters ^ 1
        edges = np.empty((len(enters), 2, 2), np.int32)
        for end, corners in enumerate((enters, leaves)):
            edges[:, end, 0], edges[:, end, 1] = x[corners], y[corners]
        # in each column corners are joined in pairs from above, those that wait first
        waits = np.full(len(self._paths), -1, np.int64)
        within = 2 * y.astype(np.int64) + order
        following = _joined(
            np.concatenate([self._firsts, edges[:, 0, 0]]),
            np.concatenate([waits, within[enters]]),
            np.concatenate([self._lasts, edges[:, 1, 0]]),
            np.concatenate([waits, within[leaves]]),
        )
        return self._sorted_out(edges, *_chains(following))

    def _corners(self, vertices: Vertices) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
        """Corners of the tissue's outlines.

        Returns:
            x, y, whether the outline leaves along the row, and 1 where of two corners at one vertex this is the lower
            one; row by row, from left to right, of two at one vertex the one that is joined to the left first.
        """
        kinds = sum((vertices.around[bit] == self._tissue) * np.uint8(1 << bit) for bit in range(4))
        chosen = np.flatnonzero(_TURNS[kinds])
        kind = kinds[chosen]
        times = np.where((kind == _FALLING) | (kind == _RISING), 2, 1)
        kinds, second = np.repeat(kind, times), np.zeros(int(times.sum()), bool)
        second[np.cumsum(times)[times == 2] - 1] = True
        # falling: the corner of the pixel left above, then that of the one right below, both leaving along the row;
        # rising: that of the pixel left below, then that of the one right above, both leaving along the column
        along = np.where(kinds == _FALLING, True, np.where(kinds == _RISING, False, _HORIZONTAL[kinds]))
        order = np.where(kinds == _FALLING, second, (kinds == _RISING) & ~second)
        places = np.repeat(chosen, times)
        return vertices.x[places], vertices.y[places], along, order.astype(np.int64)

    def _sorted_out(self, edges: np.ndarray, order: np.ndarray, starts: np.ndarray, closed: np.ndarray) -> list[Ring]:
        """Make chains of paths and edges to new paths, and to outlines, which are returned.

        Args:
            edges: int32 [E, 2, 2]: the new horizontal edges, (x, y) of both ends.
            order: paths (0 to P - 1) and edges (from P on), chain by chain.
            starts: where in `order` each chain begins, and where the last one ends.
            closed: whether each chain is an outline.
        """
        paths, old = self._paths, order < len(self._paths)
        corners = edges[order[~old] - len(paths)].reshape(-1, 2)
        before = 2 * np.concatenate([[0], np.cumsum(~old)])  # corners of the new edges before each place
        places = np.flatnonzero(old)
        bounds = np.searchsorted(places, starts).tolist()
        places_of, edge_of, order_of = places.tolist(), before.tolist(), order.tolist()
        rings: list[np.ndarray] = []
        self._paths, firsts, lasts = [], [], []
        for chain, (start, end, done) in enumerate(zip(starts.tolist(), starts[1:].tolist(), closed, strict=False)):
            pieces: list[np.ndarray] = []
            place = start
            for known in places_of[bounds[chain] : bounds[chain + 1]]:
                if edge_of[known] > edge_of[place]:
                    pieces.append(corners[edge_of[place] : edge_of[known]])
                pieces += paths[order_of[known]]
                place = known + 1
            if edge_of[end] > edge_of[place]:
                pieces.append(corners[edge_of[place] : edge_of[end]])
            if done:
                rings.append(pieces[0] if len(pieces) == 1 else np.concatenate(pieces))
            else:
                # copies, or a path would keep all corners of these rows in memory
                self._paths.append([piece if piece.base is None else piece.copy() for piece in pieces])
                firsts.append(pieces[0][0, 0])
                lasts.append(pieces[-1][-1, 0])
        self._firsts, self._lasts = np.array(firsts, np.int32), np.array(lasts, np.int32)
        rings = [_from_first_corner(ring) for ring in rings]
        rings.sort(key=lambda ring: (ring[0, 1], ring[0, 0]))
        return [part for ring in rings for part in _simple(ring)]


def _joined(firsts: np.ndarray, first_within: np.ndarray, lasts: np.ndarray, last_within: np.ndarray) -> np.ndarray:
    """What follows on each of N paths: the one whose first corner is joined to its last one by a vertical edge.

    Args:
        firsts: int32 [N], column of each first corner.
        first_within: int64 [N], its place among the corners of its column.
        lasts: as `firsts`, of the last corners.
        last_within: likewise.

    Returns:
        int64 [N]; -1 where the corner below is not known yet.
    """
    count = len(firsts)
    columns = np.concatenate([firsts, lasts])
    ranked = np.lexsort((np.concatenate([first_within, last_within]), columns))
    columns = columns[ranked]
    starts = np.flatnonzero(np.diff(columns, prepend=-1))
    place = np.arange(len(columns)) - np.repeat(starts, np.diff(starts, append=len(columns)))
    upper = np.flatnonzero((place % 2 == 0) & np.append(columns[1:] == columns[:-1], False))
    one, other = ranked[upper], ranked[upper + 1]
    # of two corners that a vertical edge joins the outline leaves one and enters the other
    following = np.full(count, _OPEN, np.int64)
    last, first = np.maximum(one, other), np.minimum(one, other)
    following[last - count] = first
    return following


def _chains(following: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sort paths into chains.

    Args:
        following: int64 [N]: which path follows on each; -1: none.

    Returns:
        the paths, chain by chain, in the order of going along each (a closed one from its lowest number); where each
        chain begins, with the end of the last one; and whether each chain is closed.
    """
    count = len(following)
    goes_on = np.flatnonzero(following != _OPEN)
    graph = csr_array((np.ones(len(goes_on), bool), (goes_on, following[goes_on])), shape=(count, count))
    chains, labels = connected_components(graph, connection="weak")
    closed = np.ones(chains, bool)
    closed[labels[following == _OPEN]] = False
    lowest = np.full(chains, count, np.int64)
    np.minimum.at(lowest, labels, np.arange(count))
    # where a chain is taken to end: a closed one at its lowest number, to which all lead
    ends = following == _OPEN
    ends[lowest[closed]] = True
    pointer = np.where(ends, np.arange(count), following)
    steps = (~ends).astype(np.int64)
    while not ends[pointer].all():
        steps += steps[pointer]
        pointer = pointer[pointer]
    # the lowest number of a closed chain comes first and is where it ends
    steps[lowest[closed]] = count
    order = np.lexsort((-steps, labels))
    starts = np.concatenate([[0], np.cumsum(np.bincount(labels, minlength=chains))])
    return order, starts, closed


def _from_first_corner(ring: np.ndarray) -> np.ndarray:
    """Begin an outline with its uppermost corner, of several with the leftmost."""
    return np.roll(ring, -int(np.argmin(ring[:, 1].astype(np.int64) << 32 | ring[:, 0])), axis=0)


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
