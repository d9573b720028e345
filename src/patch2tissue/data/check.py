"""Checking a data set before training: what is in it, and every file that is wrong."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.labels import layout_of, parse_label, patient_of
from patch2tissue.data.layouts import (
    detect_layout,
    image_files,
    image_folder,
    labels_file,
    mask_files,
    read_labels_csv,
)
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

Progress = Callable[[int, int], None]
SPLITS = ("train", "val", "test")


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong: with which file, what, and whether it stops training (`error`) or not (`warning`)."""

    file: str
    reason: str
    level: Literal["error", "warning"] = "error"


@dataclass
class SplitReport:
    """What is in one split."""

    images: int = 0
    masks: int = 0
    patients: int = 0
    per_tissue: dict[str, int] = field(default_factory=dict)
    per_label: dict[str, int] = field(default_factory=dict)
    sizes: dict[str, int] = field(default_factory=dict)


@dataclass
class DataReport:
    """What is in a data set, and what is wrong with it."""

    root: str
    tissues: str
    layout: str | None = None
    splits: dict[str, SplitReport] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)

    @property
    def errors(self) -> list[Problem]:
        """Problems that stop training or scoring."""
        return [problem for problem in self.problems if problem.level == "error"]

    @property
    def warnings(self) -> list[Problem]:
        """Problems to know of."""
        return [problem for problem in self.problems if problem.level == "warning"]

    def to_dict(self) -> dict[str, Any]:
        """Plain form for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class _Checked:
    """What was found in one image and its mask."""

    size: tuple[int, int] | None
    digest: str | None
    problems: list[Problem]


def check_data(root: Path, tissues: TissueSet, layout: str = "auto", *, progress: Progress | None = None) -> DataReport:
    """Open every file of a data set and report what it holds and what is wrong.

    Args:
        root: folder with train/ and optionally val/ and test/.
        tissues: tissue set of labels and masks.
        layout: how labels are written, `auto` to recognise it.
        progress: called with (files done, files in all).

    Raises:
        DataError: if the folder is missing or holds no split. Everything else is reported, not raised.
    """
    root = Path(root)
    found = [split for split in SPLITS if (root / split).is_dir()]
    if not found:
        raise DataError(f"{root}: holds none of the folders train, val and test.")
    report = DataReport(str(root), tissues.name)
    if "train" not in found:
        report.problems.append(Problem(str(root / "train"), "there is no such folder, so there is nothing to train on"))
    images = {split: image_files(image_folder(root / split)) for split in found}
    total, done = sum(len(files) for files in images.values()), 0
    digests: dict[str, tuple[str, Path]] = {}
    patients: dict[str, set[str]] = {}
    for split in found:
        files, masks = images[split], mask_files(root / split)
        summary = report.splits[split] = SplitReport(images=len(files), masks=len(masks))
        if not files:
            report.problems.append(Problem(str(root / split), "holds no images"))
        report.problems += _same_names(files)
        report.problems += _unmatched(split, files, masks)
        labels = _labels(root, split, files, tissues, layout, report)
        summary.per_tissue = {name: sum(label[k] for label in labels.values()) for k, name in enumerate(tissues.names)}
        combinations = Counter(_combination(label, tissues) for label in labels.values())
        summary.per_label = dict(combinations.most_common())
        patients[split] = {patient for file in files if (patient := patient_of(file.stem)) is not None}
        summary.patients = len(patients[split])
        sizes: Counter[str] = Counter()
        with ThreadPoolExecutor() as pool:
            jobs = [pool.submit(_check_file, file, masks.get(file.stem), labels.get(file), tissues) for file in files]
            for file, job in zip(files, jobs, strict=True):
                checked = job.result()
                report.problems += checked.problems
                if checked.size is not None:
                    sizes[f"{checked.size[1]}×{checked.size[0]}"] += 1
                if checked.digest is not None:
                    report.problems += _same_content(split, file, checked.digest, digests)
                done += 1
                if progress is not None:
                    progress(done, total)
        summary.sizes = dict(sizes.most_common())
    report.problems += _shared(root, patients, {split: {f.stem for f in files} for split, files in images.items()})
    if "train" in report.splits:
        for name, count in report.splits["train"].per_tissue.items():
            if count == 0 and report.splits["train"].images:
                report.problems.append(Problem(str(root / "train"), f"no patch is labelled '{name}'"))
    return report


def _combination(label: tuple[int, ...], tissues: TissueSet) -> str:
    present = [name for name, flag in zip(tissues.abbreviations, label, strict=True) if flag]
    return " + ".join(present) or "none"


def _same_names(files: list[Path]) -> Iterable[Problem]:
    names: dict[str, Path] = {}
    for file in files:
        if file.stem in names:
            yield Problem(str(file), f"has the same name as {names[file.stem].name}")
        names.setdefault(file.stem, file)


def _unmatched(split: str, files: list[Path], masks: dict[str, Path]) -> Iterable[Problem]:
    names = {file.stem for file in files}
    for name, mask in masks.items():
        if name not in names:
            yield Problem(str(mask), "is a mask without an image of the same name")
    if split != "train":
        for file in files:
            if file.stem not in masks:
                yield Problem(str(file), "has no mask of the same name, so it cannot be scored", "warning")


def _labels(
    root: Path, split: str, files: list[Path], tissues: TissueSet, layout: str, report: DataReport
) -> dict[Path, tuple[int, ...]]:
    """Labels of a split's images; what is wrong with them goes into the report."""
    table = labels_file(root, split)
    try:
        if layout == "auto" and split == "train" and files:
            layout = detect_layout(root / split, tissues)
        if layout == "csv" or (layout == "auto" and table is not None):
            if table is None:
                raise DataError(f"{root}: layout is csv, but there is no labels.csv.")
            return _labels_from_csv(table, root / split, files, tissues, report)
    except DataError as error:
        report.problems.append(Problem(str(table or root / split), str(error)))
        return {}
    if split == "train":
        report.layout = layout
    labels: dict[Path, tuple[int, ...]] = {}
    for file in files:
        form = layout_of(file.stem) if layout == "auto" else layout
        try:
            label = parse_label(file.stem, form, tissues) if form else None
        except DataError as error:
            report.problems.append(Problem(str(file), str(error)))
            continue
        if label is None and split == "train":
            report.problems.append(Problem(str(file), "its name carries no label of the layout " + str(form)))
        elif label is not None and not any(label):
            report.problems.append(Problem(str(file), "its label has no tissue"))
        elif label is not None:
            labels[file] = label
    return labels


