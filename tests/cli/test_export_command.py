from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.export.varied_run import varied_run
from tests.inference.tiny_run import write_config

from patch2tissue.cli.export import Format
from patch2tissue.export import FORMATS


def test_the_command_tells_what_it_wrote(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    run = varied_run(tmp_path / "run")
    options = ("--to", "torchscript", "--out", tmp_path / "my model", "--licence", "MIT", "--json")
    assert run_command("export", run, *options) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["name"] == "my model" and told["folder"] == str(tmp_path / "my model")
    assert set(told["formats"]) == {"torchscript"} and told["formats"]["torchscript"]["max_abs_difference"] < 1e-4
    assert run_command("export", run, *options) == 2
    assert "--fresh" in capsys.readouterr().err
    assert run_command("export", run, "--out", tmp_path / "my model", "--fresh") == 0
    assert not (tmp_path / "my model" / "torchscript.pt").exists()
    assert "No licence was named" in capsys.readouterr().err


def test_the_command_knows_every_format() -> None:
    assert [one.value for one in Format] == list(FORMATS)


@pytest.mark.parametrize("arguments", [["--to", "tflite"], ["--licence", "my own"], ["--name", ""]])
def test_wrong_options_are_wrong_usage(tmp_path: Path, run_command: Callable[..., int], arguments: list[str]) -> None:
    assert run_command("export", write_config(tmp_path / "run"), "--out", tmp_path / "model", *arguments) == 2
    assert not (tmp_path / "model").exists()
