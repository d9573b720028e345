"""`patch2tissue compare` on scored runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

Run = Callable[..., int]


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    paths = []
    for seed, miou in ((0, 0.70), (1, 0.74)):
        folder = tmp_path / f"seed{seed}"
        folder.mkdir()
        config = {"output": str(folder), "seed": seed, "tissues": "glas", "data": {"path": "data"}}
        (folder / "config.yaml").write_text(json.dumps(config))
        test = {"full_method": {"miou": miou}, "full_supervision": {"miou": 0.8}}
        (folder / "scores.json").write_text(json.dumps({"test": test}))
        paths.append(folder)
    return paths


def test_json(runs: list[Path], run_command: Run, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("compare", *runs, "--json") == 0
    full, ceiling = json.loads(capsys.readouterr().out)
    assert full["method"] == "full_method" and full["seeds"] == 2
    assert full["miou"] == pytest.approx(0.72) and full["spread"] == pytest.approx(0.02 * 2**0.5)
    assert full["share_of_full_supervision"] == pytest.approx(0.9)
    assert ceiling["share_of_full_supervision"] == 1


def test_table(
    runs: list[Path], run_command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "140")
    assert run_command("compare", *runs) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("seed0 … (2 seeds)", "full method", "72.0", "2.8", "90.0"))


def test_wrong_input_ends_with_two(
    runs: list[Path], tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("compare") == 2
    assert run_command("compare", tmp_path / "absent", *runs) == 2
    assert "not a run folder" in " ".join(capsys.readouterr().err.split())
    (runs[1] / "scores.json").unlink()
    assert run_command("compare", *runs, "--json") == 2
    printed = capsys.readouterr()
    assert printed.out == "" and "is not scored yet" in " ".join(printed.err.split())
