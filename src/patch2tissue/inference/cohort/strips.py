"""A slide's map in strips that are drawn apart from each other and come out as in one piece, to the byte.

A strip is some rows of tiles. To a pixel of its first rows the tile rows above add as well, so these are drawn once
more with it (the halo); what is blended then adds up in the same order as in one piece. Batches hold the same tiles as
in one piece, too. A strip is on disk whole or not at all: a folder that gets its name when it is complete.
"""

from __future__ import annotations

import errno
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from patch2tissue.atomic import temporary_prefix
from patch2tissue.errors import DataError
from patch2tissue.inference.familiarity import Familiarity
from patch2tissue.inference.slides.mapping import BatchNetwork, MapFiles, map_slide
from patch2tissue.inference.slides.plan import TilePlan
from patch2tissue.inference.slides.reading import Tile
from patch2tissue.plain_files import read_json
from patch2tissue.slides.rows import RowFile, Rows
from patch2tissue.slides.tissue_mask import TissueMask
from patch2tissue.tissues import TissueSet

STRIP_TILES = 512
"""About how many tiles with tissue a strip has, where nothing else is asked for."""

LEAST_ROWS = 8
"""Tile rows of a strip at the least, so that the row drawn twice costs an eighth at most where tiles overlap little."""

_ABOUT = "strip.json"


@dataclass(frozen=True)
class Strip:
    """Rows of tiles that are drawn together.

    Attributes:
        first: index of the first tile row.
        end: index of the first tile row below.
    """

    first: int
    end: int

    @property
    def name(self) -> str:
        """Name of its folder."""
        return f"{self.first:05d}-{self.end:05d}"


@dataclass(frozen=True)
class StripRecord:
    """How a strip was drawn.

    Attributes:
        worker: who drew it, as `machine:process`.
        attempts: how often it was begun.
        seconds: that it took.
        waiting: seconds of them in which the network waited for pixels.
        working: seconds of them in which it computed.
        familiarity: of the whole slide, in the first strip.
    """

    worker: str
    attempts: int
    seconds: float
    waiting: float
    working: float
    familiarity: Familiarity | None = None


def split(plan: TilePlan, tiles: int = STRIP_TILES, least_rows: int = LEAST_ROWS) -> list[Strip]:
    """Split a slide into strips of about equally many tiles with tissue.

    The split depends on the slide alone and not on the number of machines, so that what is drawn is of use to a later
    call with others.

    Args:
        plan: the slide's tiles.
        tiles: tiles with tissue that a strip has, about.
        least_rows: tile rows that it has at the least, unless the slide has fewer.

    Returns:
        At least one strip; together they hold all tile rows.
    """
    ends: list[int] = []
    first = held = 0
    for row, count in enumerate(plan.present.sum(axis=1).tolist()):
        held += count
        if held >= tiles and row + 1 - first >= least_rows:
            ends.append(row + 1)
            first, held = row + 1, 0
    whole = len(plan.tops)
    if ends and ends[-1] != whole and (2 * held < tiles or whole - ends[-1] < least_rows):
        ends.pop()  # what is left over is no strip of its own
    ends = [end for end in ends if end != whole] + [whole]
    return [Strip(start, end) for start, end in zip([0, *ends], ends, strict=False)]


def halo_start(plan: TilePlan, strip: Strip) -> int:
    """First tile row that reaches into a strip's pixels, or the strip's own first."""
    row = strip.first
    while row > 0 and plan.tops[row - 1] + plan.tile[0] > plan.tops[strip.first]:
        row -= 1
    return row


def pixel_rows(plan: TilePlan, strip: Strip) -> tuple[int, int]:
    """Rows [top, bottom) of the map that a strip makes."""
    return plan.tops[strip.first], plan.final_rows(strip.end - 1)[1]


class PartFile(RowFile):
    """Some rows of a raster in a file of their own; rows above them that are written are let go.

    Args:
        path: the file.
        shape: of the whole raster.
        rows: [top, bottom) of the part.
        create: see `RowFile`.
    """

    def __init__(self, path: Path, shape: tuple[int, ...], rows: tuple[int, int], *, create: bool = False) -> None:
        self.top = rows[0]
        super().__init__(path, (rows[1] - rows[0], *shape[1:]), create=create, durable=False)

    def write(self, top: int, rows: np.ndarray) -> None:
        """Write rows from row `top` of the whole raster on."""
        above = max(0, self.top - top)
        if above < len(rows):
            super().write(top + above - self.top, rows[above:])


