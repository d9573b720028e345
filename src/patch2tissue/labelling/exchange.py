"""Labels in and out of the database: file names and tables."""

from __future__ import annotations

import io
import os
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from patch2tissue.atomic import write_text
from patch2tissue.data.labels import layout_of, parse_label
from patch2tissue.data.layouts import read_labels_csv
from patch2tissue.data.tables import TableWriter
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.labelling.agreement import consensus
from patch2tissue.labelling.pool import PoolPatch
from patch2tissue.labelling.store import DATABASE, Answer, LabelStore, count_unexported

TABLE = "labels.csv"
"""The table that training reads, in the data folder."""


@dataclass(frozen=True)
class Imported:
    """How many labels were taken over; `known` were there already, `without` patches had none."""

    new: int
    known: int
    without: int


def import_file_names(
    store: LabelStore, folder: Path, pool: Sequence[PoolPatch], annotator: str = "file names"
) -> Imported:
    """Take over the labels in the patches' file names, as an annotator of their own. Doing so again changes nothing.

    Args:
        store: where to.
        folder: the data folder, for messages.
        pool: its patches.
        annotator: whose labels they are.

    Raises:
        DataError: if a label does not fit the tissue set, or no name carries one.
    """
    labels: dict[str, tuple[int, ...]] = {}
    for patch in pool:
        stem = Path(patch.path).stem
        layout = layout_of(stem)
        if layout is None:
            continue
        try:
            found = parse_label(stem, layout, store.tissues)
        except DataError as error:
            raise DataError(f"{folder / patch.path}: {str(error).removeprefix(f'{stem}: ')}") from None
        if found is not None:
            labels[patch.path] = found
    if not labels:
        raise DataError(f"{folder}: no file name carries a label (first: {pool[0].path}).")
    return _import(store, labels, annotator, len(pool))


def import_table(
    store: LabelStore, folder: Path, pool: Sequence[PoolPatch], table: Path, annotator: str = "table"
) -> Imported:
    """Take over the labels of a `path,<tissue>,…` table for those patches of the pool that it lists.

    Args:
        store: where to.
        folder: the data folder.
        pool: its patches.
        table: the CSV file.
        annotator: whose labels they are.

    Raises:
        DataError: if the table is wrong, or lists none of the patches.
    """
    home = Path(folder).resolve()
    by_place = {os.path.normpath(home / patch.path): patch.path for patch in pool}
    listed = read_labels_csv(Path(table).resolve(), store.tissues)
    found = {os.path.normpath(path): labels for path, labels in listed.items()}
    labels = {by_place[place]: values for place, values in found.items() if place in by_place}
    if not labels:
        raise DataError(
            f"{table}: lists none of the {len(pool)} patches in {folder}. Its paths are relative to its own folder."
        )
    return _import(store, labels, annotator, len(pool))


def _import(store: LabelStore, labels: dict[str, tuple[int, ...]], annotator: str, patches: int) -> Imported:
    answers = []
    for patch, values in labels.items():
        text = "".join(map(str, values))
        kind, kept = ("labelled", values) if any(values) else ("discard", None)
        answers.append(
            Answer(f"import:{annotator}:{patch}:{text}", patch, annotator, kind, kept, chosen="import")  # type: ignore[arg-type]
        )
    new = store.add(answers)
    return Imported(new, len(answers) - new, patches - len(answers))


@dataclass(frozen=True)
class Exported:
    """What was written.

    Attributes:
        path: the table.
        labelled: patches in it.
        left_out: patches with answers that are not in it, by reason.
        backup: what was in its place before, None if nothing else was.
    """

    path: Path
    labelled: int
    left_out: dict[str, int]
    backup: Path | None


def export_table(
    store: LabelStore,
    folder: Path,
    pool: Sequence[PoolPatch],
    *,
    annotator: str | None = None,
    path: Path | None = None,
) -> Exported:
    """Write the labels as the table that `train` reads, atomically; what stood there before is kept under another name.

    Args:
        store: the answers.
        folder: the data folder.
        pool: its patches; answers about others are left out.
        annotator: whose labels; None: what the annotators agree on, see `consensus`.
        path: of the table; None: `labels.csv` in the data folder.

    Raises:
        ConfigError: if there is no such annotator.
        DataError: if there is nothing to write.
    """
    if annotator is not None and annotator not in store.annotators():
        known = ", ".join(store.annotators()) or "nobody"
        raise ConfigError(f"{store.path}: holds no answers of '{annotator}', but of {known}.")
    path = folder / TABLE if path is None else Path(path)
    known_patches = {patch.path for patch in pool}
    decided = consensus(answer for answer in store.answers(annotator) if answer.patch in known_patches)
    lines = io.StringIO()
    writer = TableWriter(lines)
    writer.writerow(["path", *store.tissues.names])
    labelled = 0
    for patch in sorted(decided):
        labels = decided[patch].labels
        if labels is not None:
            place = os.path.relpath(Path(folder).resolve() / patch, path.parent.resolve())
            writer.writerow([Path(place).as_posix(), *labels])
            labelled += 1
    if not labelled:
        raise DataError(f"{store.path}: holds no labels that could be written yet.")
    backup = _kept(path, lines.getvalue())
    write_text(path, lines.getvalue())
    if path.absolute() == (folder / TABLE).absolute():
        store.mark_exported()
    return Exported(path, labelled, dict(Counter(of.why_not for of in decided.values() if of.labels is None)), backup)


def _kept(path: Path, content: str) -> Path | None:
    """Put a file that holds something else out of the way."""
    if not path.is_file() or path.read_bytes() == content.encode():
        return None
    stamp = datetime.now(UTC).strftime("%Y%m%d-%H%M%S-%f")
    backup = path.with_name(f"{path.stem}.before-{stamp}{path.suffix}")
    # a second name for it, so that there is no moment without a table
    try:
        os.link(path, backup)
    except OSError:  # a file system without links
        backup.write_bytes(path.read_bytes())
    return backup


def import_what_is_there(store: LabelStore, folder: Path, pool: Sequence[PoolPatch]) -> Imported | None:
    """Take over the labels that a data folder has already, its table's or else those in file names; None without any.

    Raises:
        DataError: if they are wrong.
    """
    if (folder / TABLE).is_file():
        return import_table(store, folder, pool, folder / TABLE)
    if any(layout_of(Path(patch.path).stem) is not None for patch in pool):
        return import_file_names(store, folder, pool)
    return None


def unseen_by_training(folder: Path, layout: str) -> list[str]:
    """What a training on a data folder will not see of the labels made there, in words for the user.

    Args:
        folder: the data folder.
        layout: how labels are read, as in `load_split`.

    Raises:
        DataError: if the database is none.
    """
    told = []
    database, table = folder / DATABASE, folder / TABLE
    count = count_unexported(database) if database.is_file() else 0
    if count:
        told.append(
            f"{database}: {count} answers are not in {TABLE} yet, so they are not trained on. Write it with "
            f"`patch2tissue labels export {folder} --tissues …`."
        )
    if table.is_file() and layout not in ("auto", "csv"):
        told.append(f"{table}: is not read, since data.layout is {layout}. Set data.layout=csv to train on it.")
    return told
