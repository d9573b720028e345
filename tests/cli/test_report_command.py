from __future__ import annotations

import json
import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from patch2tissue.cli.app import app, main
from patch2tissue.errors import DataError

CONFIG = "output: runs/x\ntissues: glas\ndata: {path: nowhere}\n"


@pytest.fixture
def run(tmp_path: Path) -> Path:
    folder = tmp_path / "a run"
    folder.mkdir()
    (folder / "config.yaml").write_text(CONFIG, encoding="utf-8")
    return folder


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-in for scoring that notes the runs it was called with."""
    called: list[Any] = []
    stand_in = types.ModuleType("patch2tissue.evaluation.run_scores")
    stand_in.score_run = called.append  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "patch2tissue.evaluation.run_scores", stand_in)
    return called


def test_scores_first_if_that_was_not_done(run: Path, scored: list[Any]) -> None:
    result = CliRunner().invoke(app, ["report", str(run), "--json"])
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout) == {"report": str(run / "report.html")}
    assert "<!DOCTYPE html>" in (run / "report.html").read_text(encoding="utf-8")
    assert len(scored) == 1


def test_does_not_score_again(run: Path, scored: list[Any]) -> None:
    (run / "scores.json").write_text("{}", encoding="utf-8")
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0 and scored == []
    assert "report.html" in result.stdout


def test_a_run_that_cannot_be_scored_is_shown_all_the_same(
    run: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(folder: Any) -> None:
        raise DataError("nowhere: there is no such folder.")

    monkeypatch.setattr(sys.modules["patch2tissue.evaluation.run_scores"], "score_run", fail)
    result = CliRunner().invoke(app, ["report", str(run)])
    assert result.exit_code == 0 and (run / "report.html").is_file()
    assert "Not scored" in result.stderr


@pytest.mark.parametrize("there", [True, False])
def test_no_run_folder_is_wrong_input(tmp_path: Path, there: bool, capfd: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path if there else tmp_path / "absent"
    with pytest.raises(SystemExit) as stop:
        main(["report", str(folder)])
    assert stop.value.code == 2
    assert "not a run folder" in capfd.readouterr().err
    assert not (folder / "report.html").exists()


def test_opens_the_page_only_if_asked(run: Path, scored: list[Any], monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr("typer.launch", opened.append)
    CliRunner().invoke(app, ["report", str(run), "--no-open"])
    assert opened == []
    CliRunner().invoke(app, ["report", str(run), "--open"])
    assert opened == [(run / "report.html").resolve().as_uri()]
