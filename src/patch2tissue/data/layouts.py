"""Finding the patches of a data set: split folders, file-name labels, CSV labels, masks."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable
from pathlib import Path

from patch2tissue.data.images import IMAGE_EXTENSIONS
from patch2tissue.data.labels import NAME_LAYOUTS, layout_of, parse_label, patient_of, slide_of
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

LAYOUTS = (*NAME_LAYOUTS, "csv")
"""Ways a label can be written."""


def image_files(folder: Path) -> list[Path]:
    """Image files directly in a folder, by name; hidden files are passed over."""
    if not folder.is_dir():
        return []
    return sorted(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in IMAGE_EXTENSIONS and not path.name.startswith(".") and path.is_file()
    )


def image_folder(split_folder: Path) -> Path:
    """`img/` inside a split's folder if there is one, else the folder itself."""
    inner = split_folder / "img"
    return inner if inner.is_dir() else split_folder


def mask_files(split_folder: Path) -> dict[str, Path]:
    """Masks in `mask/` of a split, by file name without extension."""
    return {path.stem: path for path in image_files(split_folder / "mask")}


def labels_file(root: Path, split: str) -> Path | None:
    """`labels.csv` of a split or of the whole data set."""
    for path in (root / split / "labels.csv", root / "labels.csv"):
        if path.is_file():
            return path
    return None


