"""Which tiles of a slide go through the network, and in which order they are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from patch2tissue.inference.tiling import tile_positions
from patch2tissue.slides.tissue_mask import TissueMask

TILES_PER_BLOCK = 8
"""Most neighbouring tiles that are read as one piece: what they share is decoded once."""


@dataclass(frozen=True)
class Block:
    """Neighbouring tiles of one row that are read together.

    Attributes:
        row: index of the tile row.
        columns: indices of the tile columns, ascending.
        left: of the region in map pixels, as are the others.
        top: likewise.
        width: likewise.
        height: likewise.
        first: number of its first tile among all tiles of the plan.
    """

    row: int
    columns: tuple[int, ...]
    left: int
    top: int
    width: int
    height: int
    first: int


@dataclass(frozen=True)
class TilePlan:
    """The tiles of a map, row by row.

    Attributes:
        height: of the map in pixels.
        width: of the map in pixels.
        tile: (height, width) of a tile in pixels; smaller than wanted only where the map is.
        tops: first row of each tile row.
        lefts: first column of each tile column.
        present: bool [rows, columns]: the tiles that hold tissue.
    """

    height: int
    width: int
    tile: tuple[int, int]
    tops: tuple[int, ...]
    lefts: tuple[int, ...]
    present: np.ndarray

    @property
    def tiles(self) -> int:
        """Number of tiles that hold tissue."""
        return int(self.present.sum())

    def tiles_before(self, row: int) -> int:
        """Number of tiles with tissue in the rows above a row."""
        return int(self.present[:row].sum())

    def final_rows(self, row: int) -> tuple[int, int]:
        """Map rows [top, bottom) to which no tile row after this one adds."""
        last = row + 1 == len(self.tops)
        return self.tops[row], self.height if last else self.tops[row + 1]

    def blocks(self, start: int = 0, stop: int | None = None) -> Iterator[Block]:
        """Blocks in row-major order, from the one that holds tile number `start` to that which holds `stop` - 1."""
        number = 0
        stop = self.tiles if stop is None else stop
        for row, top in enumerate(self.tops):
            columns = np.flatnonzero(self.present[row])
            for group in _neighbours(columns):
                if number >= stop:
                    return
                if number + len(group) > start:
                    left = self.lefts[group[0]]
                    width = self.lefts[group[-1]] + self.tile[1] - left
                    yield Block(row, group, left, top, width, self.tile[0], number)
                number += len(group)


def _neighbours(columns: np.ndarray) -> Iterator[tuple[int, ...]]:
    """Split ascending indices where they leave one out, and into groups that are not too long."""
    breaks = np.flatnonzero(np.diff(columns) > 1) + 1
    for run in np.split(columns, breaks):
        for start in range(0, len(run), TILES_PER_BLOCK):
            group = tuple(int(column) for column in run[start : start + TILES_PER_BLOCK])
            if group:
                yield group


def plan_tiles(
    size: tuple[int, int], tile: int, overlap: float, tissue: TissueMask, scale: tuple[float, float]
) -> TilePlan:
    """Lay tiles over a map and keep those that hold any tissue.

    Args:
        size: (width, height) of the map in pixels.
        tile: side of a tile in pixels.
        overlap: see `tile_positions`.
        tissue: where tissue is.
        scale: (sx, sy), level-0 pixels per map pixel.
    """
    width, height = size
    tops, lefts = tile_positions(height, tile, overlap), tile_positions(width, tile, overlap)
    tile_height, tile_width = min(tile, height), min(tile, width)
    x, y = np.meshgrid(np.array(lefts) * scale[0], np.array(tops) * scale[1])
    present = tissue.share(x, y, tile_width * scale[0], tile_height * scale[1]) > 0
    return TilePlan(height, width, (tile_height, tile_width), tuple(tops), tuple(lefts), present)
