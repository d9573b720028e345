"""Blending tiles of a slide row by row, in memory that does not grow with the slide.

Tiles come in row-major order. A sliding buffer of one tile's size holds what tiles have added so far; columns to which
no further tile of the row adds leave it: their upper rows are final, their lower rows, to which the next tile row adds,
are put into a file until then (the carry).
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np

from patch2tissue.inference.slides.plan import TilePlan
from patch2tissue.inference.tiling import blending_window

Finished = Callable[[int, np.ndarray], None]
"""Takes the first column and the sums [C + 1, rows, columns] float32 of columns that are final; the last is the sum of
the window's weights, zero where no tile was."""


class Carry:
    """Sums of columns that wait for the next tile row, in two files that take turns.

    A row reads what the row above left and writes into the other file, so that a row that was cut short can be done
    again.

    Args:
        folder: where the files are.
        width: of the map in pixels.
        channels: values per pixel.
        rows: most rows that wait.
    """

    def __init__(self, folder: Path, width: int, channels: int, rows: int) -> None:
        self._slot = (channels, rows)
        self._column = 4 * channels * rows
        self._paths = (folder / "carry-0.raw", folder / "carry-1.raw")
        for path in self._paths:
            if not path.is_file() or path.stat().st_size != width * self._column:
                with path.open("wb") as file:
                    file.truncate(width * self._column)
        self._files = [path.open("r+b") for path in self._paths]

    def load(self, row: int, left: int, right: int) -> np.ndarray:
        """What row `row` left in columns left to right - 1: float32 [channels, rows, columns]."""
        file = self._files[row % 2]
        file.seek(left * self._column)
        content = np.frombuffer(file.read((right - left) * self._column), np.float32)
        return content.reshape(right - left, *self._slot).transpose(1, 2, 0)

    def store(self, row: int, left: int, sums: np.ndarray) -> None:
        """Keep sums [channels, rows, columns] of row `row` from column `left` on."""
        _, rows, columns = sums.shape
        content = np.zeros((columns, *self._slot), np.float32)
        content[:, :, :rows] = sums.transpose(2, 0, 1)
        file = self._files[row % 2]
        file.seek(left * self._column)
        file.write(content.tobytes())

    def flush(self, row: int) -> None:
        """Wait until what row `row` left is on disk."""
        file = self._files[row % 2]
        file.flush()
        os.fsync(file.fileno())

    def close(self, *, remove: bool = False) -> None:
        """Close the files, and remove them if they are not needed any more."""
        for file, path in zip(self._files, self._paths, strict=True):
            file.close()
            if remove:
                path.unlink(missing_ok=True)


class RowBlender:
    """Adds up the windowed tiles of one row after the other.

    Args:
        plan: the tiles.
        channels: values per pixel of a tile.
        folder: where the carry is kept.

    Attributes:
        carry: the file between two rows.
    """

    def __init__(self, plan: TilePlan, channels: int, folder: Path) -> None:
        self.plan = plan
        tall, wide = plan.tile
        self._window = blending_window(tall, wide).numpy()
        steps = np.diff(plan.tops)
        self.carry = Carry(folder, plan.width, channels + 1, int(tall - steps.min()) if len(steps) else 0)
        self._buffer = np.zeros((channels + 1, tall, wide), np.float32)
        self._row, self._left = 0, 0
        self._finished: Finished = lambda left, sums: None
        self._active = np.zeros(0, bool)
        self._carried = np.zeros(0, bool)

    def begin_row(self, row: int, finished: Finished) -> None:
        """Start a tile row.

        Args:
            row: its index.
            finished: called with columns as they become final, from left to right; columns to which no tile adds are
                left out.
        """
        self._row, self._left, self._finished = row, 0, finished
        self._carried = self._columns_carried_into(row)
        self._active = self._carried | self._columns_of(row)
        self._buffer[:] = 0
        self._load(0, min(self.plan.tile[1], self.plan.width))

    def add(self, column: int, values: np.ndarray) -> None:
        """Add a tile [C, h, w] float32 of the row; columns ascend."""
        self._advance(self.plan.lefts[column])
        self._buffer[:-1] += values * self._window
        self._buffer[-1] += self._window

    def end_row(self) -> None:
        """Finish the row, and wait until its carry is on disk."""
        self._advance(self.plan.width)
        self.carry.flush(self._row)

    def _advance(self, left: int) -> None:
        """Let columns up to `left` go."""
        wide, width = self.plan.tile[1], self.plan.width
        while self._left < left:
            step = min(left - self._left, wide)
            if self._active[self._left : self._left + step].any():
                self._release(step)
            if step < wide:
                # a copy, since the two parts overlap
                self._buffer[:, :, : wide - step] = self._buffer[:, :, step:].copy()
            self._buffer[:, :, wide - step :] = 0
            self._left += step
            self._load(self._left + wide - step, min(self._left + wide, width))

    def _release(self, step: int) -> None:
        top, bottom = self.plan.final_rows(self._row)
        final = bottom - top
        step = min(step, self.plan.width - self._left)
        self._finished(self._left, self._buffer[:, :final, :step])
        if final < self.plan.tile[0]:
            self.carry.store(self._row, self._left, self._buffer[:, final:, :step])

    def _load(self, left: int, right: int) -> None:
        """Take over what the row above left in columns that come into the buffer."""
        if left >= right or not self._carried[left:right].any():
            return
        rows = self.plan.tops[self._row - 1] + self.plan.tile[0] - self.plan.tops[self._row]
        found = self.carry.load(self._row - 1, left, right)[:, :rows]
        # outside the columns that were carried the file holds what rows long done left there
        known = self._carried[left:right]
        place = slice(left - self._left, right - self._left)
        self._buffer[:, :rows, place] = np.where(known, found, 0)

    def _columns_of(self, row: int) -> np.ndarray:
        """Columns of the map that the row's own tiles cover, bool [width]."""
        covered = np.zeros(self.plan.width, bool)
        for column in np.flatnonzero(self.plan.present[row]):
            covered[self.plan.lefts[column] : self.plan.lefts[column] + self.plan.tile[1]] = True
        return covered

    def _columns_carried_into(self, row: int) -> np.ndarray:
        """Columns to which tile rows above a row add that reach into it, bool [width]."""
        carried = np.zeros(self.plan.width, bool)
        for above in range(row - 1, -1, -1):
            if self.plan.tops[above] + self.plan.tile[0] <= self.plan.tops[row]:
                break
            carried |= self._columns_of(above)
        return carried
