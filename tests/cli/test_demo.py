from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from patch2tissue.cli.app import app
from patch2tissue.run_folder import RunFolder

VALUES = {"miou": 0.8123, "fwiou": 0.8, "acc": 0.9, "dice": 0.88, "ci95": [0.79, 0.83], "iou": {}}
SCORES = {"pseudo_labels": {"accumulated": VALUES}, "test": {"full_method": {**VALUES, "ci95": None}}}


@pytest.fixture
def steps(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stand-ins for training, scoring and the report that note what they were called with."""
    called: list[Any] = []

    def run_training(config: Any, **options: bool) -> RunFolder:
        called.extend((config, options))
        run = RunFolder(config.output)
        run.path.mkdir(parents=True, exist_ok=True)
        run.config_file.write_text(config.to_yaml(), encoding="utf-8")
        return run

    def score_run(run: RunFolder) -> dict[str, Any]:
        called.append("score")
        return SCORES

    def build_report(run: RunFolder) -> Path:
        called.append("report")
        return run.report_file

    for module, function in (
        ("patch2tissue.pipeline", run_training),
        ("patch2tissue.evaluation.run_scores", score_run),
        ("patch2tissue.report.build", build_report),
    ):
        stand_in = types.ModuleType(module)
        setattr(stand_in, function.__name__, function)
        monkeypatch.setitem(sys.modules, module, stand_in)
    return called


@pytest.fixture
def config_file(tmp_path: Path) -> Path:
    path = tmp_path / "small.yaml"
    path.write_text("output: runs/x\ntissues: glas\ndata: {path: nowhere}\n", encoding="utf-8")
    return path


def test_trains_scores_and_reports(tmp_path: Path, config_file: Path, steps: list[Any]) -> None:
    out = tmp_path / "a run: [1]"
    result = CliRunner().invoke(
        app, ["demo", "--config", str(config_file), "--out", str(out), "--set", "craanet.epochs=3"]
    )
    assert result.exit_code == 0, result.output
    config, _, *rest = steps
    assert config.output == out
    assert config.craanet.epochs == 3
    assert rest == ["score", "report"]
    assert "0.812" in result.stdout
    assert "0.790 to 0.830" in result.stdout
    assert "report.html" in result.stdout


@pytest.mark.parametrize("fresh", [False, True])
def test_goes_on_with_an_earlier_run_unless_fresh(
    tmp_path: Path, config_file: Path, steps: list[Any], fresh: bool
) -> None:
    arguments = ["demo", "--config", str(config_file), "--out", str(tmp_path / "run"), *(["--fresh"] if fresh else [])]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    assert steps[1] == {"resume": not fresh}


def test_the_demo_recipe_is_a_valid_configuration() -> None:
    from patch2tissue.builtin_recipes import recipe
    from patch2tissue.config import load_config

    assert load_config(recipe("demo")).data.source is not None