def _labels_from_csv(
    table: Path, folder: Path, files: list[Path], tissues: TissueSet, report: DataReport
) -> dict[Path, tuple[int, ...]]:
    by_place = {path.resolve(): (path, label) for path, label in read_labels_csv(table, tissues).items()}
    report.layout = "csv"
    labels: dict[Path, tuple[int, ...]] = {}
    for file in files:
        listed = by_place.get(file.resolve())
        if listed is None:
            if folder.name == "train":
                report.problems.append(Problem(str(file), f"is not listed in {table}"))
        elif not any(listed[1]):
            report.problems.append(Problem(str(file), "its label has no tissue"))
        else:
            labels[file] = listed[1]
    for place, (path, _) in by_place.items():
        if folder.resolve() in place.parents and not place.is_file():
            report.problems.append(Problem(str(path), f"is listed in {table}, but there is no such file"))
    return labels


def _check_file(file: Path, mask: Path | None, label: tuple[int, ...] | None, tissues: TissueSet) -> _Checked:
    problems: list[Problem] = []
    size, digest = None, None
    try:
        image = read_image(file)
        size = (image.shape[0], image.shape[1])
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
    except DataError as error:
        problems.append(Problem(str(file), str(error)))
    if mask is not None:
        try:
            values = read_mask(mask, tissues)
        except DataError as error:
            problems.append(Problem(str(mask), str(error)))
        else:
            if size is not None and values.shape != size:
                problems.append(
                    Problem(
                        str(mask),
                        f"is {values.shape[1]}×{values.shape[0]} px, but its image is {size[1]}×{size[0]} px",
                    )
                )
            elif label is not None:
                problems += _contradiction(mask, values, label, tissues)
    return _Checked(size, digest, problems)


def _contradiction(mask: Path, values: np.ndarray, label: tuple[int, ...], tissues: TissueSet) -> Iterable[Problem]:
    """A label is a pathologist's word and may leave out small pieces: a warning, from a tenth of the patch on."""
    shares = np.bincount(values.ravel(), minlength=256) / values.size
    for k, (name, flag) in enumerate(zip(tissues.names, label, strict=True)):
        if flag and shares[k] == 0:
            yield Problem(str(mask), f"holds no '{name}', which the label says is present", "warning")
        elif not flag and shares[k] > 0.1:
            yield Problem(str(mask), f"is {shares[k]:.0%} '{name}', which the label says is absent", "warning")


def _same_content(split: str, file: Path, digest: str, seen: dict[str, tuple[str, Path]]) -> Iterable[Problem]:
    if digest not in seen:
        seen[digest] = (split, file)
        return
    other_split, other = seen[digest]
    level: Literal["error", "warning"] = "warning" if other_split == split else "error"
    yield Problem(str(file), f"has the same content as {other}", level)


def _shared(root: Path, patients: dict[str, set[str]], names: dict[str, set[str]]) -> Iterable[Problem]:
    """Patients and names that stand in more than one split."""
    splits = list(names)
    for i, first in enumerate(splits):
        for second in splits[i + 1 :]:
            for name in sorted(names[first] & names[second]):
                yield Problem(str(root / second), f"'{name}' stands in {first} too")
            both = sorted(patients[first] & patients[second])
            if both:
                listed = ", ".join(both[:5]) + (" …" if len(both) > 5 else "")
                yield Problem(
                    str(root / second),
                    f"{len(both)} patients stand in {first} too ({listed}): scores would be too good",
                )
