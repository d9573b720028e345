"""Finding the patches of a data set: split folders, file-name labels, CSV labels, masks."""

from __future__ import annotations

import os
import os.path
from itertools import pairwise
from pathlib import Path

from patch2tissue.data.images import IMAGE_EXTENSIONS
from patch2tissue.data.labels import NAME_LAYOUTS, layout_of, parse_label, patient_of, slide_of
from patch2tissue.data.labels_csv import read_labels_csv
from patch2tissue.data.patches import Patch, stem_of
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

__all__ = ["LAYOUTS", "SPLITS", "detect_layout", "load_images_and_masks", "load_split", "read_labels_csv"]

LAYOUTS = (*NAME_LAYOUTS, "csv")
"""Ways a label can be written."""

SPLITS = ("train", "val", "test")
"""Folders of a data set. Only train needs labels."""


def image_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; hidden files, folders and links to nothing are passed over.

    Raises:
        DataError: if a name is not text, so that no table could list the file.
    """
    return [folder / name for name in image_names(folder)]


def image_names(folder: Path) -> list[str]:
    """Names of what `image_files` finds; a list of a hundred thousand Paths would take several times as much memory."""
    if not folder.is_dir():
        return []
    # what kind of entry it is comes with the listing: no further look at each of many files
    with os.scandir(folder) as entries:
        names = [
            entry.name
            for entry in entries
            if os.path.splitext(entry.name)[1].lower() in IMAGE_EXTENSIONS  # noqa: PTH122
            and not entry.name.startswith(".")
            and _is_file(entry)
        ]
    names.sort()
    for name in names:
        if not name.isascii():  # a Path of each would also keep each name in Python's table of known texts
            refuse_bad_name(folder / name)
    return names


def _is_file(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_file()
    except OSError:  # a link that leads to itself
        return False


def refuse_bad_name(path: Path) -> None:
    """Refuse a file whose name is not text: written on a system with other letters, and never told which.

    Raises:
        DataError: if it is none.
    """
    try:
        path.name.encode("utf-8")
    except UnicodeEncodeError:
        raise DataError(
            f"{path}: its name is not UTF-8 text, so that no table can list it. Rename the file (convmv -f latin1 -t "
            "utf8 mends a folder)."
        ) from None


def image_folder(split_folder: Path) -> Path:
    """`img/` inside a split's folder if there is one, else the folder itself."""
    inner = split_folder / "img"
    return inner if inner.is_dir() else split_folder


def mask_files(split_folder: Path) -> dict[str, Path]:
    """Masks in `mask/` of a split, by file name without extension."""
    folder = split_folder / "mask"
    return {stem_of(name): folder / name for name in image_names(folder)}


def labels_file(root: Path, split: str) -> Path | None:
    """`labels.csv` of a split or of the whole data set."""
    for path in (root / split / "labels.csv", root / "labels.csv"):
        if path.is_file():
            return path
    return None


