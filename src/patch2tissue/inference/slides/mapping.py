"""From a slide's tiles to its tissue map on disk, row by row, so that a killed process goes on at the last row."""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from patch2tissue.cores import release_memory
from patch2tissue.inference.confidence import apply_temperature, confidence_map
from patch2tissue.inference.slides.blending import RowBlender
from patch2tissue.inference.slides.plan import TilePlan
from patch2tissue.inference.slides.reading import Tile
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.slides.rows import RowFile
from patch2tissue.slides.tissue_mask import TissueMask
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

BatchNetwork = Callable[[np.ndarray], np.ndarray]
"""Maps tiles uint8 RGB [B, h, w, 3] to probabilities float32 [B, K, h, w]."""

_WAITING = 8
"""Tiles that may wait to be blended."""

_RELEASED_AFTER = 16
"""Tiles after which freed memory is given back: arrays of changing sizes leave gaps that the C library would keep."""


@dataclass
class Timing:
    """Seconds that the network waited for pixels and worked, and seconds in all."""

    waiting: float = 0.0
    working: float = 0.0
    whole: float = 0.0


@dataclass(frozen=True)
class MapFiles:
    """Where a map that is being made lies.

    Attributes:
        folder: of the carry between rows.
        classes: uint8 [H, W]: tissue index, 255 where there is none.
        probabilities: uint8 [H, W, K] in 1/255, None if they are not wanted.
        confidence: uint8 [H, W] in 1/255: the probability of the pixel's tissue, 0 where there is none; likewise.
    """

    folder: Path
    classes: RowFile
    probabilities: RowFile | None = None
    confidence: RowFile | None = None


