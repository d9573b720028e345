"""Checks that need the folders and one file at a time: labels, names, pictures, masks."""

from __future__ import annotations

import hashlib
import os.path
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from patch2tissue.data.check_report import Level, Problem
from patch2tissue.data.images import IMAGE_EXTENSIONS, read_image, read_mask
from patch2tissue.data.labels import layout_of, parse_label, patient_of, slide_of
from patch2tissue.data.labels_csv import scan_labels_csv
from patch2tissue.data.layouts import belongs_to, detect_layout, image_files, image_folder, labels_file
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

CONTRADICTION_SHARE = 0.05
"""A tissue that holds more than this share of a patch's mask, yet is not in its label, contradicts the label."""

_EXPECTED = frozenset({".csv", ".json", ".txt", ".md", ".yaml", ".yml", ".html", ".xml", ".geojson", ".db", ".log"})


@dataclass
class Notes:
    """Problems as they are collected; paths are shown relative to the data folder."""

    root: Path
    problems: list[Problem] = field(default_factory=list)

    def add(self, level: Level, kind: str, path: Path, text: str) -> None:
        """Note a problem about a file or folder."""
        self.problems.append(Problem(level, kind, self.shown(path), text))

    def shown(self, path: Path) -> str:
        """Path as it is shown."""
        try:
            return Path(os.path.normpath(path)).relative_to(os.path.normpath(self.root)).as_posix() or "."
        except ValueError:
            return str(path)


def collect_split(root: Path, split: str, tissues: TissueSet, layout: str, notes: Notes) -> tuple[list[Patch], str]:
    """List the patches of a split with their labels and masks, noting whatever is wrong with names and labels.

    Returns:
        The patches, whether usable or not, and the layout of their labels (empty if there is none).
    """
    folder = root / split
    files = image_files(image_folder(folder))
    table = labels_file(root, split)
    if layout == "auto":
        layout = _detected(folder, tissues, split, table, notes)
    if layout == "csv" and table is not None:
        files, labels = _labels_in_table(root, split, table, files, tissues, notes)
    else:
        if layout == "csv":
            notes.add("error", "label", folder, "the layout is csv, but there is no labels.csv in it or beside it.")
        labels = _labels_in_names(files, layout, tissues, split, notes) if layout != "csv" else {}
    if split == "train":
        for path in files:
            found = labels.get(path)
            if found is not None and not any(found):
                notes.add(
                    "error", "label", path, "its label holds no tissue; correct the label or leave the patch out."
                )
    masks = _masks(folder, split, files, notes)
    _note_same_stems(files, notes)
    _note_unread_files(folder, notes)
    patches = [
        Patch(path, path.stem, labels.get(path), masks.get(path.stem), patient_of(path.stem), slide_of(path.stem))
        for path in files
    ]
    return patches, layout


def _detected(folder: Path, tissues: TissueSet, split: str, table: Path | None, notes: Notes) -> str:
    if split != "train":
        return "csv" if table is not None else ""
    try:
        return detect_layout(folder, tissues)
    except DataError as error:
        reason = str(error).removeprefix(f"{folder}: ")
        if (folder / "mask").is_dir():
            reason += " Images with masks can be cut into labelled patches by `patch2tissue patches`."
        notes.add("error", "label", folder, reason)
        return ""


def _labels_in_table(
    root: Path, split: str, table: Path, files: list[Path], tissues: TissueSet, notes: Notes
) -> tuple[list[Path], dict[Path, tuple[int, ...]]]:
    try:
        listed, problems = scan_labels_csv(table, tissues)
    except DataError as error:
        notes.add("error", "label", table, str(error).removeprefix(str(table)).lstrip(":, "))
        return files, {}
    for problem in problems:
        notes.add("error", "label", table, problem.removeprefix(str(table)).lstrip(":, "))
    ours = {path: labels for path, labels in listed.items() if belongs_to(path, root, split)}
    for path in [path for path in ours if not path.is_file()]:
        notes.add(
            "error",
            "label",
            path,
            f"is listed in {notes.shown(table)}, but there is no such file. Correct or remove the line.",
        )
        del ours[path]
    in_place = {Path(os.path.normpath(path)): labels for path, labels in ours.items()}
    if split != "train":
        return files, {path: in_place[Path(os.path.normpath(path))] for path in files if _listed(path, in_place)}
    for path in files:
        if not _listed(path, in_place):
            notes.add("warning", "label", path, f"is not listed in {notes.shown(table)}, so it is not trained on.")
    return list(ours), ours


def _listed(path: Path, in_place: dict[Path, tuple[int, ...]]) -> bool:
    return Path(os.path.normpath(path)) in in_place


def _labels_in_names(
    files: list[Path], layout: str, tissues: TissueSet, split: str, notes: Notes
) -> dict[Path, tuple[int, ...]]:
    labels: dict[Path, tuple[int, ...]] = {}
    bare = []
    for path in files:
        form = layout or layout_of(path.stem)
        try:
            found = parse_label(path.stem, form, tissues) if form else None
        except DataError as error:
            if split == "train":
                notes.add("error", "label", path, str(error).removeprefix(f"{path.stem}: "))
            continue
        if found is not None:
            labels[path] = found
        elif split == "train" and layout:
            bare.append(path)
    if bare and len(bare) == len(files):
        text = f"no file name carries a label in the form of {layout} (first: {files[0].name}). Is it another layout?"
        notes.add("error", "label", files[0].parent, text)
    else:
        for path in bare:
            notes.add("error", "label", path, f"its name carries no label in the form of {layout}.")
    return labels


