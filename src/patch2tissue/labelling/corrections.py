"""From a place where a tissue map is wrong to a patch that is asked about again, and so into training."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass
from pathlib import Path

from patch2tissue.errors import DataError
from patch2tissue.labelling.exchange import import_what_is_there
from patch2tissue.labelling.pool import TILES_FILE, Place, PoolPatch, find_pool
from patch2tissue.labelling.store import DATABASE, Flag, LabelStore
from patch2tissue.slides.cut_tiles import SETTINGS_FILE, cut_tile_at
from patch2tissue.slides.slide import Slide
from patch2tissue.tissues import TissueSet


@dataclass(frozen=True)
class Marked:
    """A flagged patch, and where it lies in pixels of what is looked at.

    Attributes:
        patch: as the label store calls it.
        name: as users know it.
        box: left, top, width and height.
        point: (x, y) that was marked.
    """

    patch: str
    name: str
    box: tuple[float, float, float, float]
    point: tuple[float, float]


class Corrections:
    """Flags of one data folder. May be used by several threads; the database is opened, and made, when first needed.

    When the database is made by this, labels that the folder has already (its labels.csv, or file names) are taken
    over, so that an export holds them beside what is answered.

    Args:
        folder: the data folder, as `find_pool` takes it.
        tissues: its tissue set.

    Raises:
        DataError: if there are no patches in it.
    """

    def __init__(self, folder: Path, tissues: TissueSet) -> None:
        self.folder, self.tissues = Path(folder), tissues
        self._lock = threading.RLock()
        self._opened: LabelStore | None = None
        self._listed: tuple[object, dict[str, PoolPatch]] = (None, {})
        self._pool()

    def _pool(self) -> dict[str, PoolPatch]:
        """The patches by path, read again when a tile was added."""
        with self._lock:
            file = self.folder / TILES_FILE
            stamp = file.stat().st_mtime_ns if file.is_file() else None
            if not self._listed[1] or self._listed[0] != stamp:
                self._listed = (stamp, {patch.path: patch for patch in find_pool(self.folder)})
            return self._listed[1]

    def _store(self, *, make: bool) -> LabelStore | None:
        with self._lock:
            path = self.folder / DATABASE
            if self._opened is None and (make or path.is_file()):
                self._opened = LabelStore(path, self.tissues)
            if self._opened is not None and make and not self._opened.annotators():
                import_what_is_there(self._opened, self.folder, list(self._pool().values()))
            return self._opened

    def knows(self, slide: Slide) -> bool:
        """Whether a place on a slide can become a patch: its tiles are there, or it can be cut into some."""
        listed = any(patch.place is not None and _same(patch.place, slide) for patch in self._pool().values())
        return listed or ((self.folder / SETTINGS_FILE).is_file() and slide.resolution is not None)

    def holds(self, image: Path) -> str | None:
        """What the pool calls an image file, None if it is none of its patches."""
        place = Path(os.path.relpath(image.resolve(), self.folder.resolve())).as_posix()
        return place if place in self._pool() else None

    # --- slides -------------------------------------------------------------------------------------------------------

    def flag_place(self, slide: Slide, x: float, y: float) -> Marked:
        """Flag the patch at a place of a slide; one is cut if there is none.

        Args:
            slide: open.
            x: in level-0 pixels, counted as `Slide.read` does.
            y: likewise.

        Raises:
            DataError: if there is none and none can be cut; the message tells why.
        """
        with self._lock:
            patch = self._at(slide, x, y)
            if patch is None:
                cut_tile_at(slide, self.folder, x, y)
                patch = self._at(slide, x, y)
            assert patch is not None and patch.place is not None
            left, top, width, height = _box(patch.place, slide)
            flag = Flag(patch.path, _share(x - left, width), _share(y - top, height))
            self._writing().flag(flag)
            return Marked(patch.path, patch.name, (left, top, width, height), (x, y))

    def _at(self, slide: Slide, x: float, y: float) -> PoolPatch | None:
        """Of the patches that hold a place, the one whose middle is nearest."""
        found = []
        for patch in self._pool().values():
            if patch.place is None or not _same(patch.place, slide):
                continue
            left, top, width, height = _box(patch.place, slide)
            if left <= x < left + width and top <= y < top + height:
                found.append((abs(x - left - width / 2) + abs(y - top - height / 2), patch.path, patch))
        return min(found)[2] if found else None

    def marks(self, slide: Slide) -> list[Marked]:
        """Patches of a slide that are flagged and not answered about yet."""
        store, pool = self._store(make=False), self._pool()
        found = []
        for flag in store.flags() if store is not None else []:
            patch = pool.get(flag.patch)
            if patch is not None and patch.place is not None and _same(patch.place, slide):
                box = _box(patch.place, slide)
                point = (box[0] + flag.x * box[2], box[1] + flag.y * box[3])
                found.append(Marked(flag.patch, patch.name, box, point))
        return found

    # --- patches ------------------------------------------------------------------------------------------------------

    def flag_patch(self, image: Path, size: tuple[int, int], x: float, y: float) -> Marked:
        """Flag a patch at a place in it.

        Args:
            image: its file.
            size: (width, height) in pixels.
            x: in pixels.
            y: likewise.

        Raises:
            DataError: if the image is no patch of the folder, or the place lies outside of it.
        """
        patch = self.holds(image)
        if patch is None:
            raise DataError(f"{image}: is no patch to be labelled in {self.folder}, so it cannot be asked about.")
        if not (0 <= x <= size[0] and 0 <= y <= size[1]):
            raise DataError(f"{image}: there is nothing at {x:.0f}, {y:.0f}.")
        self._writing().flag(Flag(patch, _share(x, size[0]), _share(y, size[1])))
        return Marked(patch, PoolPatch(patch).name, (0, 0, *size), (x, y))

    def marks_on_patch(self, image: Path, size: tuple[int, int]) -> list[Marked]:
        """The flag of a patch if it is not answered yet."""
        store, patch = self._store(make=False), self.holds(image)
        flags = store.flags() if store is not None and patch is not None else []
        return [
            Marked(flag.patch, PoolPatch(flag.patch).name, (0, 0, *size), (flag.x * size[0], flag.y * size[1]))
            for flag in flags
            if flag.patch == patch
        ]

    def withdraw(self, patch: str) -> bool:
        """Take back a flag that nobody has answered; return whether there was one."""
        store = self._store(make=False)
        return store is not None and store.withdraw(patch)

    def _writing(self) -> LabelStore:
        store = self._store(make=True)
        assert store is not None
        return store

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            if self._opened is not None:
                self._opened.close()
                self._opened = None


def _same(place: Place, slide: Slide) -> bool:
    return place.slide == slide.path.name


def _box(place: Place, slide: Slide) -> tuple[float, float, float, float]:
    """A patch's place counted from the corner of the scanned area, as slides count; tiles are listed in the file's."""
    return place.x - slide.origin[0], place.y - slide.origin[1], place.width, place.height


def _share(place: float, side: float) -> float:
    return min(1.0, max(0.0, place / side))
