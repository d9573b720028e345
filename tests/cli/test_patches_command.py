from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.cli import app as app_module
from patch2tissue.data.images import write_mask
from patch2tissue.data.layouts import load_split
from patch2tissue.tissues import load_tissue_set

GLAS = load_tissue_set("glas")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for split, side in (("train", 40), ("val", 30)):
        (tmp_path / "in" / split / "img").mkdir(parents=True)
        mask = np.zeros((side, side), np.uint8)
        mask[:, side // 2 :] = 1
        Image.fromarray(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)).save(
            tmp_path / "in" / split / "img" / f"{split}_1.png"
        )
        write_mask(tmp_path / "in" / split / "mask" / f"{split}_1.png", mask, GLAS)
    return tmp_path / "in"


def run(*arguments: object) -> int:
    with pytest.raises(SystemExit) as left:
        app_module.main(["patches", *map(str, arguments)])
    code = left.value.code
    assert isinstance(code, int)
    return code


def test_cuts_and_says_what_it_did(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(source, "--tissues", "glas", "--size", 20, "--stride", 10, "--least-share", 0.05, "--out", out) == 0
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "9 patches in" in captured.err
    assert "gland: in 6 patches" in captured.err
    assert len(load_split(out, "train", GLAS)) == 9


def test_json_is_all_of_standard_output(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert run(source, "--tissues", "glas", "--size", 20, "--out", out, "--json") == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(out),
        "patches": 4,
        "skipped": 0,
        "with_tissue": {"gland": 2, "surrounding tissue": 2},
    }


def test_wrong_input_is_2_with_one_message(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    (source / "train" / "img" / "train_1.png").write_bytes(b"\x89PNG\r\n\x1a\nnonsense")
    assert run(source, "--tissues", "glas", "--size", 20, "--out", out) == 2
    assert "train_1.png: cannot be read as an image" in capsys.readouterr().err
    assert not out.exists()
    assert run(source, "--tissues", "glas", "--size", 20, "--out", source) == 2
    assert "is there already and not empty" in capsys.readouterr().err
    assert run(source, "--tissues", "nonsense", "--out", out) == 2
    assert "Unknown tissue set 'nonsense'" in capsys.readouterr().err
    assert run(source, "--tissues", "glas", "--size", 0, "--out", out) == 2
    assert run(source, "--tissues", "glas", "--least-share", 2, "--out", out) == 2
    assert not out.exists()
