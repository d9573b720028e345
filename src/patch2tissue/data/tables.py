"""Tables that a user or a spreadsheet wrote: CSV with any usual separator, bounded in size."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TextIO

from patch2tissue.atomic import atomic_path
from patch2tissue.errors import DataError

LARGEST_TABLE = 2**28
"""Most bytes of a table; a line per patch for a million patches takes less."""


def table_rows(path: Path) -> Iterator[tuple[int, list[str]]]:
    """Rows of a CSV file, each with the number of its last line.

    Commas, semicolons or tabs separate; a byte order mark and line ends of any system are accepted.

    Raises:
        DataError: if the file cannot be read, is no UTF-8 text, or is no CSV; the message names file and line.
    """
    try:
        if path.stat().st_size > LARGEST_TABLE:
            raise DataError(f"{path}: has more than {LARGEST_TABLE // 2**20} MiB. Split it into several tables.")
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except UnicodeDecodeError:
        raise DataError(f"{path}: is not UTF-8 text. Save it as 'CSV UTF-8'.") from None
    first = text.split("\n", 1)[0]
    # spreadsheets of many countries separate by semicolons
    delimiter = max(",;\t", key=first.count)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    while True:
        try:
            row = next(reader, None)
        except csv.Error as error:
            raise DataError(
                f"{path}, line {reader.line_num}: is not valid CSV: {error}. Save it as 'CSV UTF-8' again."
            ) from None
        if row is None:
            return
        yield reader.line_num, row


class TableWriter:
    """Writes rows as CSV with plain line ends; every text comes back the same from whoever reads it.

    Args:
        file: an open text file that leaves line ends alone.
    """

    def __init__(self, file: TextIO) -> None:
        self._plain = csv.writer(file, lineterminator="\n")
        self._quoted = csv.writer(file, lineterminator="\n", quoting=csv.QUOTE_ALL)

    def writerow(self, row: Iterable[object]) -> None:
        """Write one row."""
        cells = list(row)
        # which no version of Python before 3.13 puts into quotes, and every reader takes for the end of a line
        broken = any("\r" in cell for cell in cells if isinstance(cell, str))
        (self._quoted if broken else self._plain).writerow(cells)

    def writerows(self, rows: Iterable[Iterable[object]]) -> None:
        """Write several rows."""
        for row in rows:
            self.writerow(row)


def write_table(path: Path, columns: Iterable[object], rows: Iterable[Iterable[object]]) -> None:
    """Write a table of UTF-8 text atomically, row by row, so that it takes no memory however long it is.

    Args:
        path: the file.
        columns: the first row.
        rows: the others.
    """
    with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        writer.writerow(columns)
        writer.writerows(rows)


def shortened(text: str, most: int = 60) -> str:
    """A cell as a message shows it."""
    return text if len(text) <= most else f"{text[:most]}…"
