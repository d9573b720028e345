"""What one patch is to the rest of the program."""

from __future__ import annotations

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
