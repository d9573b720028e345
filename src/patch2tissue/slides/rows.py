"""Rasters too large for memory, read and written by rows."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Protocol

import numpy as np

from patch2tissue.errors import DataError


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

    Raises:
        DataError: if the file is not there, or is of another size, and must not be made.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], *, create: bool = False) -> None:
        self.path, self.shape = Path(path), shape
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
        """Write rows [n, width(, channels)] uint8 from row `top` on, and wait until they are on disk."""
        with self.path.open("r+b") as file:
            file.seek(top * self._row)
            file.write(np.ascontiguousarray(rows, np.uint8).tobytes())
            file.flush()
            os.fsync(file.fileno())
