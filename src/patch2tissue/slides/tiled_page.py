"""Reading parts of a page of a TIFF, whatever it is stored in: tiles or strips."""

from __future__ import annotations

import threading

import numpy as np
import tifffile

LARGEST_PIECE = 2**26
"""Most pixels of one stored tile or strip; a larger one cannot be read in parts."""


class TiledPage:
    """One page, read from several threads if wanted.

    Args:
        file: the open file.
        page: one of its pages, uint8, samples of a pixel beside each other.
        lock: shared by all pages of the file.

    Attributes:
        width: in pixels.
        height: in pixels.
        samples: values per pixel.

    Raises:
        ValueError: if the page cannot be read in parts.
    """

    def __init__(self, file: tifffile.TiffFile, page: tifffile.TiffPage, lock: threading.Lock) -> None:
        self._file, self._page, self._lock = file, page, lock
        self.width, self.height = int(page.imagewidth), int(page.imagelength)
        self.samples = int(page.samplesperpixel)
        if page.dtype != np.uint8 or (self.samples > 1 and page.planarconfig != 1):
            raise ValueError(f"its pixels are {self.samples} × {page.dtype}, not bytes side by side")
        self._tall, self._wide = int(page.chunks[0]), int(page.chunks[1])
        if self._tall * self._wide > LARGEST_PIECE:
            raise ValueError("it is stored in one piece, not in tiles; save it as a tiled pyramid")

    def read(self, left: int, top: int, width: int, height: int) -> np.ndarray:
        """A region inside the page, uint8 [height, width, samples]; 255 where the file leaves out tiles.

        Raises:
            Exception: of any kind, from the decoder, if the file is damaged.
        """
        across = -(-self.width // self._wide)
        found = np.full((height, width, self.samples), 255, np.uint8)
        for row in range(top // self._tall, -(-(top + height) // self._tall)):
            for column in range(left // self._wide, -(-(left + width) // self._wide)):
                piece = self._piece(row * across + column)
                if piece is None:
                    continue
                y, x = row * self._tall, column * self._wide
                y0, x0 = max(y, top), max(x, left)
                y1, x1 = min(y + piece.shape[0], top + height), min(x + piece.shape[1], left + width)
                found[y0 - top : y1 - top, x0 - left : x1 - left] = piece[y0 - y : y1 - y, x0 - x : x1 - x]
        return found

    def _piece(self, index: int) -> np.ndarray | None:
        """One stored tile or strip [h, w, samples], None if it is empty."""
        offset, count = self._page.dataoffsets[index], self._page.databytecounts[index]
        if count == 0:
            return None
        with self._lock:
            self._file.filehandle.seek(offset)
            content = self._file.filehandle.read(count)
        if len(content) < count:
            raise ValueError("it ends before its last pixels")
        piece, _, _ = self._page.decode(content, index, jpegtables=self._page.jpegtables)
        return None if piece is None else np.asarray(piece)[0]
