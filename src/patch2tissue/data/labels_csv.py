"""Labels in a table: `path,<tissue>,<tissue>,…` with 0 and 1."""

from __future__ import annotations

import os.path
from pathlib import Path

from patch2tissue.data.tables import shortened, table_rows
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet


def read_labels_csv(path: Path, tissues: TissueSet) -> dict[Path, tuple[int, ...]]:
    """Read labels; tissue columns by name or abbreviation, in any order and case.

    Commas, semicolons or tabs separate; a byte order mark and Windows line ends and backslashes are accepted.

    Returns:
        Labels by image file, in the file's order; relative paths are relative to the CSV's folder.

    Raises:
        DataError: naming file and line, for the first thing that is wrong.
    """
    labels, problems = scan_labels_csv(path, tissues)
    if problems:
        raise DataError(problems[0])
    return labels


def scan_labels_csv(path: Path, tissues: TissueSet) -> tuple[dict[Path, tuple[int, ...]], list[str]]:
    """Labels of the lines that are right, and a message for each line that is wrong.

    Raises:
        DataError: if the file cannot be read as a table at all, or its first line is wrong.
    """
    path = Path(path)
    rows = table_rows(path)
    _, header = next(rows, (1, []))
    if not any(cell.strip() for cell in header):
        raise DataError(f"{path}: is empty. The first line must be path,{','.join(tissues.names)}.")
    columns = _columns(path, [cell.strip().casefold() for cell in header], tissues)
    labels: dict[Path, tuple[int, ...]] = {}
    lines: dict[str, int] = {}
    problems = []
    for number, row in rows:
        if not any(cell.strip() for cell in row):
            continue
        found = _row(row, len(header), columns)
        if isinstance(found, str):
            problems.append(f"{path}, line {number}: {found}")
            continue
        name, values = found
        try:
            image = _image(path.parent, row[columns[0]])
        except OSError as error:  # a name that is too long, say
            problems.append(f"{path}, line {number}: '{shortened(name)}' cannot be a file: {error.strerror}.")
            continue
        place = os.path.normpath(image)
        if place in lines:
            first = f"first in line {lines[place]}"
            problems.append(f"{path}, line {number}: '{shortened(name)}' is listed twice ({first}). Remove one.")
            continue
        lines[place] = number
        labels[image] = values
    return labels, problems


def _row(row: list[str], length: int, columns: list[int]) -> tuple[str, tuple[int, ...]] | str:
    """Path and labels of a row, or what is wrong with it."""
    if len(row) != length:
        return f"has {len(row)} values instead of {length}; write one for each column of the first line."
    name = row[columns[0]].strip()
    if not name:
        return "has no path; name the image's file, or remove the line."
    if "\0" in name:
        return "holds a NUL character; save it as 'CSV UTF-8' again."
    values = [row[column].strip() for column in columns[1:]]
    wrong = next((value for value in values if value not in {"0", "1"}), None)
    if wrong is not None:
        return f"'{shortened(wrong)}' is not a label; write 0 or 1."
    return name, tuple(int(value) for value in values)


def _image(folder: Path, cell: str) -> Path:
    """The file that a cell names; spaces around the name count only if there is such a file."""
    name = cell.strip()
    if cell != name and (folder / cell).is_file():
        return folder / cell
    image = folder / name
    return folder / name.replace("\\", "/") if not image.is_file() and "\\" in name else image


def _columns(path: Path, header: list[str], tissues: TissueSet) -> list[int]:
    """Indices of the path column and of each tissue's column."""
    wanted = f"It must read path,{','.join(tissues.names)}."
    if header.count("path") != 1:
        problem = "no column" if "path" not in header else "two columns"
        raise DataError(f"{path}, line 1: has {problem} 'path'. {wanted}")
    columns = [header.index("path")]
    abbreviations = [abbreviation.casefold() for abbreviation in tissues.abbreviations]
    for tissue, abbreviation in zip(tissues.tissues, abbreviations, strict=True):
        names = {tissue.name.casefold()}
        # an abbreviation that two tissues share says nothing
        if abbreviations.count(abbreviation) == 1:
            names.add(abbreviation)
        places = [i for i, cell in enumerate(header) if cell in names]
        if len(places) != 1:
            problem = "no column" if not places else "two columns"
            raise DataError(
                f"{path}, line 1: has {problem} for the tissue '{tissue.name}' ({tissue.abbreviation}). {wanted}"
            )
        columns.append(places[0])
    unknown = [cell for i, cell in enumerate(header) if i not in columns]
    if unknown:
        raise DataError(
            f"{path}, line 1: the column '{shortened(unknown[0])}' is no tissue of the set '{tissues.name}'. {wanted}"
        )
    return columns