class JoinedRows:
    """Parts of a raster, one below the other, as one raster.

    Args:
        parts: from top to bottom, each of the same width.
    """

    def __init__(self, parts: Iterable[PartFile]) -> None:
        self._parts = list(parts)
        height = sum(part.shape[0] for part in self._parts)
        self.shape: tuple[int, ...] = (height, *self._parts[0].shape[1:])

    def read(self, top: int, bottom: int) -> np.ndarray:
        """See `Rows.read`."""
        found = []
        for part in self._parts:
            first, last = max(top, part.top), min(bottom, part.top + part.shape[0])
            if first < last:
                found.append(part.read(first - part.top, last - part.top))
        return np.concatenate(found) if found else np.empty((0, *self.shape[1:]), np.uint8)


@dataclass(frozen=True)
class JoinedMap:
    """The strips of a slide as one map, see `MapFiles`."""

    classes: Rows
    probabilities: Rows | None = None
    confidence: Rows | None = None


def is_drawn(folder: Path, strip: Strip) -> bool:
    """Whether a strip is on disk."""
    return (folder / strip.name / _ABOUT).is_file()


def draw_strip(
    strip: Strip,
    folder: Path,
    shapes: dict[str, tuple[int, ...]],
    tiles: Callable[[int, int], Iterable[Tile]],
    network: BatchNetwork,
    plan: TilePlan,
    tissues: TissueSet,
    tissue: TissueMask,
    scale: tuple[float, float],
    *,
    batch_size: int,
    temperature: float = 1.0,
    worker: str = "",
    attempts: int = 1,
    familiarity: Familiarity | None = None,
) -> StripRecord:
    """Draw a strip into a folder of its own. If it is there already, as drawn by another, that one stays.

    Args:
        strip: what to draw.
        folder: where the slide's strips are.
        shapes: of the whole rasters by name, see `raster_shapes`.
        tiles: see `map_slide`; likewise the others up to `temperature`.
        network: see `map_slide`.
        plan: see `map_slide`.
        tissues: see `map_slide`.
        tissue: see `map_slide`.
        scale: see `map_slide`.
        batch_size: see `map_slide`.
        temperature: see `map_slide`.
        worker: see `StripRecord`, likewise the others.
        attempts: see `StripRecord`.
        familiarity: see `StripRecord`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    target = folder / strip.name
    temporary = folder / f"{temporary_prefix(target)}{uuid.uuid4().hex[:8]}"
    temporary.mkdir()
    try:
        rows = pixel_rows(plan, strip)
        parts = {name: PartFile(temporary / name, shape, rows, create=True) for name, shape in shapes.items()}
        carry = temporary / "carry"
        carry.mkdir()
        timing = map_slide(
            tiles,
            network,
            plan,
            MapFiles(carry, parts["classes.raw"], parts.get("probabilities.raw"), parts.get("confidence.raw")),
            tissues,
            tissue,
            scale,
            batch_size=batch_size,
            temperature=temperature,
            start_row=halo_start(plan, strip),
            end_row=strip.end,
        )
        shutil.rmtree(carry)
        record = StripRecord(worker, attempts, timing.whole, timing.waiting, timing.working, familiarity)
        about = temporary / _ABOUT
        about.write_text(json.dumps(asdict(record) | {"familiarity": familiarity}) + "\n", encoding="utf-8")
        for path in (*(part.path for part in parts.values()), about):
            _sync(path)
        _name(temporary, target)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return record


def join_strips(
    folder: Path, strips: Iterable[Strip], plan: TilePlan, shapes: dict[str, tuple[int, ...]]
) -> tuple[JoinedMap, list[StripRecord]]:
    """Open the strips of a slide as one map, without copying them.

    Args:
        folder: where they are.
        strips: all of them, from top to bottom.
        plan: the slide's tiles.
        shapes: of the whole rasters by name.

    Returns:
        The map, and how each strip was drawn.

    Raises:
        DataError: if a strip is missing, or is no strip of this slide.
    """
    strips = list(strips)
    rasters = {
        name: JoinedRows(PartFile(folder / strip.name / name, shape, pixel_rows(plan, strip)) for strip in strips)
        for name, shape in shapes.items()
    }
    joined = JoinedMap(rasters["classes.raw"], rasters.get("probabilities.raw"), rasters.get("confidence.raw"))
    return joined, [_record(folder / strip.name / _ABOUT) for strip in strips]


def _record(path: Path) -> StripRecord:
    try:
        plain = read_json(path)
        known = plain.pop("familiarity")
        return StripRecord(**plain, familiarity=None if known is None else Familiarity(*known))
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        raise DataError(f"{path}: does not describe a strip. Remove the folder it is in and run again.") from None


def _sync(path: Path) -> None:
    """Wait until a file is on disk."""
    with path.open("r+b") as file:
        os.fsync(file.fileno())


def _name(temporary: Path, target: Path) -> None:
    """Give a complete folder its name, unless another has it."""
    try:
        temporary.rename(target)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
