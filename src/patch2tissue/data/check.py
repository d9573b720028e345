"""Checking a data set before training: what is there, and everything that is wrong, file by file."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import combinations
from pathlib import Path

from patch2tissue.data.check_files import Facts, Notes, collect_split, examine
from patch2tissue.data.check_report import DataReport, Level, Problem, SplitReport
from patch2tissue.data.layouts import LAYOUTS, SPLITS, labels_file
from patch2tissue.data.patches import Patch, shared_patients
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.tissues import TissueSet

__all__ = ["DataReport", "Problem", "SplitReport", "check_data"]

Progress = Callable[[int, int], None]

_NOT_SCORED = "not scored"


def check_data(
    root: Path,
    tissues: TissueSet,
    layout: str = "auto",
    progress: Progress | None = None,
    workers: int | None = None,
) -> DataReport:
    """Read every image, label and mask of a data set and report counts and whatever is wrong.

    Args:
        root: folder with `train/` and optionally `val/` and `test/`.
        tissues: tissue set of labels and masks.
        layout: `auto`, or how labels of train are written (one of `layouts.LAYOUTS`).
        progress: called with (images read, images in all).
        workers: threads that read; None: one per core, at most 8.

    Raises:
        DataError: if there is no data set at all.
        ConfigError: if the layout is unknown.
    """
    root = Path(root)
    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"Unknown layout '{layout}'. Known are auto, {', '.join(LAYOUTS)}.")
    found = [split for split in SPLITS if (root / split).is_dir()]
    if "train" not in found and labels_file(root, "train") is not None:
        found.insert(0, "train")
    if not found:
        reason = "has none of the folders train/, val/ and test/" if root.is_dir() else "there is no such folder"
        raise DataError(f"{root}: {reason}. A data set holds train/, and val/ or test/ for scoring.")
    report = DataReport(root, tissues.name)
    notes = Notes(root)
    splits: dict[str, list[Patch]] = {}
    for split in found:
        # a named layout is that of train; val and test need no labels, and are read in whatever form they have
        wanted = layout if split == "train" else "auto"
        splits[split], used = collect_split(root, split, tissues, wanted, notes)
        if split == "train":
            report.layout = used or None
            if not splits[split] and used:
                notes.add("error", "image", root / split, "holds no images to train on.")
        elif not splits[split]:
            notes.add("error", "image", root / split, "holds no images.")
    facts = _read_all(splits, tissues, notes, progress, workers)
    for split, patches in splits.items():
        report.splits[split] = _count(patches, facts, tissues)
    if "train" not in splits:
        notes.add("error", "image", root / "train", "there is no such folder, so there is nothing to train on.")
    else:
        _judge_train(splits["train"], facts, report.splits["train"], tissues, notes)
    _find_repeated(splits, facts, notes)
    _find_shared_patients(splits, notes)
    unique = list(dict.fromkeys(notes.problems))
    report.problems = sorted(unique, key=lambda problem: problem.level != "error")
    return report


def _read_all(
    splits: dict[str, list[Patch]], tissues: TissueSet, notes: Notes, progress: Progress | None, workers: int | None
) -> dict[Path, Facts]:
    """Read all patches in threads; problems keep the order of the files."""
    patches = [patch for split in splits.values() for patch in split]

    def read(patch: Patch) -> tuple[Facts, list[tuple[Level, str, Path, str]]]:
        said: list[tuple[Level, str, Path, str]] = []
        return examine(patch, tissues, lambda *words: said.append(words)), said

    facts = {}
    pool = ThreadPoolExecutor(max(1, workers or min(8, os.cpu_count() or 1)))
    try:
        for done, (patch, (fact, said)) in enumerate(zip(patches, pool.map(read, patches), strict=True), start=1):
            facts[patch.path] = fact
            for words in said:
                notes.add(*words)
            if progress is not None:
                progress(done, len(patches))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return facts


def _count(patches: Sequence[Patch], facts: dict[Path, Facts], tissues: TissueSet) -> SplitReport:
    labels = [patch.labels for patch in patches if patch.labels is not None]
    sizes = [size for patch in patches if (size := facts[patch.path].size) is not None]
    pixels = [values for patch in patches if (values := facts[patch.path].pixels) is not None]
    return SplitReport(
        images=len(patches),
        labelled=len(labels),
        masks=sum(patch.mask is not None for patch in patches),
        patients=len({patch.patient for patch in patches if patch.patient}),
        slides=len({patch.slide for patch in patches if patch.slide}),
        per_tissue={name: sum(label[k] for label in labels) for k, name in enumerate(tissues.names)} if labels else {},
        per_label=dict(Counter(_combination(label, tissues) for label in labels).most_common()),
        sizes=dict(Counter(f"{width}×{height}" for height, width in sizes).most_common()),
        pixels={
            name: sum(values[k] for values in pixels) for k, name in enumerate((*tissues.names, _NOT_SCORED)) if pixels
        },
    )


def _combination(labels: Sequence[int], tissues: TissueSet) -> str:
    return " + ".join(name for name, label in zip(tissues.names, labels, strict=True) if label) or "no tissue"


def _judge_train(
    patches: Sequence[Patch], facts: dict[Path, Facts], counts: SplitReport, tissues: TissueSet, notes: Notes
) -> None:
    """Whether the labels can teach anything, and whether sizes are one."""
    folder = notes.root / "train"
    for name, count in counts.per_tissue.items():
        if not count:
            text = f"no patch is labelled '{name}', so it cannot be learned. Add some, or use a set without it."
            notes.add("error", "tissue", folder, text)
        elif count == counts.labelled:
            text = f"every patch is labelled '{name}'; where it is cannot be learned from labels that never differ."
            notes.add("warning", "tissue", folder, text)
    if len(counts.sizes) > 1:
        usual = next(iter(counts.sizes))
        other = next(patch for patch in patches if (size := facts[patch.path].size) and _shown(size) != usual)
        text = (
            f"images have {len(counts.sizes)} sizes (most {usual} px, but for example {other.path.name} not); smaller "
            "ones are padded."
        )
        notes.add("warning", "size", folder, text)


def _shown(size: tuple[int, int]) -> str:
    return f"{size[1]}×{size[0]}"


def _find_repeated(splits: dict[str, list[Patch]], facts: dict[Path, Facts], notes: Notes) -> None:
    """Note images that share a name with one of another split, or their picture with any other."""
    names: dict[str, tuple[str, Path]] = {}
    pictures: dict[bytes, tuple[str, Path]] = {}
    for split, patches in splits.items():
        for patch in patches:
            home, first = names.setdefault(patch.name, (split, patch.path))
            if home != split:
                text = f"has the name of {notes.shown(first)}; one name must not be in two splits."
                notes.add("error", "duplicate", patch.path, text)
            digest = facts[patch.path].digest
            if digest is None:
                continue
            home, first = pictures.setdefault(digest, (split, patch.path))
            if home != split:
                text = f"is the same picture as {notes.shown(first)}, so that {split} is not independent of {home}."
                notes.add("error", "duplicate", patch.path, text)
            elif first != patch.path:
                notes.add("warning", "duplicate", patch.path, f"is the same picture as {notes.shown(first)}.")


def _find_shared_patients(splits: dict[str, list[Patch]], notes: Notes) -> None:
    """Note patients, or where names tell none slides, that are in two splits; with train it is an error."""
    for one, other in combinations(splits, 2):
        level: Level = "error" if one == "train" else "warning"
        for holder, (ours, theirs) in shared_patients(splits[one], splits[other]).items():
            images = "1 image" if len(ours) == 1 else f"{len(ours)} images"
            text = (
                f"{holder} is in {one} ({images}) and in {other} ({len(theirs)}), so that scores on {other} flatter. "
                "Keep each in one split."
            )
            notes.add(level, "patient", theirs[0].path, text)
