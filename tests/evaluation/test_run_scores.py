"""Scoring a run folder: what is trained and has masks is scored, the rest is left out; runs are compared."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from conftest import RECIPES, TINY
from patch2tissue.config import load_config
from patch2tissue.data.images import read_image, write_mask
from patch2tissue.evaluation.folders import evaluate_folders
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Path]) -> RunFolder:
    """A run with every comparison, whose training patches have masks too."""
    folder = tmp_path_factory.mktemp("scored")
    data = fabricate(folder / "data", "bcss-wsss")
    overrides = [f"output={folder / 'run'}", f"data.path={data}", *TINY, "craanet.epochs=1", "pfscnet.epochs=1"]
    config = load_config(RECIPES / "bcss-wsss.yaml", overrides)
    for patch in (data / "train").glob("*.png"):
        # the picture's first present tissue everywhere: wrong, but a mask
        digits = patch.stem[-5:-1]
        shape = read_image(patch).shape[:2]
        mask = np.full(shape, digits.index("1"), np.uint8)
        write_mask(data / "train" / "mask" / patch.name, mask, config.tissue_set())
    config.comparisons.cam = True
    config.comparisons.grad_cam = True
    config.comparisons.cam_pipeline = True
    config.comparisons.cross_entropy_only = True
    config.comparisons.full_supervision = True
    return run_training(config)


def test_all_parts_are_scored(trained: RunFolder) -> None:
    scores = score_run(trained, progress=False)
    assert json.loads(trained.scores_file.read_text()) == scores
    assert set(scores["pseudo_labels"]) == {"cam", "grad_cam", "last_epoch", "accumulated", "refined"}
    assert set(scores["test"]) == {"full_method", "cross_entropy_only", "cam_pipeline", "full_supervision"}
    assert scores["supervision"] == "image-level labels"
    assert any("full_supervision was trained on the masks" in note for note in scores["notes"])
    keys = {"miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px", "iou", "ci95"}
    assert all(set(values) == keys for values in scores["pseudo_labels"].values())
    assert all(set(values) == {*keys, "ece"} for values in scores["test"].values())
    config = trained.config()
    again = evaluate_folders(trained.predictions(), config.data.path / "test" / "mask", config.tissue_set())
    assert again.to_dict() == scores["test"]["full_method"]
    detail = json.loads((trained.path / "scores_detail.json").read_text())
    assert len(detail["test"]["full_method"]["per_image"]) == 4
    assert sum(detail["test"]["full_method"]["reliability"]["share"]) == pytest.approx(1)
    assert 0 <= detail["pseudo_labels"]["refined"]["wrong_share"] <= 1


def test_commands(trained: RunFolder, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("score", trained.path, "--json") == 0
    assert json.loads(capsys.readouterr().out)["test"]
    assert run_command("score", trained.path) == 0
    assert "Networks, on the test split" in capsys.readouterr().out
    assert run_command("compare", trained.path, "--json") == 0
    rows = json.loads(capsys.readouterr().out)
    full = next(row for row in rows if row["method"] == "full_supervision")
    assert full["seeds"] == 1 and full["spread"] is None and full["share_of_full_supervision"] == 1


def test_what_is_no_scored_run_is_refused(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_command("score", tmp_path) == 2
    assert "not a run folder" in " ".join(capsys.readouterr().err.split())
    assert run_command("compare", tmp_path) == 2


def test_no_masks_is_said_and_is_no_error(trained: RunFolder, tmp_path: Path) -> None:
    config = trained.config()
    data = tmp_path / "data"
    shutil.copytree(config.data.path, data)
    for masks in data.rglob("mask"):
        shutil.rmtree(masks)
    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained.path, run.path)
    config.data.path = data
    run.config_file.write_text(config.to_yaml())
    scores = score_run(run, progress=False)
    assert set(scores) == {"supervision", "notes"}
