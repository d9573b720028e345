"""Reading the tiles of a slide ahead of the network, in processes of their own."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path
from queue import SimpleQueue

import numpy as np

from patch2tissue.cores import available_cores
from patch2tissue.inference.slides.plan import Block, TilePlan
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.reading_process import ReadingProcess
from patch2tissue.slides.scaled import ScaledSlide

Tile = tuple[int, int, int, np.ndarray]
"""Number among all tiles, row, column, and pixels uint8 RGB [h, w, 3]."""

_AHEAD = 2
"""Blocks per process that are read before they are wanted."""


def default_workers() -> int:
    """Processes that keep a network busy: decoding takes a fraction of its time on a CPU."""
    return max(1, min(4, available_cores() // 2))


def read_tiles(
    path: Path,
    resolution: float | None,
    um_per_pixel: float,
    plan: TilePlan,
    *,
    start: int = 0,
    stop: int | None = None,
    workers: int,
) -> Iterator[Tile]:
    """Read the tiles of a plan in its order.

    Args:
        path: the slide.
        resolution: µm per pixel of its full size if it is given, else None.
        um_per_pixel: resolution to read at.
        plan: the tiles.
        start: number of the first tile wanted.
        stop: number of the first tile not wanted any more; None: all to the last.
        workers: processes that read; 0: this one does.

    Raises:
        DataError: if the slide is damaged.
        Patch2TissueError: if a process that reads came to an end.
    """
    read = _read_ahead if workers else _read_here
    stop = plan.tiles if stop is None else stop
    for block, pixels in read(path, resolution, um_per_pixel, plan.blocks(start, stop), workers):
        for offset, column in enumerate(block.columns):
            if start <= block.first + offset < stop:
                left = plan.lefts[column] - block.left
                yield block.first + offset, block.row, column, pixels[:, left : left + plan.tile[1]]


def _read_here(
    path: Path, resolution: float | None, um_per_pixel: float, blocks: Iterable[Block], workers: int
) -> Iterator[tuple[Block, np.ndarray]]:
    with open_slide(path, resolution) as slide:
        view = ScaledSlide(slide, um_per_pixel)
        for block in blocks:
            yield block, view.read(block.left, block.top, block.width, block.height)


def _read_ahead(
    path: Path, resolution: float | None, um_per_pixel: float, blocks: Iterable[Block], workers: int
) -> Iterator[tuple[Block, np.ndarray]]:
    """Blocks in order, each read by whichever process is free."""
    waiting = iter(blocks)
    with ExitStack() as stack:
        free: SimpleQueue[ReadingProcess] = SimpleQueue()
        for _ in range(workers):
            free.put(stack.enter_context(ReadingProcess(path, resolution, um_per_pixel)))
        pool = ThreadPoolExecutor(workers, thread_name_prefix="slide-reader")
        stack.callback(pool.shutdown, cancel_futures=True)

        def read(block: Block) -> np.ndarray:
            process = free.get()
            try:
                return process.read(block.left, block.top, block.width, block.height)
            finally:
                free.put(process)

        ahead: deque[tuple[Block, Future[np.ndarray]]] = deque()

        def ask(count: int) -> None:
            ahead.extend((block, pool.submit(read, block)) for block in islice(waiting, count))

        ask(_AHEAD * workers)
        while ahead:
            block, pixels = ahead.popleft()
            yield block, pixels.result()
            ask(1)
