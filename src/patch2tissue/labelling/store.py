"""Answers of annotators in an SQLite database beside the patches. Nothing is ever overwritten."""

from __future__ import annotations

import json
import sqlite3
import threading
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Literal, Self, get_args

from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
from patch2tissue.links import leads_out
from patch2tissue.tissues import TissueSet

DATABASE = "labels.sqlite"
"""Name of the database in the data folder."""

Kind = Literal["labelled", "unsure", "discard"]
"""`labelled`: with a label; `unsure`: the annotator cannot tell; `discard`: not to be trained on."""

Chosen = Literal["order", "model", "random", "flagged", "import"]
"""Why a patch was asked for: its turn, the model was unsure of it, it was drawn at random, somebody found a tissue map
wrong there; or it was not asked for."""

_VERSION = 1
_NAME_LENGTH = 64

_SCHEMA = """
CREATE TABLE IF NOT EXISTS about (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS answers (
    number INTEGER PRIMARY KEY,
    key TEXT NOT NULL UNIQUE,
    patch TEXT NOT NULL,
    annotator TEXT NOT NULL,
    kind TEXT NOT NULL,
    labels TEXT,
    seconds REAL,
    chosen TEXT NOT NULL,
    suggested TEXT,
    at TEXT NOT NULL,
    undone INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS answers_of ON answers (annotator, patch);
CREATE INDEX IF NOT EXISTS answers_about ON answers (patch);
CREATE TABLE IF NOT EXISTS suggestions (
    patch TEXT PRIMARY KEY, model TEXT NOT NULL, probabilities TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS flags (
    number INTEGER PRIMARY KEY,
    patch TEXT NOT NULL,
    x REAL NOT NULL,
    y REAL NOT NULL,
    after INTEGER NOT NULL,
    at TEXT NOT NULL,
    withdrawn INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX IF NOT EXISTS flags_of ON flags (patch);
"""


@dataclass(frozen=True)
class Answer:
    """What an annotator said of a patch.

    Attributes:
        key: made by whoever sends it, so that an answer that is sent twice counts once.
        patch: its path relative to the data folder, with slashes.
        annotator: a name.
        kind: see `Kind`.
        labels: 0 or 1 per tissue if `kind` is `labelled`, else None.
        seconds: that the patch was looked at, None if unknown.
        chosen: see `Chosen`.
        suggested: probabilities per tissue that the annotator was shown, None if none were.
        at: time in UTC, ISO 8601; filled in by the store.
    """

    key: str
    patch: str
    annotator: str
    kind: Kind
    labels: tuple[int, ...] | None = None
    seconds: float | None = None
    chosen: Chosen = "order"
    suggested: tuple[float, ...] | None = None
    at: str = ""


@dataclass(frozen=True)
class Flag:
    """A patch of which somebody who looked at a tissue map said that it is wrong there.

    Attributes:
        patch: as in `Answer`.
        x: where, as a share of the patch's width, 0..1.
        y: likewise of its height.
    """

    patch: str
    x: float
    y: float


