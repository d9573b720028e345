"""Cutting tiles of tissue from slides, to be labelled and trained on."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from filelock import FileLock
from PIL import Image

from patch2tissue.atomic import atomic_path, remove_abandoned, write_text
from patch2tissue.data.regions import positions
from patch2tissue.data.tables import write_table
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.plain_files import read_json
from patch2tissue.slides.opening import SlideFile, open_slide
from patch2tissue.slides.resolution import COARSEST, FINEST
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.slide import Slide
from patch2tissue.slides.tissue_mask import TissueMask, contour_picture, tissue_mask_for

COLUMNS = ("path", "slide", "x", "y", "width", "height", "size", "um_per_pixel", "tissue_share")
SETTINGS_FILE = "tiles.json"
MANIFEST_FILE = "tiles.csv"
_AHEAD = 64


@dataclass(frozen=True)
class TileSettings:
    """How tiles are cut.

    Attributes:
        um_per_pixel: resolution of the tiles.
        size: side of a tile in pixels.
        stride: distance between tiles in pixels.
        least_tissue: least share of a tile that is tissue, 0..1.
        sample: number of tiles per slide, drawn evenly over its tissue; None: all.
        seed: seed of that draw.
        image_format: `png`, or `jpg` (quality 95), a fifth of the size.
        tissue: see `tissue_mask_for`.
    """

    um_per_pixel: float = 0.5
    size: int = 224
    stride: int = 224
    least_tissue: float = 0.5
    sample: int | None = None
    seed: int = 0
    image_format: str = "png"
    tissue: str = "found"

    def check(self) -> None:
        """Refuse settings that make no sense.

        Raises:
            ConfigError: naming the first one.
        """
        if not FINEST <= self.um_per_pixel <= COARSEST:
            raise ConfigError(
                f"The tiles' resolution in µm per pixel is from {FINEST} to {COARSEST:g}, not {self.um_per_pixel:g}."
            )
        if self.size < 16 or self.stride < 1:
            raise ConfigError(f"Size {self.size} is at least 16 px and stride {self.stride} at least 1 px.")
        if not 0 <= self.least_tissue <= 1:
            raise ConfigError(f"The least share of tissue is from 0 to 1, not {self.least_tissue}.")
        if self.sample is not None and self.sample < 1:
            raise ConfigError(f"A sample holds at least 1 tile, not {self.sample}.")
        if self.image_format not in ("png", "jpg"):
            raise ConfigError(f"Tiles are written as png or jpg, not {self.image_format}.")


@dataclass(frozen=True)
class Tile:
    """One tile that was cut.

    Attributes:
        path: relative to the data folder.
        slide: the slide's file name.
        x: left upper corner in level-0 pixels of the file, as OpenSlide counts them; so is y.
        y: see x.
        width: level-0 pixels that it covers; so is height.
        height: see width.
        size: its side in pixels.
        um_per_pixel: its resolution.
        tissue_share: share that is tissue, 0..1; nan of a tile that `cut_tile_at` cut.
    """

    path: str
    slide: str
    x: int
    y: int
    width: float
    height: float
    size: int
    um_per_pixel: float
    tissue_share: float


@dataclass
class TileSummary:
    """The tiles that were cut, tiles on each slide by its file name, and what was wrong with slides that failed."""

    tiles: list[Tile] = field(default_factory=list)
    per_slide: dict[str, int] = field(default_factory=dict)
    errors: list[str] = field(default_factory=list)


Progress = Callable[[str, int, int], None]
"""Called with a slide's name, the tiles of it that are done, and all of them."""


def cut_tiles(
    slides: Sequence[SlideFile],
    out: Path,
    settings: TileSettings,
    *,
    workers: int = 4,
    progress: Progress = lambda name, done, total: None,
) -> TileSummary:
    """Cut slides into tiles of tissue.

    Writes `train/SLIDE_xX_yY_mppM.png` (X and Y in level-0 pixels), `tiles.csv`, and for each slide
    `slides/SLIDE_tissue.png` (the contour of what was taken for tissue) and `slides/SLIDE_tissue_mask.png` (to mend and
    hand in again). Tiles that are there already are kept, so that a killed call goes on; a slide that cannot be read is
    told of in the summary and does not stop the others.

    Args:
        slides: the slides.
        out: data folder to make or go on with.
        settings: how to cut.
        workers: threads that read and write.
        progress: called as tiles come.

    Raises:
        ConfigError: if a setting makes no sense.
        DataError: if `out` was made with other settings.
    """
    settings.check()
    out = Path(out)
    refuse_to_write_through_links(out)
    _claim(out, settings)
    remove_abandoned(out)
    summary = TileSummary()
    for slide in slides:
        try:
            tiles = _cut_slide(slide, out, settings, workers, progress)
        except DataError as error:
            summary.errors.append(str(error))
            continue
        summary.tiles += tiles
        summary.per_slide[slide.path.name] = len(tiles)
    _write_manifest(out, summary.tiles)
    return summary


