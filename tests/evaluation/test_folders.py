"""Scoring folders, intervals, and the commands around them."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.data.images import write_mask
from patch2tissue.errors import DataError
from patch2tissue.evaluation.folders import evaluate_folders, group_names, wrong_share
from patch2tissue.evaluation.intervals import bootstrap_miou
from patch2tissue.evaluation.scores import scores_from_counts
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    rng = np.random.default_rng(0)
    for number in range(6):
        truth = np.kron(rng.integers(0, 4, (4, 4)), np.ones((8, 8))).astype(np.uint8)
        prediction = truth.copy()
        prediction[: 4 * number] = (truth[: 4 * number] + 1) % 4
        name = f"TCGA-A{number % 3}-A0SK-DX1_xmin{number}_ymin2_MPP-0.25"
        write_mask(tmp_path / "pred" / f"{name}_mask.png", prediction, TISSUES)
        truth[0] = 4  # background is not scored
        write_mask(tmp_path / "true" / f"{name}.png", truth, TISSUES)
    return tmp_path / "pred", tmp_path / "true"


def test_keys_and_values(folders: tuple[Path, Path]) -> None:
    scores = evaluate_folders(*folders, TISSUES)
    values = scores.to_dict()
    assert set(values) == {"miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px", "iou", "ci95"}
    assert set(values["iou"]) == set(TISSUES.names)
    expected = scores_from_counts(scores.confusion)
    assert math.isclose(values["miou"], float(expected["miou"]))
    assert scores.grouped_by == "patient" and scores.groups == 3
    assert values["ci95"][0] <= values["miou"] <= values["ci95"][1]
    assert math.isclose(wrong_share(scores.confusion) or 0, 1 - values["acc"])
    assert {row["name"] for row in scores.per_image} == {p.stem for p in folders[1].iterdir()}


def test_coloured_masks_score_the_same(folders: tuple[Path, Path], tmp_path: Path) -> None:
    colored = tmp_path / "colored"
    colored.mkdir()
    for mask in folders[1].iterdir():
        Image.open(mask).convert("RGB").save(colored / mask.name)
    assert evaluate_folders(folders[0], colored, TISSUES).values == evaluate_folders(*folders, TISSUES).values


def test_command(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], run_command: Callable[..., int]
) -> None:
    arguments = ["evaluate", *map(str, folders), "--tissues", "bcss-wsss"]
    assert run_command(*arguments, "--json", "--out", str(tmp_path / "scores.json")) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed == json.loads((tmp_path / "scores.json").read_text())
    assert run_command(*arguments) == 0
    assert "MIoU" in capsys.readouterr().out


def test_bad_input_is_named(
    folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str], run_command: Callable[..., int]
) -> None:
    pred, true = folders
    arguments = ["evaluate", str(pred), str(true), "--tissues", "bcss-wsss"]
    first = sorted(pred.iterdir())[0]
    kept = first.read_bytes()
    first.unlink()
    assert run_command(*arguments) == 2
    assert "have no prediction" in " ".join(capsys.readouterr().err.split())
    write_mask(first, np.zeros((5, 5), np.uint8), TISSUES)
    with pytest.raises(DataError, match="5×5 px"):
        evaluate_folders(pred, true, TISSUES)
    first.write_bytes(kept[:60])
    assert run_command(*arguments) == 2
    assert first.name.split("_")[0] in " ".join(capsys.readouterr().err.split())
    assert run_command("evaluate", tmp_path / "none", true, "--tissues", "bcss-wsss") == 2
    assert run_command("evaluate", pred, true, "--tissues", "no-such-set") == 2


def test_groups() -> None:
    assert group_names(["TCGA-A1-A0SK-DX1_xmin1_ymin2", "TCGA-A1-A0SK-DX1_xmin9_ymin2"])[0] == "patient"
    assert group_names(["one", "two"]) == ("image", ["one", "two"])


def test_bootstrap_covers_and_is_seeded() -> None:
    rng = np.random.default_rng(1)
    counts = rng.integers(5, 100, (20, 2, 3))
    counts[..., 2] = 0
    low, high = bootstrap_miou(counts)
    assert low < scores_from_counts(counts.sum(0))["miou"] < high
    assert (low, high) == bootstrap_miou(counts)
    same = np.repeat(counts[:1], 5, axis=0)
    assert np.allclose(bootstrap_miou(same), scores_from_counts(counts[0])["miou"])
    assert all(math.isnan(v) for v in bootstrap_miou(counts[:1]))