class LabelStore:
    """The answers about one data folder. May be used by several threads, and by several processes at a time.

    Each answer is on disk before `add` returns (WAL mode, synchronous). An answer replaces an earlier one of the same
    annotator about the same patch without deleting it; an answer that is undone is kept, too.

    Args:
        path: the database; made if it is not there.
        tissues: the tissue set; a database made for other tissues is refused.

    Attributes:
        id: of this database, drawn when it was made.

    Raises:
        DataError: if the file is no such database, or holds labels of other tissues.
    """

    def __init__(self, path: Path, tissues: TissueSet) -> None:
        self.path, self.tissues = Path(path), tissues
        self._lock = threading.Lock()
        if self.path.is_symlink() and leads_out(self.path, self.path.parent):
            raise DataError(
                f"{path}: is a link that leads out of its folder, to {self.path.resolve()}, where answers would be "
                "written. Put the database itself there, or label in its own folder."
            )
        with _told_of(self.path):
            self._connection = sqlite3.connect(self.path, timeout=30, check_same_thread=False, isolation_level=None)
        try:
            with _told_of(self.path):
                self._refuse_foreign()
                self._connection.execute("PRAGMA journal_mode = WAL")
                self._connection.execute("PRAGMA synchronous = FULL")
                self._connection.executescript(_SCHEMA)
                self._check(list(tissues.names))
        except BaseException:
            self.close()
            raise

    def _refuse_foreign(self) -> None:
        """Refuse somebody else's database, and one of another version, before anything is written into it."""
        tables = {name for (name,) in self._connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if tables and "about" not in tables:
            held = ", ".join(sorted(map(str, tables)))[:60]
            raise DataError(f"{self.path}: is a database of something else ({held}). Move it away.")
        asked = "SELECT value FROM about WHERE name = 'version'"
        found = self._connection.execute(asked).fetchone() if tables else None
        if found is not None and found[0] != str(_VERSION):
            raise DataError(
                f"{self.path}: was made by another version of patch2tissue (form {found[0]}, here {_VERSION}). Use the "
                "version it was made with."
            )

    def _check(self, names: list[str]) -> None:
        about = {"version": _VERSION, "tissues": names, "id": uuid.uuid4().hex}
        with self._transaction() as connection:
            for name, value in about.items():
                text = json.dumps(value, ensure_ascii=False)
                connection.execute("INSERT OR IGNORE INTO about VALUES (?, ?)", (name, text))
            # all rows at once: a row that makes no sense must not leave the database open
            rows = connection.execute("SELECT name, value FROM about").fetchall()
            found = {name: json.loads(text) for name, text in rows}
        self.id = str(found["id"])
        if found["tissues"] != names:
            theirs = ", ".join(map(str, found["tissues"])) if isinstance(found["tissues"], list) else "something else"
            raise DataError(
                f"{self.path}: holds labels of the tissues {theirs}, not of the set "
                f"'{self.tissues.name}' ({', '.join(names)}). Use the tissue set it was begun with."
            )

    @contextmanager
    def _transaction(self) -> Iterator[sqlite3.Connection]:
        with _told_of(self.path), self._lock:
            self._connection.execute("BEGIN IMMEDIATE")
            try:
                yield self._connection
            except BaseException:
                self._connection.execute("ROLLBACK")
                raise
            self._connection.execute("COMMIT")

    def add(self, answers: Iterable[Answer]) -> int:
        """Keep answers, all or none; return how many were new.

        Raises:
            ConfigError: if an answer is none: no annotator, or a label that does not fit.
        """
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        rows = [_row(checked(answer, len(self.tissues)), answer.at or now) for answer in answers]
        with self._transaction() as connection:
            before = connection.total_changes
            connection.executemany(
                "INSERT OR IGNORE INTO answers (key, patch, annotator, kind, labels, seconds, chosen, suggested, at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
                rows,
            )
            return connection.total_changes - before

    def undo(self, annotator: str) -> Answer | None:
        """Take back the annotator's last answer that was not taken back yet; imported ones stay.

        Returns:
            the answer, or None if there is none.
        """
        with self._transaction() as connection:
            found = connection.execute(
                f"SELECT number, {_COLUMNS} FROM answers WHERE annotator = ? AND NOT undone AND chosen != 'import' "
                "ORDER BY number DESC LIMIT 1",
                (annotator,),
            ).fetchone()
            if found is None:
                return None
            connection.execute("UPDATE answers SET undone = 1 WHERE number = ?", (found[0],))
        return _answer(found[1:])

    def answers(self, annotator: str | None = None) -> list[Answer]:
        """The answers that hold: of each annotator the last about each patch, in the order they were given.

        Of a patch that was flagged and then answered about, only answers since the flag hold.
        """
        condition, values = ("", ()) if annotator is None else ("AND annotator = ?", (annotator,))
        held = (
            "number > COALESCE((SELECT MAX(after) FROM flags WHERE flags.patch = answers.patch AND NOT withdrawn "
            f"AND {_answered('>')}), 0)"
        )
        with _told_of(self.path), self._lock:
            rows = self._connection.execute(
                f"SELECT {_COLUMNS} FROM answers WHERE number IN (SELECT MAX(number) FROM answers WHERE NOT undone "
                f"AND {held} {condition} GROUP BY annotator, patch) ORDER BY number",
                values,
            ).fetchall()
            return [_answer(row) for row in rows]

    def answered(self, annotator: str) -> set[str]:
        """Patches that the annotator has answered about."""
        with _told_of(self.path), self._lock:
            rows = self._connection.execute(
                "SELECT DISTINCT patch FROM answers WHERE annotator = ? AND NOT undone", (annotator,)
            ).fetchall()
        return {patch for (patch,) in rows}

    def annotators(self) -> list[str]:
        """Names of those who have answered, by name."""
        with _told_of(self.path), self._lock:
            rows = self._connection.execute("SELECT DISTINCT annotator FROM answers WHERE NOT undone").fetchall()
        return sorted(name for (name,) in rows)

    def flag(self, flag: Flag) -> None:
        """Have a patch asked about again, of every annotator. A flag that nobody has answered yet is moved.

        Raises:
            ConfigError: if the place lies outside the patch.
        """
        if not (0 <= flag.x <= 1 and 0 <= flag.y <= 1):
            raise ConfigError(f"A place in a patch is given by shares from 0 to 1, not by {flag.x} and {flag.y}.")
        now = datetime.now(UTC).isoformat(timespec="milliseconds")
        with self._transaction() as connection:
            connection.execute(f"UPDATE flags SET withdrawn = 1 WHERE {_OPEN}", (flag.patch,))
            connection.execute(
                "INSERT INTO flags (patch, x, y, after, at) "
                "VALUES (?, ?, ?, (SELECT COALESCE(MAX(number), 0) FROM answers), ?)",
                (flag.patch, flag.x, flag.y, now),
            )

    def withdraw(self, patch: str) -> bool:
        """Take back the flags of a patch that nobody has answered yet; return whether there was one."""
        with self._transaction() as connection:
            before = connection.total_changes
            connection.execute(f"UPDATE flags SET withdrawn = 1 WHERE {_OPEN}", (patch,))
            return connection.total_changes > before

    def flags(self, annotator: str | None = None) -> list[Flag]:
        """Flags that are open, in the order in which they were set.

        Args:
            annotator: those that this annotator is to answer: nobody has, or this one had answered about the patch
                before it was flagged and has not since. None: those that nobody has answered.
        """
        values: tuple[str, ...] = ()
        if annotator is None:
            condition = f"NOT {_answered('>')}"
        else:
            by = "AND given.annotator = ?"
            condition = f"(NOT {_answered('>')} OR ({_answered('<=', by)} AND NOT {_answered('>', by)}))"
            values = (annotator, annotator)
        with _told_of(self.path), self._lock:
            rows = self._connection.execute(
                f"SELECT patch, x, y FROM flags WHERE NOT withdrawn AND {condition} ORDER BY number", values
            ).fetchall()
        # the last place of a patch that was flagged again
        return list({patch: Flag(patch, x, y) for patch, x, y in rows}.values())

    def mark_exported(self) -> None:
        """Remember that the answers there are have gone into the table for training."""
        with self._transaction() as connection:
            connection.execute(
                "INSERT OR REPLACE INTO about VALUES ('exported', (SELECT COALESCE(MAX(number), 0) FROM answers))"
            )

    def suggest(self, model: str, probabilities: dict[str, Sequence[float]]) -> None:
        """Keep a model's probabilities per tissue by patch; they replace those of another model.

        Args:
            model: what tells the model from others, a hash of its weights for instance.
            probabilities: 0..1 per tissue, by patch.
        """
        rows = [(patch, model, json.dumps([round(float(p), 4) for p in of])) for patch, of in probabilities.items()]
        with self._transaction() as connection:
            connection.executemany("INSERT OR REPLACE INTO suggestions VALUES (?, ?, ?)", rows)

    def suggestions(self, model: str) -> dict[str, tuple[float, ...]]:
        """Probabilities by patch that the model gave."""
        with _told_of(self.path), self._lock:
            rows = self._connection.execute(
                "SELECT patch, probabilities FROM suggestions WHERE model = ?", (model,)
            ).fetchall()
            return {patch: tuple(json.loads(text)) for patch, text in rows}

    def close(self) -> None:
        """Close the database."""
        with self._lock:
            self._connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def _told_of(path: Path) -> Iterator[None]:
    """Turn what a database does not take, or what is wrong in it, into one of our errors.

    Raises:
        Patch2TissueError: if it cannot be written now: the disk is full, or another program holds it.
        DataError: if it is damaged, or none.
    """
    try:
        yield
    except sqlite3.OperationalError as error:
        raise Patch2TissueError(
            f"{path}: cannot be used as a database of labels: {error}. See that the disk has room, that you may write "
            "to the folder, and that no other program holds the file."
        ) from None
    except (sqlite3.Error, ValueError, TypeError, RecursionError) as error:
        raise DataError(
            f"{path}: cannot be used as a database of labels: {error}. It is damaged; restore it from a copy, or move "
            "it away to begin anew."
        ) from None


def _answered(when: str, more: str = "") -> str:
    """SQL: whether the patch of a flag has an answer before (`<=`) or after (`>`) it; imported ones are none."""
    return (
        "EXISTS (SELECT 1 FROM answers AS given WHERE given.patch = flags.patch AND NOT given.undone AND "
        f"given.chosen != 'import' AND given.number {when} flags.after {more})"
    )


_OPEN = f"patch = ? AND NOT withdrawn AND NOT {_answered('>')}"


def count_unexported(path: Path) -> int:
    """Answers in a database that came after its last export; imported ones are not counted.

    Raises:
        DataError: if the file is no such database.
    """
    connection = sqlite3.connect(path, timeout=30)
    try:
        (count,) = connection.execute(
            "SELECT COUNT(*) FROM answers WHERE NOT undone AND chosen != 'import' AND number > "
            "COALESCE((SELECT CAST(value AS INTEGER) FROM about WHERE name = 'exported'), 0)"
        ).fetchone()
    except sqlite3.Error as error:
        raise DataError(
            f"{path}: cannot be used as a database of labels: {error}. It is damaged, or of another program; move it "
            "away."
        ) from None
    finally:
        connection.close()
    return int(count)


_COLUMNS = "key, patch, annotator, kind, labels, seconds, chosen, suggested, at"


def checked(answer: Answer, tissues: int) -> Answer:
    """An answer that makes sense.

    Raises:
        ConfigError: if it does not.
    """
    name = answer.annotator
    if not name or name != name.strip() or len(name) > _NAME_LENGTH or not name.isprintable():
        raise ConfigError(f"An annotator's name has 1 to {_NAME_LENGTH} characters and no spaces around it.")
    try:
        f"{answer.key}{answer.patch}".encode()
    except UnicodeEncodeError:
        raise ConfigError("An answer's key is text without halves of characters.") from None
    if answer.kind not in get_args(Kind) or answer.chosen not in get_args(Chosen) or not answer.key:
        raise ConfigError(f"This is no answer: {answer}.")
    if answer.kind == "labelled":
        if answer.labels is None or len(answer.labels) != tissues or not set(answer.labels) <= {0, 1}:
            raise ConfigError(f"A label is 0 or 1 for each of {tissues} tissues, not {answer.labels}.")
        if not any(answer.labels):
            raise ConfigError("A patch with a label holds at least one tissue. Discard it if there is none on it.")
    elif answer.labels is not None:
        raise ConfigError(f"A patch that is {answer.kind} has no label.")
    return answer


def _row(answer: Answer, at: str) -> tuple[object, ...]:
    labels = None if answer.labels is None else "".join(map(str, answer.labels))
    suggested = None if answer.suggested is None else json.dumps(list(answer.suggested))
    return (
        answer.key,
        answer.patch,
        answer.annotator,
        answer.kind,
        labels,
        answer.seconds,
        answer.chosen,
        suggested,
        at,
    )


def _answer(row: Sequence[object]) -> Answer:
    key, patch, annotator, kind, labels, seconds, chosen, suggested, at = row
    return Answer(
        str(key),
        str(patch),
        str(annotator),
        kind,  # type: ignore[arg-type]
        None if labels is None else tuple(map(int, str(labels))),
        None if seconds is None else float(str(seconds)),
        chosen,  # type: ignore[arg-type]
        None if suggested is None else tuple(json.loads(str(suggested))),
        str(at),
    )