def _claim(out: Path, settings: TileSettings) -> None:
    record = out / SETTINGS_FILE
    plain = asdict(settings)
    if record.is_file():
        try:
            found = read_json(record)
        except ValueError:
            found = None
        if found != plain:
            different = [name for name in plain if not isinstance(found, dict) or found.get(name) != plain[name]]
            raise DataError(
                f"{out}: holds tiles that were cut with other settings ({', '.join(different)}). Choose another folder."
            )
        return
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already and holds something else. Choose a new folder.")
    write_text(record, json.dumps(plain, indent=2) + "\n")


def _cut_slide(file: SlideFile, out: Path, settings: TileSettings, workers: int, progress: Progress) -> list[Tile]:
    with open_slide(file.path, file.um_per_pixel) as slide:
        view = ScaledSlide(slide, settings.um_per_pixel)
        tissue = tissue_mask_for(slide, settings.tissue)
        folder = out / "slides"
        with atomic_path(folder / f"{slide.name}_tissue.png") as temporary:
            contour_picture(slide, tissue).save(temporary, format="PNG")
        with atomic_path(folder / f"{slide.name}_tissue_mask.png") as temporary:
            Image.fromarray(tissue.mask.astype(np.uint8) * 255).save(temporary, format="PNG")
        places = _places(view, tissue, settings)
        tiles = [_tile(view, left, top, share, settings) for left, top, share in places]
        progress(slide.name, 0, len(tiles))

        def write(number: int) -> None:
            left, top, _ = places[number]
            _write_tile(view, left, top, out / tiles[number].path, settings)

        with ThreadPoolExecutor(workers) as pool:
            for done, _ in enumerate(_in_turn(pool, write, len(tiles)), start=1):
                progress(slide.name, done, len(tiles))
        return tiles


def _write_tile(view: ScaledSlide, left: int, top: int, target: Path, settings: TileSettings) -> None:
    """Write one tile unless it is there."""
    if target.is_file():
        return
    pixels = Image.fromarray(view.read(left, top, settings.size, settings.size))
    with atomic_path(target) as temporary:
        if settings.image_format == "png":
            pixels.save(temporary, format="PNG", compress_level=3)
        else:
            pixels.save(temporary, format="JPEG", quality=95, subsampling=0)


def cut_tile_at(slide: Slide, out: Path, x: float, y: float) -> Tile:
    """Cut the tile that holds a place of a slide into a data folder that `cut_tiles` made, and list it there.

    The tile is one of the grid's, whether or not there is enough tissue on it; between tiles that do not touch, one
    around the place.

    Args:
        slide: open, with a resolution.
        out: the data folder.
        x: in level-0 pixels of the slide, counted as `Slide.read` does.
        y: likewise.

    Raises:
        DataError: if `out` was not made by `cut_tiles`, the place lies outside the slide, or the slide cannot be read.
    """
    settings = _read_settings(out / SETTINGS_FILE)
    refuse_to_write_through_links(out)
    view = ScaledSlide(slide, settings.um_per_pixel)
    if not (0 <= x < slide.size[0] and 0 <= y < slide.size[1]):
        raise DataError(f"{slide.path}: there is nothing at {x:.0f}, {y:.0f}.")
    left, top = (
        _cell(place / scale, side, settings) for place, scale, side in zip((x, y), view.scale, view.size, strict=True)
    )
    # how much of it is tissue was not asked
    tile = _tile(view, left, top, math.nan, settings)
    _write_tile(view, left, top, out / tile.path, settings)
    _write_manifest(out, [tile])
    return tile


def _cell(place: float, side: int, settings: TileSettings) -> int:
    """Where the tile begins that holds a place on one axis, in pixels of the tiles."""
    begins = np.array(positions(side, settings.size, settings.stride))
    nearest = int(begins[np.abs(begins + settings.size / 2 - place).argmin()])
    if nearest <= place < nearest + settings.size:
        return nearest
    return max(0, min(side - settings.size, round(place - settings.size / 2)))