def detect_layout(split_folder: Path, tissues: TissueSet) -> str:
    """Find out how labels are written in a split: in labels.csv, or in the form that most file names have.

    Raises:
        DataError: if there is no image, or no label is recognised.
    """
    if labels_file(split_folder.parent, split_folder.name) is not None:
        return "csv"
    names = image_names(image_folder(split_folder))
    if not names:
        raise DataError(f"{split_folder}: holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
    counts = dict.fromkeys(NAME_LAYOUTS, 0)
    for name in names:
        layout = layout_of(stem_of(name))
        if layout is not None:
            counts[layout] += 1
    best = max(NAME_LAYOUTS, key=lambda layout: counts[layout])
    if counts[best] == 0:
        example = "[" + " ".join(["1", *["0"] * (len(tissues) - 1)]) + "]"
        raise DataError(
            f"{split_folder}: no file name carries a label (first: {names[0]}). Name patches like "
            f"NAME-{example}.png, or put a labels.csv with the columns path,{','.join(tissues.names)} beside them."
        )
    return best


def load_split(root: Path, split: str, tissues: TissueSet, layout: str = "auto") -> list[Patch]:
    """Find the patches of a split, sorted by name.

    Images lie in `root/split/` or `root/split/img/`, masks of the same name in `root/split/mask/`. Masks are listed,
    not opened. With a labels.csv, train is what the table lists (it may point anywhere, as long as that is not val or
    test); val and test are the images of their folders, with the table's labels where it has some.

    Args:
        root: data folder.
        split: `train`, `val` or `test`. Patches of `train` need a label, the others need none.
        tissues: tissue set of labels and masks.
        layout: `auto`, `luad-histoseg`, `bcss-wsss`, `wsss4luad` or `csv`.

    Raises:
        DataError: if the split is missing, or names or labels are unusable.
    """
    root = Path(root)
    folder = root / split
    table = labels_file(root, split)
    needs_labels = split == "train"
    if not folder.is_dir() and not (needs_labels and table is not None):
        raise DataError(f"{folder}: there is no such folder. A data set holds train/, and val/ or test/ for scoring.")
    if layout == "auto":
        layout = detect_layout(folder, tissues) if needs_labels or table is not None else ""
    masks = mask_files(folder)
    same: dict[tuple[int, ...], tuple[int, ...]] = {}  # patches of one label share it
    if layout == "csv":
        if table is None:
            raise DataError(f"{root}: layout is csv, but there is no labels.csv in it or in {split}/.")
        labels = read_labels_csv(table, tissues)
        if needs_labels:
            files = [path for path in labels if belongs_to(path, root, split)]
            missing = next((path for path in files if not path.is_file()), None)
            if missing is not None:
                raise DataError(
                    f"{missing}: is listed in {table}, but there is no such file. Correct or remove the line."
                )
        else:
            files = image_files(image_folder(folder))
        by_place = {os.path.normpath(path): same.setdefault(values, values) for path, values in labels.items()}
        patches = [_patch(path, by_place.get(os.path.normpath(path)), masks.get(path.stem)) for path in files]
    else:
        place = image_folder(folder)
        place_name, patches = str(place), []
        for name in image_names(place):
            stem = stem_of(name)
            found = _label_in_name(place, name, layout, tissues, needs_labels)
            shared = None if found is None else same.setdefault(found, found)
            patches.append(Patch.in_folder(place_name, name, shared, masks.get(stem), patient_of(stem), slide_of(stem)))
    return _checked(patches, folder if layout != "csv" or table is None else table, needs_labels)


def belongs_to(path: Path, root: Path, split: str) -> bool:
    """Whether an image that labels.csv lists is one of this split: it lies in its folder, or in none for train."""
    normal = Path(os.path.normpath(path))
    home = next((name for name in SPLITS if Path(os.path.normpath(root / name)) in normal.parents), "train")
    return home == split


def _label_in_name(
    folder: Path, name: str, layout: str, tissues: TissueSet, needs_labels: bool
) -> tuple[int, ...] | None:
    """Label of a file name that carries one; where none is needed, what only looks like a label is none."""
    stem = stem_of(name)
    form = layout or layout_of(stem)
    if form is None:
        return None
    try:
        return parse_label(stem, form, tissues)
    except DataError as error:
        if needs_labels or layout not in ("", *NAME_LAYOUTS):
            raise DataError(f"{folder / name}: {str(error).removeprefix(f'{stem}: ')}") from None
        return None


def _patch(path: Path, labels: tuple[int, ...] | None, mask: Path | None) -> Patch:
    return Patch(path, path.stem, labels, mask, patient_of(path.stem), slide_of(path.stem))


def _checked(patches: list[Patch], source: Path, needs_labels: bool) -> list[Patch]:
    if not all(one.name <= other.name for one, other in pairwise(patches)):
        patches = sorted(patches, key=lambda patch: patch.name)
    twice = next((one.name for one, other in pairwise(patches) if one.name == other.name), None)
    if twice is not None:
        raise DataError(f"{source}: two images are called '{twice}'. Names must differ in more than the extension.")
    if needs_labels:
        if not patches:
            raise DataError(f"{source}: holds no patches to train on ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
        _refuse(source, [p for p in patches if p.labels is None], "carry no label")
        _refuse(source, [p for p in patches if p.labels and not any(p.labels)], "have a label with no tissue")
    return patches


def _refuse(source: Path, bad: list[Patch], problem: str) -> None:
    if bad:
        examples = ", ".join(patch.path.name for patch in bad[:3])
        raise DataError(
            f"{source}: {len(bad)} training patches {problem}, for example {examples}. "
            "`patch2tissue check` lists them all."
        )


def load_images_and_masks(folder: Path, tissues: TissueSet) -> list[Patch]:
    """Images of any size in `folder/img/` (or `folder/`) with masks of the same name in `folder/mask/`, unlabelled.

    Raises:
        DataError: if the folder or its images are missing.
    """
    folder = Path(folder)
    files = image_files(image_folder(folder))
    if not files:
        raise DataError(f"{folder}: holds no images, neither directly nor in img/.")
    masks = mask_files(folder)
    return _checked([_patch(path, None, masks.get(path.stem)) for path in files], folder, needs_labels=False)
