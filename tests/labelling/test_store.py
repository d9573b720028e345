"""The database of answers."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.labelling.store import Answer, LabelStore
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


def answer(key: str, patch: str = "train/a.png", annotator: str = "Ada", labels: str = "1000", **more) -> Answer:
    return Answer(key, patch, annotator, "labelled", tuple(map(int, labels)), **more)


def test_answers_come_back_as_they_were_given(tmp_path: Path) -> None:
    given = [
        answer("1", seconds=2.5, chosen="model", suggested=(0.1, 0.9, 0.5, 0.0), at="2026-01-02T03:04:05+00:00"),
        Answer("2", "train/b.png", "Ada", "unsure", at="2026-01-02T03:04:06+00:00"),
        Answer("3", "train/b.png", "Björn", "discard", at="2026-01-02T03:04:07+00:00"),
    ]
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        assert store.add(given) == 3
        assert store.annotators() == ["Ada", "Björn"]
        assert store.answered("Ada") == {"train/a.png", "train/b.png"}
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        assert store.answers() == given
        assert store.answers("Björn") == given[2:]


def test_an_answer_that_is_sent_twice_counts_once(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        assert store.add([answer("1")]) == 1
        assert store.add([answer("1"), answer("2", "train/b.png")]) == 1
        assert len(store.answers()) == 2


def test_the_last_answer_holds_and_undo_brings_back_the_one_before(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        store.add([answer("1", labels="1000"), answer("2", labels="0100"), answer("3", annotator="Björn")])
        assert [one.labels for one in store.answers("Ada")] == [(0, 1, 0, 0)]
        undone = store.undo("Ada")
        assert undone is not None and undone.key == "2"
        assert [one.key for one in store.answers("Ada")] == ["1"]
        assert store.undo("Ada") is not None and store.undo("Ada") is None
        assert store.answered("Ada") == set() and store.annotators() == ["Björn"]
        # nothing is deleted
        with sqlite3.connect(store.path) as connection:
            assert connection.execute("SELECT COUNT(*) FROM answers").fetchone() == (3,)


def test_imported_answers_are_not_undone(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        store.add([answer("1", chosen="import")])
        assert store.undo("Ada") is None


@pytest.mark.parametrize(
    "wrong",
    [
        answer("1", labels="000"),
        answer("1", labels="0000"),
        answer("1", labels="2000"),
        answer("1", annotator=""),
        answer("1", annotator=" Ada"),
        answer("1", annotator="A\nB"),
        answer("1", annotator="x" * 65),
        answer(""),
        Answer("1", "a.png", "Ada", "labelled"),
        Answer("1", "a.png", "Ada", "unsure", (1, 0, 0, 0)),
        Answer("1", "a.png", "Ada", "nonsense"),  # type: ignore[arg-type]
    ],
)
def test_what_is_no_answer_is_refused_and_takes_the_others_along(tmp_path: Path, wrong: Answer) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        with pytest.raises(ConfigError):
            store.add([answer("0"), wrong])
        assert store.answers() == []


def test_other_tissues_and_other_files_are_refused(tmp_path: Path) -> None:
    LabelStore(tmp_path / "labels.sqlite", TISSUES).close()
    with pytest.raises(
        DataError, match=r"labels\.sqlite: holds labels of the tissues tumour, .* not of the set 'glas'"
    ):
        LabelStore(tmp_path / "labels.sqlite", load_tissue_set("glas"))
    (tmp_path / "other.sqlite").write_bytes(b"this is no database" * 100)
    with pytest.raises(DataError, match=r"other\.sqlite: cannot be used as a database"):
        LabelStore(tmp_path / "other.sqlite", TISSUES)


def test_many_threads_lose_nothing(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as one, LabelStore(tmp_path / "labels.sqlite", TISSUES) as two:

        def work(store: LabelStore, name: str) -> None:
            for number in range(25):
                store.add([answer(f"{name}-{number}", f"train/{number}.png", name)])

        people = [(one, "a"), (one, "b"), (two, "c"), (two, "d")]
        threads = [threading.Thread(target=work, args=person) for person in people]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(one.answers()) == 100 and len(one.answers("c")) == 25


_WRITER = """
import sys
from pathlib import Path
from patch2tissue.labelling.store import Answer, LabelStore
from patch2tissue.tissues import load_tissue_set
store = LabelStore(Path(sys.argv[1]), load_tissue_set("bcss-wsss"))
for number in range(100000):
    store.add([Answer(str(number), f"{number}.png", "Ada", "labelled", (1, 0, 0, 0))])
    print(number, flush=True)
"""


def test_what_was_confirmed_outlives_a_kill(tmp_path: Path) -> None:
    command = [sys.executable, "-c", _WRITER, str(tmp_path / "labels.sqlite")]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for _ in range(20):
            confirmed = int(process.stdout.readline())
        os.kill(process.pid, signal.SIGKILL)
        confirmed = max([confirmed, *(int(line) for line in process.stdout if line.endswith("\n"))])
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        numbers = [int(one.key) for one in store.answers()]
        assert numbers == list(range(len(numbers))) and len(numbers) > confirmed


def test_suggestions_are_those_of_the_model_that_is_asked_for(tmp_path: Path) -> None:
    with LabelStore(tmp_path / "labels.sqlite", TISSUES) as store:
        store.suggest("first", {"a.png": (0.25, 0.5, 0.75, 1.0), "b.png": (0.0, 0.0, 0.0, 0.0)})
        store.suggest("second", {"a.png": (1.0, 0.0, 0.0, 0.0)})
        assert store.suggestions("first") == {"b.png": (0.0, 0.0, 0.0, 0.0)}
        assert store.suggestions("second") == {"a.png": (1.0, 0.0, 0.0, 0.0)}