def map_slide(
    tiles: Callable[[int, int], Iterable[Tile]],
    network: BatchNetwork,
    plan: TilePlan,
    files: MapFiles,
    tissues: TissueSet,
    tissue: TissueMask,
    scale: tuple[float, float],
    *,
    batch_size: int,
    temperature: float = 1.0,
    start_row: int = 0,
    end_row: int | None = None,
    row_done: Callable[[int], None] = lambda row: None,
    progress: Callable[[int], None] = lambda tiles: None,
) -> Timing:
    """Predict the tiles of a slide and write its map.

    A map pixel holds the likeliest tissue of the blended probabilities; 255 outside the tissue mask, where no tile is,
    and where the tissue set's white-background rule applies. Batches hold the same tiles however often the work is
    interrupted, so that the map comes out the same to the byte.

    Args:
        tiles: returns tiles in the plan's order, from the first given number to the one before the second.
        network: draws probabilities.
        plan: the tiles.
        files: where to write.
        tissues: the tissue set.
        tissue: where tissue is.
        scale: (sx, sy), level-0 pixels per map pixel.
        batch_size: tiles per call of the network.
        temperature: of probabilities and confidence, see `apply_temperature`.
        start_row: first tile row to do; the rows above have been done by an earlier call with the same files.
        end_row: first tile row not to do; None: all to the last. Its tiles may be asked for to fill the last batch.
        row_done: called with each row's index once the row is on disk.
        progress: called with the number of tiles done.
    """
    timing = Timing()
    begin = time.perf_counter()
    end_row = len(plan.tops) if end_row is None else end_row
    writer = _Writer(plan, files, tissues, tissue, scale, temperature, (start_row, end_row), row_done)
    first, last = plan.tiles_before(start_row), plan.tiles_before(end_row)
    # batches as an uninterrupted run has them: the first one may hold tiles of rows that are done
    aligned = first - first % batch_size
    stop = min(plan.tiles, -(-last // batch_size) * batch_size) if last > first else aligned
    with writer:
        for batch in _batches(tiles(aligned, stop), batch_size, timing):
            moment = time.perf_counter()
            probabilities = network(np.stack([pixels for *_, pixels in batch]))
            timing.working += time.perf_counter() - moment
            for (_, row, column, pixels), values in zip(batch, probabilities, strict=True):
                if start_row <= row < end_row:
                    writer.put(row, column, pixels, values)
            progress(min(batch[-1][0] + 1, last))
    timing.whole = time.perf_counter() - begin
    return timing


def _batches(tiles: Iterable[Tile], size: int, timing: Timing) -> Iterator[list[Tile]]:
    """Groups of `size` tiles, whatever row they are of; the time spent on getting them counts as waiting."""
    waiting = iter(tiles)
    while True:
        moment = time.perf_counter()
        batch = list(islice(waiting, size))
        timing.waiting += time.perf_counter() - moment
        if not batch:
            return
        yield batch


class _Writer:
    """Blends and writes in a thread of its own, so that the network does not wait for the disk."""

    def __init__(
        self,
        plan: TilePlan,
        files: MapFiles,
        tissues: TissueSet,
        tissue: TissueMask,
        scale: tuple[float, float],
        temperature: float,
        rows: tuple[int, int],
        row_done: Callable[[int], None],
    ) -> None:
        self._plan, self._files, self._tissue, self._scale, self._row_done = plan, files, tissue, scale, row_done
        self._temperature = temperature
        self._classes = len(tissues)
        background = tissues.background
        self._white_above = None if background is None else background.white_above
        channels = self._classes + (self._white_above is not None)
        self._blender = RowBlender(plan, channels, files.folder)
        (self._start_row, self._end_row), self._row = rows, rows[0] - 1
        tallest = max(bottom - top for top, bottom in map(plan.final_rows, range(len(plan.tops))))
        # as wide as the slide, so made once: a new one would lie beside the old one for a moment
        self._whole_strip = np.empty((tallest, plan.width), np.uint8)
        shape = (*self._whole_strip.shape, self._classes) if files.probabilities is not None else 0
        self._whole_probabilities = np.empty(shape, np.uint8)
        self._whole_confidence = np.empty(self._whole_strip.shape if files.confidence is not None else 0, np.uint8)
        self._strip, self._probabilities = self._whole_strip, self._whole_probabilities
        self._confidence = self._whole_confidence
        self._added = 0
        self._jobs: queue.Queue[tuple[int, int, np.ndarray, np.ndarray] | None] = queue.Queue(_WAITING)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="slide-writer", daemon=True)

    def __enter__(self) -> _Writer:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        if kind is not None:
            self._error = self._error or error  # what is under way is left; its row is done again
        self._jobs.put(None)
        self._thread.join()
        self._blender.carry.close()
        if kind is None and self._error is not None:
            raise self._error

    def put(self, row: int, column: int, pixels: np.ndarray, values: np.ndarray) -> None:
        """Hand over a tile's pixels [h, w, 3] and probabilities [K, h, w]; tiles come in the plan's order."""
        if self._error is not None:
            raise self._error
        # a copy, or a tile that waits would keep its whole batch in memory
        self._jobs.put((row, column, pixels, values.copy()))

    def _work(self) -> None:
        for row, column, pixels, values in iter(self._jobs.get, None):
            if self._error is not None:
                continue  # the queue is emptied, so that nobody waits to put into it
            self._guarded(lambda: self._add(row, column, pixels, values))  # noqa: B023
        self._guarded(lambda: self._go_to(self._end_row))

    def _guarded(self, step: Callable[[], None]) -> None:
        if self._error is None:
            try:
                step()
            except BaseException as error:
                self._error = error

    def _add(self, row: int, column: int, pixels: np.ndarray, values: np.ndarray) -> None:
        self._go_to(row)
        self._blender.add(column, self._with_white(pixels, values))
        self._added += 1
        if self._added % _RELEASED_AFTER == 0:
            release_memory()

    def _go_to(self, row: int) -> None:
        """Finish the rows above a row and begin it."""
        while self._row < row:
            if self._row >= self._start_row:
                self._end()
            self._row += 1
            if self._row < self._end_row:
                self._begin()

    def _with_white(self, pixels: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Add a vote of each tile on which pixels are white, blended like the probabilities."""
        if self._white_above is None:
            return values
        white = white_pixels(pixels, self._white_above)
        return np.concatenate([values, white[None].astype(np.float32)])

    def _begin(self) -> None:
        top, bottom = self._plan.final_rows(self._row)
        self._strip = self._whole_strip[: bottom - top]
        self._strip.fill(IGNORE_INDEX)
        self._probabilities = self._whole_probabilities[: bottom - top]
        self._probabilities.fill(0)
        self._confidence = self._whole_confidence[: bottom - top]
        self._confidence.fill(0)
        self._blender.begin_row(self._row, self._finished)

    def _finished(self, left: int, sums: np.ndarray) -> None:
        columns = slice(left, left + sums.shape[2])
        weights, values = sums[-1], sums[: self._classes]
        found = values.argmax(axis=0).astype(np.uint8)
        rows = self._plan.final_rows(self._row)
        without = (weights <= 0) | ~self._tissue.region(rows, (left, columns.stop), self._scale)
        if self._white_above is not None:
            without |= 2 * sums[self._classes] > weights
        found[without] = IGNORE_INDEX
        self._strip[:, columns] = found
        if self._files.probabilities is None and self._files.confidence is None:
            return
        shares = apply_temperature(values / np.maximum(weights, np.finfo(np.float32).tiny), self._temperature)
        shares[:, without] = 0
        if self._files.probabilities is not None:
            self._probabilities[:, columns] = np.rint(255 * shares).astype(np.uint8).transpose(1, 2, 0)
        if self._files.confidence is not None:
            self._confidence[:, columns] = confidence_map(shares)

    def _end(self) -> None:
        self._blender.end_row()
        top, _ = self._plan.final_rows(self._row)
        if self._files.probabilities is not None:
            self._files.probabilities.write(top, self._probabilities)
        if self._files.confidence is not None:
            self._files.confidence.write(top, self._confidence)
        self._files.classes.write(top, self._strip)
        self._row_done(self._row)
