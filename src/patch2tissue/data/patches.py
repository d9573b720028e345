"""What one patch is to the rest of the program."""

from __future__ import annotations

import os
import os.path
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import overload


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Patch:
    """One image with what is known of it.

    A data set has a hundred thousand of them, so each keeps the name of its file, and shares all else with others; a
    `Path` takes several times as much and is made when it is asked for.

    Attributes:
        path: image file.
        name: file name without its extension; unique within a split, also names pseudo labels and predictions.
        labels: 1 for each tissue that is present, in the tissue set's order; None if unlabelled.
        mask: mask file of the same name, None if there is none. Only evaluation (and the full-supervision
            comparison, asked for by name) opens it.
        patient: patient identifier if the name tells it.
        slide: slide identifier if the name tells it.
    """

    _folder: str
    _file: str
    _name: str | None
    labels: tuple[int, ...] | None
    _mask_folder: str | None
    _mask_file: str | None
    patient: str | None
    slide: str | None

    def __init__(
        self,
        path: Path,
        name: str,
        labels: tuple[int, ...] | None = None,
        mask: Path | None = None,
        patient: str | None = None,
        slide: str | None = None,
    ) -> None:
        folder, file = os.path.split(path)
        self._fill(sys.intern(folder), file, None if name == stem_of(file) else name, labels, mask, patient, slide)

    @classmethod
    def in_folder(
        cls,
        folder: str,
        file: str,
        labels: tuple[int, ...] | None = None,
        mask: Path | None = None,
        patient: str | None = None,
        slide: str | None = None,
    ) -> Patch:
        """The patch `file` of a folder, without a `Path` on the way."""
        patch = object.__new__(cls)
        patch._fill(folder, file, None, labels, mask, patient, slide)
        return patch

    def _fill(
        self,
        folder: str,
        file: str,
        name: str | None,
        labels: tuple[int, ...] | None,
        mask: Path | None,
        patient: str | None,
        slide: str | None,
    ) -> None:
        given = None if mask is None else os.path.split(mask)
        put = object.__setattr__
        put(self, "_folder", folder)
        put(self, "_file", file)
        put(self, "_name", name)
        put(self, "labels", labels)
        # of a mask of the same file name only the folder is kept
        put(self, "_mask_folder", None if given is None else sys.intern(given[0]))
        put(self, "_mask_file", None if given is None or given[1] == file else given[1])
        put(self, "patient", None if patient is None else sys.intern(patient))
        put(self, "slide", None if slide is None else sys.intern(slide))

    @property
    def path(self) -> Path:
        """The image file."""
        # as one text: its parts are then texts of the Path, which Python's table of known texts drops with it
        return Path(os.path.join(self._folder, self._file))  # noqa: PTH118

    @property
    def name(self) -> str:
        """Its name without extension."""
        return stem_of(self._file) if self._name is None else self._name

    @property
    def mask(self) -> Path | None:
        """The mask file, None if there is none."""
        if self._mask_folder is None:
            return None
        return Path(os.path.join(self._mask_folder, self._mask_file or self._file))  # noqa: PTH118

    def __repr__(self) -> str:
        return f"Patch({str(self.path)!r}, {self.name!r}, {self.labels})"


class PatchFiles(Sequence[Path]):
    """A file of the same name for each patch, `folder/NAME.png`: nothing is kept but the folder.

    Args:
        folder: where they are.
        patches: the patches.
    """

    def __init__(self, folder: Path, patches: Sequence[Patch]) -> None:
        self._folder, self._patches = folder, patches

    def __len__(self) -> int:
        return len(self._patches)

    @overload
    def __getitem__(self, index: int) -> Path: ...
    @overload
    def __getitem__(self, index: slice) -> PatchFiles: ...
    def __getitem__(self, index: int | slice) -> Path | PatchFiles:
        """The file of one patch, or the files of some."""
        if isinstance(index, slice):
            return PatchFiles(self._folder, self._patches[index])
        return self._folder / f"{self._patches[index].name}.png"


def stem_of(file: str) -> str:
    """A file name without its extension, as `Path.stem` gives it.

    >>> stem_of("a.b.png"), stem_of(".hidden")
    ('a.b', '.hidden')
    """
    dot = file.rfind(".")
    return file[:dot] if 0 < dot < len(file) - 1 else file


def shared_patients(one: Iterable[Patch], other: Iterable[Patch]) -> dict[str, tuple[list[Patch], list[Patch]]]:
    """Patients, or where names tell none slides, that two splits have in common, with their patches in each.

    >>> a, b = Patch(Path("x.png"), "x", patient="A1"), Patch(Path("y.png"), "y", patient="A1")
    >>> list(shared_patients([a], [b]))
    ['patient A1']
    """
    ours, theirs = _by_holder(one), _by_holder(other)
    found = {}
    for holder in sorted(ours.keys() & theirs.keys()):
        both = ours[holder], theirs[holder]
        # without patient and slide it is merely the same name, which is another fault
        if holder.startswith("patient") or any(patch.slide is not None for patch in (*both[0], *both[1])):
            found[holder] = both
    return found


def _by_holder(patches: Iterable[Patch]) -> dict[str, list[Patch]]:
    held: dict[str, list[Patch]] = defaultdict(list)
    for patch in patches:
        # a whole image in val may be the region that train's patches were cut from
        known = patch.patient is not None
        held[f"patient {patch.patient}" if known else f"slide {patch.slide or patch.name}"].append(patch)
    return held