def _masks(folder: Path, split: str, files: list[Path], notes: Notes) -> dict[str, Path]:
    """Masks by stem, noting those that are missing or belong to nothing."""
    found = image_files(folder / "mask")
    stems = {path.stem for path in files}
    _note_same_stems(found, notes)
    for path in found:
        if path.stem not in stems:
            notes.add("error", "mask", path, "there is no image of the same name. Rename or remove it.")
    masks = {path.stem: path for path in found}
    lacking = [path for path in files if path.stem not in masks]
    if split == "train":
        if masks and lacking:
            text = f"{len(lacking)} of {len(files)} images have no mask, for example {lacking[0].name}."
            notes.add("warning", "mask", folder / "mask", text)
    elif not found and lacking:
        notes.add(
            "error", "mask", folder, f"none of its {len(files)} images has a mask in {split}/mask/ to score with."
        )
    else:
        for path in lacking:
            notes.add("error", "mask", path, f"has no mask of the same name in {split}/mask/.")
    return masks


def _note_same_stems(files: list[Path], notes: Notes) -> None:
    first: dict[str, Path] = {}
    for path in files:
        if path.stem in first:
            text = f"is called like {notes.shown(first[path.stem])}; names must differ in more than the extension."
            notes.add("error", "duplicate", path, text)
        first.setdefault(path.stem, path)


def _note_unread_files(folder: Path, notes: Notes) -> None:
    """Warn of images beside img/, which are not read, and of files that are no images."""
    images = image_folder(folder)
    if images != folder:
        beside = image_files(folder)
        if beside:
            text = f"{len(beside)} images lie beside img/ and are not read, for example {beside[0].name}."
            notes.add("warning", "unread", folder, text)
    if not images.is_dir():
        return
    others = Counter(
        path.suffix.lower()
        for path in images.iterdir()
        if path.is_file() and not path.name.startswith(".") and path.suffix.lower() not in IMAGE_EXTENSIONS | _EXPECTED
    )
    unread = [
        path
        for path in images.iterdir()
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and not path.is_file()
    ]
    if unread:
        text = (
            f"{len(unread)} entries are called like images and are none (links to nothing, folders or devices), for "
            f"example {min(unread).name}. They are not read."
        )
        notes.add("warning", "unread", images, text)
    for suffix, count in sorted(others.items()):
        text = f"{count} files with the extension '{suffix}' are not read; images are {_extensions()}."
        notes.add("warning", "unread", images, text)


def _extensions() -> str:
    return ", ".join(sorted(IMAGE_EXTENSIONS))


@dataclass(frozen=True)
class Facts:
    """What reading one patch told.

    Attributes:
        size: (height, width) in pixels, None if the image cannot be read.
        digest: equal for equal pictures; None for unreadable ones and those of a single colour.
        pixels: mask pixels of each tissue and, last, of what is not scored; None without a usable mask.
    """

    size: tuple[int, int] | None
    digest: bytes | None
    pixels: tuple[int, ...] | None


def examine(patch: Patch, tissues: TissueSet, note: Callable[[Level, str, Path, str], None]) -> Facts:
    """Read a patch and its mask wholly and note what is wrong with them."""
    size = digest = pixels = None
    try:
        image = read_image(patch.path)
    except DataError as error:
        note("error", "image", patch.path, str(error).removeprefix(f"{patch.path}: "))
    else:
        size = (image.shape[0], image.shape[1])
        if np.array_equal(image.min(axis=(0, 1)), image.max(axis=(0, 1))):
            note("warning", "blank", patch.path, "has a single colour.")
        else:
            digest = hashlib.blake2b(image.tobytes(), digest_size=16, key=str(size).encode()).digest()
    if patch.mask is not None:
        pixels = _examine_mask(patch, patch.mask, size, tissues, note)
    return Facts(size, digest, pixels)


def _examine_mask(
    patch: Patch,
    path: Path,
    size: tuple[int, int] | None,
    tissues: TissueSet,
    note: Callable[[Level, str, Path, str], None],
) -> tuple[int, ...] | None:
    try:
        mask = read_mask(path, tissues)
    except DataError as error:
        note("error", "mask", path, str(error).removeprefix(f"{path}: "))
        return None
    if size is not None and mask.shape != size:
        text = f"is {mask.shape[1]}×{mask.shape[0]} px, but its image is {size[1]}×{size[0]} px."
        note("error", "mask", path, text)
        return None
    counts = np.bincount(mask.ravel(), minlength=256)
    pixels = tuple(int(count) for count in counts[: len(tissues)])
    if not any(pixels):
        note("warning", "mask", path, "holds no tissue, only what is not scored.")
    elif patch.labels is not None:
        for name, label, count in zip(tissues.names, patch.labels, pixels, strict=True):
            if label and not count:
                note("warning", "contradiction", patch.path, f"is labelled '{name}', but its mask holds none.")
            elif not label and count > CONTRADICTION_SHARE * mask.size:
                text = f"is not labelled '{name}', but that is {count / mask.size:.0%} of its mask."
                note("warning", "contradiction", patch.path, text)
    return (*pixels, int(mask.size) - sum(pixels))
