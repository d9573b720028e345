"""What one patch is to the rest of the program."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Patch:
    """One image with what is known of it.

    Attributes:
        path: image file.
        name: file name without its extension; unique within a split, also names pseudo labels and predictions.
        labels: 1 for each tissue that is present, in the tissue set's order; None if unlabelled.
        mask: mask file of the same name, None if there is none. Only evaluation (and the full-supervision
            comparison, asked for by name) opens it.
        patient: patient identifier if the name tells it.
        slide: slide identifier if the name tells it.
    """

    path: Path
    name: str
    labels: tuple[int, ...] | None = None
    mask: Path | None = None
    patient: str | None = None
    slide: str | None = None


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
