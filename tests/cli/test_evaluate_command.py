"""`patch2tissue evaluate` on folders of tiny masks."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patch2tissue.data.images import write_mask
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("glas")
Run = Callable[..., int]


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    for number in range(4):
        truth = np.zeros((20, 24), np.uint8)
        truth[:, 12:] = 1
        write_mask(tmp_path / "masks" / f"train_{number % 2}_x{number}_y0.png", truth, TISSUES)
        prediction = np.roll(truth, 1, axis=0)
        prediction[0] = 1
        write_mask(tmp_path / "pred" / f"train_{number % 2}_x{number}_y0_mask.png", prediction, TISSUES)
    return tmp_path / "pred", tmp_path / "masks"


def test_json_is_all_that_is_printed(
    folders: tuple[Path, Path], tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "scores.json"
    assert run_command("evaluate", *folders, "--tissues", "glas", "--json", "--out", out) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads(out.read_text())
    assert set(printed) == {"miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px", "iou", "ci95"}
    wrong, side = 12, 20 * 12
    first, second = (side - wrong) / side, side / (side + wrong)
    assert printed["iou"] == pytest.approx({"gland": first, "surrounding tissue": second})
    assert printed["miou"] == pytest.approx((first + second) / 2)
    assert printed["acc"] == pytest.approx(1 - wrong / (2 * side))
    assert printed["ci95"] == pytest.approx([printed["miou"]] * 2), "all images are alike"


def test_table_for_people(
    folders: tuple[Path, Path], run_command: Run, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert run_command("evaluate", *folders, "--tissues", "glas") == 0
    printed = capsys.readouterr()
    assert all(word in printed.out for word in ("4 images", "MIoU", "GLA", "95.0"))
    assert "over 2 slides" in printed.err
    assert run_command("evaluate", *folders, "--tissues", "glas", "--group", "image") == 0
    assert "over 4 images." in capsys.readouterr().err


def test_one_group_has_no_interval(
    folders: tuple[Path, Path], run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders:
        for path in folder.glob("train_1*"):
            path.unlink()
    assert run_command("evaluate", *folders, "--tissues", "glas", "--json") == 0
    assert json.loads(capsys.readouterr().out)["ci95"] is None
    assert run_command("evaluate", *folders, "--tissues", "glas") == 0
    assert "No interval" in capsys.readouterr().err


def test_names_that_tell_nothing_fall_back_to_images_and_say_so(
    folders: tuple[Path, Path], run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    for folder in folders:
        for number, path in enumerate(sorted(folder.iterdir())):
            path.rename(folder / (f"{number}_mask.png" if path.stem.endswith("_mask") else f"{number}.png"))
    assert run_command("evaluate", *folders, "--tissues", "glas") == 0
    printed = " ".join(capsys.readouterr().err.split())
    assert "over 4 images (the file names tell neither patients nor slides)" in printed


def test_wrong_input_is_named_and_ends_with_two(
    folders: tuple[Path, Path], tmp_path: Path, run_command: Run, capsys: pytest.CaptureFixture[str]
) -> None:
    pred, masks = folders

    def message(*arguments: object) -> str:
        assert run_command("evaluate", *arguments) == 2
        printed = capsys.readouterr()
        assert printed.out == "" and "Traceback" not in printed.err
        return " ".join(printed.err.split())

    assert "no such folder" in message(tmp_path / "absent", masks, "--tissues", "glas")
    assert "no such folder" in message(pred, tmp_path / "absent", "--tissues", "glas")
    assert "no-such-set" in message(pred, masks, "--tissues", "no-such-set")
    assert "patient" in message(pred, masks, "--tissues", "glas", "--group", "patient")
    assert "hospital" in message(pred, masks, "--tissues", "glas", "--group", "hospital")
    assert "--tissues" in message(pred, masks)
    first = sorted(pred.iterdir())[0]
    whole = first.read_bytes()
    write_mask(first, np.zeros((5, 5), np.uint8), TISSUES)
    assert "5×5 px" in message(pred, masks, "--tissues", "glas", "--json")
    first.write_bytes(whole[:60])
    assert first.name in message(pred, masks, "--tissues", "glas")
    first.unlink()
    assert "1 of 4 masks have no prediction" in message(pred, masks, "--tissues", "glas", "--json")
    assert not (tmp_path / "scores.json").exists()