def detect_layout(split_folder: Path, tissues: TissueSet) -> str:
    """Find out how labels are written in a split.

    Raises:
        DataError: if there is no image, or no label is recognised.
    """
    if labels_file(split_folder.parent, split_folder.name) is not None:
        return "csv"
    files = image_files(image_folder(split_folder))
    if not files:
        raise DataError(f"{split_folder}: holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
    counts = {layout: 0 for layout in NAME_LAYOUTS}
    for path in files:
        layout = layout_of(path.stem)
        if layout is not None:
            counts[layout] += 1
    best = max(NAME_LAYOUTS, key=lambda layout: counts[layout])
    if counts[best] == 0:
        example = "[" + " ".join(["1", *["0"] * (len(tissues) - 1)]) + "]"
        raise DataError(
            f"{split_folder}: no file name carries a label (first: {files[0].name}). Name patches like "
            f"NAME-{example}.png, or put a labels.csv with the columns path,{','.join(tissues.names)} beside them."
        )
    return best


def read_labels_csv(path: Path, tissues: TissueSet) -> dict[Path, tuple[int, ...]]:
    """Read `path,<tissue>,<tissue>,…` with 0 and 1; tissue columns by name or abbreviation, in any order.

    Returns:
        Labels by image file, in the file's order; relative paths are relative to the CSV's folder.

    Raises:
        DataError: naming file and line.
    """
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text. Save it as 'CSV UTF-8'.") from None
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        raise DataError(f"{path}: is not a valid CSV file: {error}.") from None
    if not rows:
        raise DataError(f"{path}: is empty. The first line must be path,{','.join(tissues.names)}.")
    header = [cell.strip().lower() for cell in rows[0]]
    columns = _columns(path, header, tissues)
    labels: dict[Path, tuple[int, ...]] = {}
    for number, row in enumerate(rows[1:], start=2):
        if not any(cell.strip() for cell in row):
            continue
        if len(row) != len(header):
            raise DataError(f"{path}, line {number}: has {len(row)} values instead of {len(header)}.")
        name = row[columns[0]].strip()
        if not name:
            raise DataError(f"{path}, line {number}: has no path.")
        values = [row[column].strip() for column in columns[1:]]
        wrong = [value for value in values if value not in {"0", "1"}]
        if wrong:
            raise DataError(f"{path}, line {number}: '{wrong[0]}' is not a label; write 0 or 1.")
        image = path.parent / name
        if image in labels:
            raise DataError(f"{path}, line {number}: '{name}' is listed twice.")
        labels[image] = tuple(int(value) for value in values)
    return labels


def _columns(path: Path, header: list[str], tissues: TissueSet) -> list[int]:
    """Indices of the path column and of each tissue's column."""
    if "path" not in header:
        raise DataError(f"{path}, line 1: has no column 'path'. It must read path,{','.join(tissues.names)}.")
    columns = [header.index("path")]
    for tissue in tissues.tissues:
        places = [i for i, cell in enumerate(header) if cell in (tissue.name.lower(), tissue.abbreviation.lower())]
        if len(places) != 1:
            problem = "no column" if not places else "two columns"
            raise DataError(f"{path}, line 1: has {problem} for the tissue '{tissue.name}' ({tissue.abbreviation}).")
        columns.append(places[0])
    unknown = [cell for i, cell in enumerate(header) if i not in columns]
    if unknown:
        raise DataError(
            f"{path}, line 1: the column '{unknown[0]}' is no tissue of the set '{tissues.name}' "
            f"({', '.join(tissues.names)})."
        )
    return columns


def load_split(root: Path, split: str, tissues: TissueSet, layout: str = "auto") -> list[Patch]:
    """Find the patches of a split, sorted by name.

    Images lie in `root/split/` or `root/split/img/`, masks of the same name in `root/split/mask/`. Masks are listed,
    not opened.

    Args:
        root: data folder.
        split: `train`, `val` or `test`. Patches of `train` need a label, the others need none.
        tissues: tissue set of labels and masks.
        layout: `auto`, `luad-histoseg`, `bcss-wsss`, `wsss4luad` or `csv`.

    Raises:
        DataError: if the split is missing, or names or labels are unusable.
    """
    folder = Path(root) / split
    table = labels_file(Path(root), split)
    if not folder.is_dir() and not (split == "train" and table is not None):
        raise DataError(f"{folder}: there is no such folder. A data set holds train/, and val/ or test/ for scoring.")
    needs_labels = split == "train"
    if layout == "auto":
        layout = detect_layout(folder, tissues) if needs_labels or table is not None else ""
    if layout == "csv":
        if table is None:
            raise DataError(f"{root}: layout is csv, but there is no labels.csv in it or in {split}/.")
        return _from_csv(table, folder, tissues, needs_labels)
    files = image_files(image_folder(folder))
    masks = mask_files(folder)
    patches = []
    for path in files:
        form = layout or layout_of(path.stem)
        labels = parse_label(path.stem, form, tissues) if form and (layout or _fits(path.stem, form, tissues)) else None
        patches.append(_patch(path, labels, masks.get(path.stem)))
    return _checked(patches, folder, needs_labels)


def _fits(stem: str, layout: str, tissues: TissueSet) -> bool:
    try:
        return parse_label(stem, layout, tissues) is not None
    except DataError:
        return False


def _from_csv(table: Path, folder: Path, tissues: TissueSet, needs_labels: bool) -> list[Patch]:
    labels = read_labels_csv(table, tissues)
    masks = mask_files(folder)
    patches = []
    for path, values in labels.items():
        # a table of the whole data set lists other splits too
        inside = folder.resolve() in path.resolve().parents
        if table.parent != folder and folder.is_dir() and not inside:
            continue
        if not path.is_file():
            raise DataError(f"{path}: is listed in {table}, but there is no such file.")
        patches.append(_patch(path, values, masks.get(path.stem)))
    return _checked(patches, table, needs_labels)


def _patch(path: Path, labels: tuple[int, ...] | None, mask: Path | None) -> Patch:
    return Patch(path, path.stem, labels, mask, patient_of(path.stem), slide_of(path.stem))


def _checked(patches: list[Patch], source: Path, needs_labels: bool) -> list[Patch]:
    patches = sorted(patches, key=lambda patch: patch.name)
    twice = _first_repeated(patch.name for patch in patches)
    if twice is not None:
        raise DataError(f"{source}: two images are called '{twice}'. Names must differ in more than the extension.")
    if needs_labels:
        _refuse(source, [p for p in patches if p.labels is None], "carry no label")
        _refuse(source, [p for p in patches if p.labels is not None and not any(p.labels)], "have a label with no tissue")
    return patches


def _first_repeated(names: Iterable[str]) -> str | None:
    seen: set[str] = set()
    for name in names:
        if name in seen:
            return name
        seen.add(name)
    return None


def _refuse(source: Path, bad: list[Patch], problem: str) -> None:
    if bad:
        examples = ", ".join(patch.path.name for patch in bad[:3])
        raise DataError(
            f"{source}: {len(bad)} training patches {problem}, for example {examples}. `patch2tissue check` lists them all."
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
