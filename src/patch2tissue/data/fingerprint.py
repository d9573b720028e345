"""What a run was trained on, as a table of files: names, sizes, labels and hashes, to tell later whether it changed."""

from __future__ import annotations

import csv
import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from patch2tissue.data.tables import write_table
from patch2tissue.errors import DataError
from patch2tissue.threads import in_threads

WHOLE = 2**20
"""Files of at most so many bytes are hashed whole, of larger ones the first and the last half of it."""

_COLUMNS = ("use", "file", "bytes", "labels", "sha256")


@dataclass(frozen=True, slots=True)
class UsedFile:
    """A file that training reads, before anything is known about it.

    Attributes:
        use: what for, for example `train` or `train mask`.
        path: where it is.
        name: how it is called in the table: the same wherever the data folder lies.
        labels: label of a patch as digits, for example `1101`; empty without.
        whole: hash all of it, whatever its size.
    """

    use: str
    path: Path
    name: str
    labels: str = ""
    whole: bool = False


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """What is known of one file.

    Attributes:
        use: see `UsedFile`; likewise name and labels.
        name: see `UsedFile`.
        bytes: its size.
        labels: see `UsedFile`.
        sha256: of its content, hexadecimal: of all of it up to `WHOLE` bytes, of its ends beyond.
    """

    use: str
    name: str
    bytes: int
    labels: str
    sha256: str


class Content(NamedTuple):
    """Size in bytes of a file that was read already, and the SHA-256 of all of it, hexadecimal."""

    size: int
    sha256: str


def content_of(content: bytes) -> Content:
    """What `fingerprints` needs to know of a file's bytes."""
    return Content(len(content), hashlib.sha256(content).hexdigest())


def fingerprints(files: Sequence[UsedFile], contents: Mapping[str, Content] | None = None) -> list[Fingerprint]:
    """Read files and hash them, in threads; at most `WHOLE` bytes of each unless `whole` is set.

    Args:
        files: the files.
        contents: of those that were read whole already, by path; they are not read again.

    Raises:
        DataError: if a file cannot be read.
    """
    return list(each_fingerprint(files, contents))


def each_fingerprint(files: Iterable[UsedFile], contents: Mapping[str, Content] | None = None) -> Iterator[Fingerprint]:
    """As `fingerprints`, one by one."""
    known = contents or {}
    return in_threads(lambda file: _fingerprint(file, known.get(str(file.path))), files)


def _fingerprint(file: UsedFile, known: Content | None) -> Fingerprint:
    if known is not None:
        return Fingerprint(file.use, file.name, known.size, file.labels, known.sha256)
    try:
        with file.path.open("rb") as stream:
            size = os.fstat(stream.fileno()).st_size
            if file.whole or size <= WHOLE:
                digest = hashlib.file_digest(stream, "sha256")
            else:
                digest = hashlib.sha256(stream.read(WHOLE // 2))
                stream.seek(-(WHOLE // 2), os.SEEK_END)
                digest.update(stream.read())
    except OSError as error:
        raise DataError(f"{file.path}: cannot be read: {error.strerror or error}.") from None
    return Fingerprint(file.use, file.name, size, file.labels, digest.hexdigest())


def write_fingerprints(path: Path, found: Iterable[Fingerprint]) -> None:
    """Write a table with the columns use, file, bytes, labels, sha256."""
    write_table(path, _COLUMNS, ([one.use, one.name, one.bytes, one.labels, one.sha256] for one in found))


def read_fingerprints(path: Path) -> list[Fingerprint]:
    """Read what `write_fingerprints` wrote.

    Raises:
        DataError: if the file is damaged.
    """
    damaged = DataError(f"{path}: is no table of the data that a run was trained on. Restore it, or delete it.")
    try:
        rows = list(csv.reader(io.StringIO(path.read_text(encoding="utf-8"), newline="")))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except (UnicodeDecodeError, csv.Error):
        raise damaged from None
    if not rows or tuple(rows[0]) != _COLUMNS:
        raise damaged
    found = []
    for row in rows[1:]:
        if len(row) != len(_COLUMNS) or not row[2].isdecimal() or re.fullmatch("[0-9a-f]{64}", row[4]) is None:
            raise damaged
        found.append(Fingerprint(row[0], row[1], int(row[2]), row[3], row[4]))
    return found


def changes(then: Sequence[Fingerprint], now: Sequence[Fingerprint]) -> list[str]:
    """What differs between two tables, in words, a line for each kind of change; empty if nothing does."""
    before, after = ({(one.use, one.name): one for one in found} for found in (then, now))
    both = [key for key in before if key in after]
    kinds = {
        "missing": [key for key in before if key not in after],
        "new": [key for key in after if key not in before],
        "labelled otherwise": [key for key in both if before[key].labels != after[key].labels],
        "of other content": [
            key
            for key in both
            if (before[key].bytes, before[key].sha256) != (after[key].bytes, after[key].sha256)
        ],
    }  # fmt: skip
    lines = []
    for kind, keys in kinds.items():
        if keys:
            use, name = keys[0]
            count = "1 file is" if len(keys) == 1 else f"{len(keys)} files are"
            lines.append(f"{count} {kind}, {'first ' if len(keys) > 1 else ''}{name} ({use})")
    return lines


def quick_changes(then: Sequence[Fingerprint], files: Iterable[UsedFile]) -> list[str]:
    """What differs by names, sizes and labels alone, in words: no file is opened.

    Raises:
        DataError: if a file is not there.
    """
    known = {(one.use, one.name): one.sha256 for one in then}
    now = []
    for file in files:
        try:
            size = file.path.stat().st_size
        except OSError as error:
            raise DataError(f"{file.path}: cannot be read: {error.strerror or error}.") from None
        # the content is taken for unchanged, since it is not looked at
        now.append(Fingerprint(file.use, file.name, size, file.labels, known.get((file.use, file.name), "")))
    return changes(then, now)
