"""Reading the tiles of a slide ahead of the network, in processes of their own."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import DataLoader, Dataset

from patch2tissue.cores import available_cores
from patch2tissue.errors import DataError
from patch2tissue.inference.slides.plan import Block, TilePlan
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.scaled import ScaledSlide

Tile = tuple[int, int, int, np.ndarray]
"""Number among all tiles, row, column, and pixels uint8 RGB [h, w, 3]."""


def default_workers() -> int:
    """Processes that keep a network busy: decoding takes a fraction of its time on a CPU."""
    return max(1, min(4, available_cores() // 2))


class _Blocks(Dataset[np.ndarray | str]):
    """Blocks of a slide as arrays; each process opens the slide for itself. A damaged block is its error's text."""

    def __init__(self, path: Path, resolution: float | None, um_per_pixel: float, blocks: list[Block]) -> None:
        self._path, self._resolution, self._um_per_pixel, self._blocks = path, resolution, um_per_pixel, blocks
        self._view: tuple[int, ScaledSlide] | None = None

    def __len__(self) -> int:
        return len(self._blocks)

    def __getitem__(self, index: int) -> np.ndarray | str:
        block = self._blocks[index]
        try:
            return self._opened().read(block.left, block.top, block.width, block.height)
        except DataError as error:
            return str(error)

    def _opened(self) -> ScaledSlide:
        if self._view is None or self._view[0] != os.getpid():
            self._view = os.getpid(), ScaledSlide(open_slide(self._path, self._resolution), self._um_per_pixel)
        return self._view[1]

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_view": None}


def _as_it_is(item: Any) -> Any:
    return item


def read_tiles(
    path: Path, resolution: float | None, um_per_pixel: float, plan: TilePlan, *, start: int = 0, workers: int
) -> Iterator[Tile]:
    """Read the tiles of a plan in its order.

    Args:
        path: the slide.
        resolution: µm per pixel of its full size if it is given, else None.
        um_per_pixel: resolution to read at.
        plan: the tiles.
        start: number of the first tile wanted.
        workers: processes that read; 0: this one does.

    Raises:
        DataError: if the slide is damaged.
    """
    blocks = list(plan.blocks(start))
    loader = DataLoader(
        _Blocks(path, resolution, um_per_pixel, blocks),
        batch_size=None,
        num_workers=workers,
        collate_fn=_as_it_is,
        prefetch_factor=2 if workers else None,
        # a process that is forked starts at once; one that is spawned imports torch first
        multiprocessing_context="fork" if workers and sys.platform == "linux" else None,
    )
    for block, pixels in zip(blocks, loader, strict=True):
        if isinstance(pixels, str):
            raise DataError(pixels)
        for offset, column in enumerate(block.columns):
            if block.first + offset >= start:
                left = plan.lefts[column] - block.left
                yield block.first + offset, block.row, column, pixels[:, left : left + plan.tile[1]]
