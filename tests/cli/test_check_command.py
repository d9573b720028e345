from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.cli import app as app_module


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    folder = tmp_path / "set [1 0]"  # brackets mean something to the printer too
    (folder / "train").mkdir(parents=True)
    for number, label in enumerate(("1 0", "0 1", "1 1", "1 0")):
        Image.fromarray(rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(
            folder / "train" / f"{1000001 + number}-5-7-[{label}].png"
        )
    return folder


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        app_module.main(["check", *map(str, arguments)])
    code = left.value.code
    assert isinstance(code, int)
    return code


def test_a_set_in_order_is_0(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--tissues", "glas", "--workers", 1) == 0
    shown = capsys.readouterr().out
    assert "set [1 0]" in " ".join(shown.split()), "lines break where the path is long"
    assert "gland + surrounding tissue" in shown
    assert "3 (75%)" in shown
    assert "Everything can be used (0 warnings)." in shown


def test_an_error_is_2_and_names_the_file(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "train" / "1000001-5-7-[1 0].png").write_bytes(b"")
    (root / "train" / "1000009-5-7-[1 0 1].png").write_bytes((root / "train" / "1000002-5-7-[0 1].png").read_bytes())
    assert run(root, "--tissues", "glas") == 2
    shown = capsys.readouterr().out.splitlines()
    assert "error train/1000001-5-7-[1 0].png: is empty (0 bytes). Copy it again." in shown
    assert any(line.startswith("error train/1000009-5-7-[1 0 1].png: its label has 3 digits") for line in shown)
    assert "2 errors, 1 warning." in shown


def test_a_warning_is_0_and_many_of_a_kind_are_counted(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    first = (root / "train" / "1000001-5-7-[1 0].png").read_bytes()
    for number in range(30):
        (root / "train" / f"1000001-{number + 20}-7-[1 0].png").write_bytes(first)
    assert run(root, "--tissues", "glas") == 0
    shown = capsys.readouterr().out
    assert shown.count("is the same picture as") == 20
    assert "10 more of kind 'duplicate'" in shown
    assert "(30 warnings)" in shown


def test_json_is_all_of_standard_output(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(root, "--tissues", "glas", "--json") == 0
    plain = json.loads(capsys.readouterr().out)
    assert plain["clean"] is True
    assert plain["splits"]["train"]["sizes"] == {"8×8": 4}
    (root / "train" / "1000001-5-7-[1 0].png").write_bytes(b"")
    assert run(root, "--tissues", "glas", "--json") == 2
    plain = json.loads(capsys.readouterr().out)
    assert (plain["clean"], plain["errors"]) == (False, 1)
    assert plain["problems"][0] == {
        "level": "error",
        "kind": "image",
        "file": "train/1000001-5-7-[1 0].png",
        "reason": "is empty (0 bytes). Copy it again.",
    }


def test_wrong_usage_is_2_with_one_message(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(tmp_path / "absent", "--tissues", "glas") == 2
    assert "there is no such folder" in capsys.readouterr().err
    assert run(root, "--tissues", "nonsense") == 2
    assert "Unknown tissue set" in capsys.readouterr().err
    assert run(root, "--tissues", "glas", "--layout", "nonsense") == 2
    assert run(root) == 2
