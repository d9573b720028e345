"""Comparing runs over seeds and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from statistics import stdev
from typing import Any

import pytest

from patch2tissue.errors import DataError
from patch2tissue.evaluation.compare import compare_runs

Make = Callable[..., Path]


@pytest.fixture
def make(tmp_path: Path) -> Make:
    def run(name: str, miou: float | None, *, seed: int = 0, ceiling: float | None = None, **settings: Any) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        config = {"output": str(folder), "seed": seed, "tissues": "glas", "data": {"path": "data"}, **settings}
        (folder / "config.yaml").write_text(json.dumps(config))
        test: dict[str, Any] = {"full_method": {"miou": miou}}
        if ceiling is not None:
            test["full_supervision"] = {"miou": ceiling}
        (folder / "scores.json").write_text(json.dumps({"test": test, "pseudo_labels": {"cam": {"miou": 0.5}}}))
        return folder

    return run


def row_of(paths: list[Path], method: str = "full_method") -> dict[str, Any]:
    (row,) = (c.to_dict() for c in compare_runs(paths) if c.method == method)
    return row


def test_runs_that_differ_in_the_seed_are_one_row(make: Make) -> None:
    paths = [make(f"run{seed}", 0.7 + 0.02 * seed, seed=seed, ceiling=0.9) for seed in range(3)]
    row = row_of(paths)
    assert row["runs"] == ["run0", "run1", "run2"] and row["seeds"] == 3
    assert row["miou"] == pytest.approx(0.72)
    assert row["spread"] == pytest.approx(stdev([0.7, 0.72, 0.74]))
    assert row["share_of_full_supervision"] == pytest.approx(0.72 / 0.9)
    assert row_of(paths, "cam")["share_of_full_supervision"] is None, "the ceiling is one of the test split"


def test_runs_with_other_settings_stand_apart(make: Make) -> None:
    paths = [make("a", 0.7), make("b", 0.8, seed=1, pfscnet={"epochs": 3})]
    rows = [c.to_dict() for c in compare_runs(paths) if c.part == "test"]
    assert [(row["runs"], row["spread"], row["seeds"]) for row in rows] == [(["a"], None, 1), (["b"], None, 1)]


def test_machine_and_comparisons_are_no_other_settings(make: Make) -> None:
    paths = [
        make("a", 0.7),
        make("b", 0.8, seed=1, hardware={"device": "cpu"}, comparisons={"full_supervision": True}, ceiling=0.9),
    ]
    row = row_of(paths)
    assert row["seeds"] == 2
    assert row["share_of_full_supervision"] is None, "one of the runs has no ceiling"


def test_one_run_twice_is_no_second_seed(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    path = make("a", 0.7)
    monkeypatch.chdir(path)
    row = row_of([path, Path(), path / ".." / "a"])
    assert row["runs"] == ["a"] and row["seeds"] == 1 and row["spread"] is None


def test_a_copy_with_the_same_seed_stands_alone(make: Make) -> None:
    paths = [make("a", 0.7), make("a again", 0.7), make("b", 0.8, seed=1)]
    rows = [c.to_dict()["runs"] for c in compare_runs(paths) if c.part == "test"]
    assert rows == [["a", "b"], ["a again"]]


def test_undefined_scores_are_left_out(make: Make) -> None:
    assert [c.method for c in compare_runs([make("a", None)])] == ["cam"]


@pytest.mark.parametrize(("content", "problem"), [(None, "not scored"), ("{", "damaged"), ("[1]", "damaged")])
def test_a_run_without_scores_is_named(make: Make, content: str | None, problem: str) -> None:
    path = make("a", 0.7)
    scores = path / "scores.json"
    scores.unlink() if content is None else scores.write_text(content)
    with pytest.raises(DataError, match=f"{problem}.*`patch2tissue score"):
        compare_runs([path])


def test_what_is_no_run_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        compare_runs([tmp_path])
