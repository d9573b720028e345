from __future__ import annotations

import json
from pathlib import Path

from typer.testing import CliRunner

from patch2tissue.cli.app import app
from patch2tissue.errors import DataError


def test_makes_a_data_set(tmp_path: Path) -> None:
    out = tmp_path / "set"
    arguments = ["synthetic", str(out), "--train", "3", "--val", "1", "--test", "2", "--size", "48"]
    result = CliRunner().invoke(app, [*arguments, "--difficulty", "easy", "--seed", "5"])
    assert result.exit_code == 0, result.output
    assert len(list((out / "train").glob("*.png"))) == len(list((out / "train" / "mask").glob("*.png"))) == 3
    assert len(list((out / "val" / "img").glob("*.png"))) == 1
    assert len(list((out / "test" / "mask").glob("*.png"))) == 2
    settings = json.loads((out / "synthetic.json").read_text(encoding="utf-8"))["settings"]
    assert settings == {"train": 3, "val": 1, "test": 2, "size": 48, "difficulty": "easy", "seed": 5}


def test_wrong_options_are_usage_errors(tmp_path: Path) -> None:
    for option in (["--difficulty", "fiendish"], ["--size", "8"], ["--train", "-1"]):
        assert CliRunner().invoke(app, ["synthetic", str(tmp_path / "set"), *option]).exit_code == 2
    assert not (tmp_path / "set").exists()


def test_a_folder_with_other_things_is_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("do not lose", encoding="utf-8")
    result = CliRunner().invoke(app, ["synthetic", str(tmp_path), "--train", "1"])
    assert isinstance(result.exception, DataError)
