"""The patches of a data folder that are to be labelled, and where on which slide they lie."""

from __future__ import annotations

import csv
import math
import re
from dataclasses import dataclass
from pathlib import Path

from patch2tissue.data.layouts import image_files, image_folder
from patch2tissue.errors import DataError

TILES_FILE = "tiles.csv"
"""List that `patch2tissue slide tiles` writes."""


@dataclass(frozen=True)
class Place:
    """Where a patch lies on its slide, in level-0 pixels of the slide as OpenSlide counts them."""

    slide: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class PoolPatch:
    """A patch to label.

    Attributes:
        path: relative to the data folder, with slashes; what the patch is called everywhere.
        place: on its slide, None if that is not known.
    """

    path: str
    place: Place | None = None

    @property
    def name(self) -> str:
        """File name without its extension and without a label."""
        return re.sub(r"-*\[[01, ]+\]$", "", Path(self.path).stem)


def find_pool(folder: Path) -> list[PoolPatch]:
    """The patches of a data folder, by name: those of `train/img/` or `train/`, else of `img/` or the folder itself.

    Raises:
        DataError: if there is no such folder or it holds no image.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    train = folder / "train"
    files = image_files(image_folder(train if train.is_dir() else folder))
    if not files:
        where = train if train.is_dir() else folder
        raise DataError(f"{where}: holds no images. Cut some from slides with `patch2tissue slide tiles`.")
    places = _places(folder / TILES_FILE)
    inside = files[0].parent.relative_to(folder).as_posix()
    names = (path.name if inside == "." else f"{inside}/{path.name}" for path in files)
    return [PoolPatch(name, places.get(name)) for name in names]


def _places(path: Path) -> dict[str, Place]:
    """Places of the tiles that a list holds; none if there is no list."""
    if not path.is_file():
        return {}
    try:
        with path.open(encoding="utf-8", newline="") as file:
            return {row["path"]: _place(row) for row in csv.DictReader(file)}
    except (OSError, KeyError, ValueError, TypeError, csv.Error) as error:
        raise DataError(
            f"{path}: is no list of tiles as `slide tiles` writes it ({type(error).__name__}: {error}). Cut the tiles "
            "again, or remove the file to label without the slides."
        ) from None


def _place(row: dict[str, str]) -> Place:
    x, y, width, height = (float(row[name]) for name in ("x", "y", "width", "height"))
    if not (all(map(math.isfinite, (x, y, width, height))) and width > 0 and height > 0):
        raise ValueError(f"a tile of {width} × {height} pixels at {x}, {y}")
    return Place(row["slide"], x, y, width, height)