def _read_settings(record: Path) -> TileSettings:
    try:
        return TileSettings(**read_json(record))
    except FileNotFoundError:
        raise DataError(f"{record.parent}: was not cut with `patch2tissue slide tiles`, so no tile is added.") from None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(f"{record}: cannot be read ({error}). Cut the tiles again, into another folder.") from None


def _in_turn(pool: ThreadPoolExecutor, job: Callable[[int], None], count: int) -> Iterator[None]:
    """Run jobs a few ahead, so that an error ends the slide soon and not after all its tiles."""
    waiting: list[Future[None]] = []
    try:
        for number in range(count):
            waiting.append(pool.submit(job, number))
            if len(waiting) >= _AHEAD:
                yield waiting.pop(0).result()
        while waiting:
            yield waiting.pop(0).result()
    finally:
        for future in waiting:
            future.cancel()


def _places(view: ScaledSlide, tissue: TissueMask, settings: TileSettings) -> list[tuple[int, int, float]]:
    """Left upper corner, in pixels of the tiles, and share of tissue of each tile to cut, row by row."""
    width, height = view.size
    xs = np.array(positions(width, settings.size, settings.stride))
    ys = np.array(positions(height, settings.size, settings.stride))
    left, top = (axis.ravel() for axis in np.meshgrid(xs, ys))
    shares = tissue.share(
        left * view.scale[0], top * view.scale[1], settings.size * view.scale[0], settings.size * view.scale[1]
    )
    # a tile of which nothing is tissue is never wanted, whatever the least share
    chosen = np.flatnonzero((shares >= settings.least_tissue) & (shares > 0))
    if settings.sample is not None and len(chosen) > settings.sample:
        drawn = _spread(left[chosen], top[chosen], settings.sample, np.random.default_rng(settings.seed))
        chosen = np.sort(chosen[drawn])
    return [(int(left[k]), int(top[k]), float(shares[k])) for k in chosen]


def _spread(x: np.ndarray, y: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    """Draw places evenly: a coarse grid is laid over them, and its cells are drawn from in turn."""
    cells = math.ceil(math.sqrt(count))

    def cell(values: np.ndarray) -> np.ndarray:
        extent = max(1, int(np.ptp(values)) + 1)
        return np.asarray((values - values.min()) * cells // extent)

    order = rng.permutation(len(x))
    keys = (cell(y) * cells + cell(x))[order]
    # the turn in which each place is drawn: how many of its cell come before it
    by_cell = np.argsort(keys, kind="stable")
    starts = np.flatnonzero(np.diff(keys[by_cell], prepend=-1))
    turn = np.empty(len(keys), np.int64)
    turn[by_cell] = np.arange(len(keys)) - np.repeat(starts, np.diff(starts, append=len(keys)))
    return np.asarray(order[np.argsort(turn, kind="stable")[:count]])


def _tile(view: ScaledSlide, left: int, top: int, share: float, settings: TileSettings) -> Tile:
    x = view.slide.origin[0] + round(left * view.scale[0])
    y = view.slide.origin[1] + round(top * view.scale[1])
    name = f"{view.slide.name}_x{x:06d}_y{y:06d}_mpp{settings.um_per_pixel:g}.{settings.image_format}"
    return Tile(
        f"train/{name}",
        view.slide.path.name,
        x,
        y,
        round(settings.size * view.scale[0], 3),
        round(settings.size * view.scale[1], 3),
        settings.size,
        settings.um_per_pixel,
        round(share, 4),
    )


def _write_manifest(out: Path, tiles: list[Tile]) -> None:
    """List tiles; those of earlier calls that are still there stay listed."""
    path = out / MANIFEST_FILE
    rows = {tile.path: [str(asdict(tile)[column]) for column in COLUMNS] for tile in tiles}
    with FileLock(out / ".tiles.lock"):
        earlier = {}
        if path.is_file():
            try:
                with path.open(encoding="utf-8", newline="") as file:
                    listed = list(csv.reader(file, strict=True))
            except (OSError, ValueError, csv.Error) as error:
                raise DataError(
                    f"{path}: cannot be read ({error}), so that no tile is added to it. Remove it, and cut the tiles "
                    "again."
                ) from None
            if listed and tuple(listed[0]) == COLUMNS:
                earlier = {row[0]: row for row in listed[1:] if len(row) == len(COLUMNS)}
        kept = {name: row for name, row in earlier.items() if name not in rows and (out / name).is_file()}
        write_table(path, COLUMNS, (rows | kept).values())
