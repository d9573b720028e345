"""What a check of a data set found: counts, and everything that is wrong file by file."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

Level = Literal["error", "warning"]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        level: an `error` makes training or scoring fail or mislead; a `warning` is worth a look.
        kind: short name of what is wrong, the same for all files it is wrong with.
        file: file or folder, relative to the data folder where it lies inside.
        reason: what is wrong and what to do, without the file's name.
    """

    level: Level
    kind: str
    file: str
    reason: str

    def __str__(self) -> str:
        return f"{self.file}: {self.reason}"


@dataclass
class SplitReport:
    """Counts of one split.

    Attributes:
        images: image files; `labelled` of them have a label, `masks` of them a mask.
        patients: patients told by the file names, and `slides` likewise; 0 if names tell none.
        per_tissue: images labelled with each tissue, by name.
        per_label: images per combination of tissues, most frequent first.
        sizes: images per size, as `WIDTH×HEIGHT` in pixels, most frequent first.
        pixels: mask pixels of each tissue, and under `not scored` the rest; empty without masks.
    """

    images: int = 0
    labelled: int = 0
    masks: int = 0
    patients: int = 0
    slides: int = 0
    per_tissue: dict[str, int] = field(default_factory=dict)
    per_label: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)
    pixels: dict[str, int] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return dict(vars(self))


@dataclass
class DataReport:
    """What `check_data` found.

    Attributes:
        root: the data folder.
        tissue_set: name of the tissue set.
        layout: how labels of train are written; None if that could not be told.
        splits: counts by split, of the splits that are there.
        problems: errors first, then warnings, each in the order of splits and files.
    """

    root: Path
    tissue_set: str
    layout: str | None = None
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """Problems that must be mended."""
        return [problem for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """Problems that are worth a look."""
        return [problem for problem in self.problems if problem.level == "warning"]

    @property
    def clean(self) -> bool:
        """Whether there is no error."""
        return not self.errors

    def kinds(self, level: Level) -> Counter[str]:
        """Number of problems of a level by kind."""
        return Counter(problem.kind for problem in self.problems if problem.level == level)

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return {
            "root": str(self.root),
            "tissues": self.tissue_set,
            "layout": self.layout,
            "clean": self.clean,
            "errors": len(self.errors),
            "warnings": len(self.warnings),
            "splits": {name: split.to_dict() for name, split in self.splits.items()},
            "problems": [vars(problem) for problem in self.problems],
        }
