"""Rasters too large for memory, read and written by rows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Protocol

import numpy as np

from patch2tissue.errors import DataError

STRIP_PIXELS = 2**24
"""Pixels of a raster that are held in memory at a time."""


class Rows(Protocol):
    """A uint8 raster that is read a few rows at a time: [height, width] or [height, width, channels]."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Height, width and, where there are several values per pixel, channels."""

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Rows top to bottom - 1, uint8, an array of its own."""


class ArrayRows:
    """An array in memory as `Rows`."""

    def __init__(self, array: np.ndarray) -> None:
        self.array = array

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the array."""
        return self.array.shape

    def read(self, top: int, bottom: int) -> np.ndarray:
        """See `Rows.read`."""
        return self.array[top:bottom].copy()


class RowFile:
    """A uint8 raster in a plain file, one row after the other.

    Files rather than memory maps, since what a map has touched counts as memory of the process.

    Args:
        path: the file.
        shape: height, width and, where there are several values per pixel, channels.
        create: make the file, all zeros (it takes no room on disk until rows are written), if it is not there with
            this very size.
        durable: wait at each write until the rows are on disk.

    Raises:
        DataError: if the file is not there, or is of another size, and must not be made.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], *, create: bool = False, durable: bool = True) -> None:
        self.path, self.shape, self._durable = Path(path), shape, durable
        self._row = int(np.prod(shape[1:]))
        whole = self._row * shape[0]
        if not self.path.is_file() or self.path.stat().st_size != whole:
            if not create:
                raise DataError(f"{path}: is no raster of {shape[0]} rows of {self._row} bytes.")
            with self.path.open("wb") as file:
                file.truncate(whole)

    def read(self, top: int, bottom: int) -> np.ndarray:
        """See `Rows.read`."""
        rows = np.fromfile(self.path, np.uint8, count=(bottom - top) * self._row, offset=top * self._row)
        return rows.reshape(bottom - top, *self.shape[1:])

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write rows [n, width(, channels)] uint8 from row `top` on."""
        with self.path.open("r+b") as file:
            file.seek(top * self._row)
            file.write(np.ascontiguousarray(rows, np.uint8).data)
            if self._durable:
                file.flush()
                os.fsync(file.fileno())


def strips(rows: Rows, pixels: int = STRIP_PIXELS) -> Iterator[tuple[int, np.ndarray]]:
    """(first row, rows) of a raster in pieces of about so many pixels."""
    height, width = rows.shape[:2]
    step = max(1, pixels // width)
    for top in range(0, height, step):
        yield top, rows.read(top, min(height, top + step))


def count_values(rows: Rows) -> np.ndarray:
    """How often each value 0..255 occurs in a raster, int64 [256]."""
    counts = np.zeros(256, np.int64)
    for _, strip in strips(rows):
        counts += np.bincount(strip.ravel(), minlength=256)
    return counts
