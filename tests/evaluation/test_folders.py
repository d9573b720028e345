"""Scoring folders of masks."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.data.images import write_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.folders import (
    evaluate_folders,
    evaluate_pairs,
    group_names,
    pair_folders,
    wrong_share,
)
from patch2tissue.evaluation.scores import scores_from_counts
from patch2tissue.tissues import TissueSet, load_tissue_set

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


def test_bad_pairs_are_named(folders: tuple[Path, Path], tmp_path: Path) -> None:
    pred, true = folders
    first, second = sorted(pred.iterdir())[:2]
    kept = first.read_bytes()
    first.unlink()
    with pytest.raises(DataError, match=r"1 of 6 masks have no prediction, for example TCGA-A0-A0SK-DX1_xmin0"):
        evaluate_folders(pred, true, TISSUES)
    write_mask(first, np.zeros((5, 7), np.uint8), TISSUES)
    with pytest.raises(DataError, match=r"xmin0_ymin2_MPP-0\.25_mask\.png: is 7×5 px, but .*/true/.* is 32×32 px"):
        evaluate_folders(pred, true, TISSUES)
    first.write_bytes(kept[:60])
    with pytest.raises(DataError, match="xmin0"):
        evaluate_folders(pred, true, TISSUES)
    first.write_bytes(kept)
    write_mask(second, np.full((32, 32), 9, np.uint8), TISSUES)
    with pytest.raises(DataError, match="index 9"):
        evaluate_folders(pred, true, TISSUES)
    with pytest.raises(DataError, match="no such folder"):
        evaluate_folders(tmp_path / "absent", true, TISSUES)
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match="holds no masks"):
        evaluate_folders(pred, tmp_path / "empty", TISSUES)
    with pytest.raises(DataError, match="no masks to score"):
        evaluate_pairs([], TISSUES, grouped_by="image")


def test_two_masks_of_one_name_are_refused(folders: tuple[Path, Path]) -> None:
    first = sorted(folders[1].iterdir())[0]
    Image.open(first).save(first.with_suffix(".tif"))
    with pytest.raises(DataError, match=r"holds both .*\.png and .*\.tif"):
        evaluate_folders(*folders, TISSUES)


def test_names_without_suffix_and_other_extensions_pair(folders: tuple[Path, Path], tmp_path: Path) -> None:
    plain = tmp_path / "plain"
    plain.mkdir()
    for mask in folders[0].iterdir():
        Image.open(mask).save(plain / f"{mask.stem.removesuffix('_mask')}.tif")
    assert evaluate_folders(plain, folders[1], TISSUES).values == evaluate_folders(*folders, TISSUES).values


def test_predictions_without_a_mask_are_told(folders: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    for picture in ("a_overlay.png", "figure.png"):
        Image.new("RGB", (4, 4)).save(folders[0] / picture)
    evaluate_folders(*folders, TISSUES)
    assert caplog.text == ""
    write_mask(folders[0] / "more_mask.png", np.zeros((4, 4), np.uint8), TISSUES)
    evaluate_folders(*folders, TISSUES)
    assert "1 predictions have no mask" in caplog.text and "more_mask" in caplog.text


def test_one_bad_file_stops_the_others(folders: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    opened = []

    def read(path: Path, tissues: TissueSet) -> np.ndarray:
        opened.append(path)
        raise DataError(f"{path}: is bad")

    monkeypatch.setattr("patch2tissue.evaluation.folders.read_mask", read)
    pairs = pair_folders(*folders) * 200
    with pytest.raises(DataError, match="is bad"):
        evaluate_pairs(pairs, TISSUES, grouped_by="patient")
    assert len(opened) < len(pairs)


def test_progress_counts_every_image(folders: tuple[Path, Path]) -> None:
    seen: list[tuple[int, int]] = []
    evaluate_folders(*folders, TISSUES, progress=lambda done, total: seen.append((done, total)))
    assert seen == [(n, 6) for n in range(1, 7)]


def test_nothing_scored_is_null_everywhere(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write_mask(tmp_path / "true" / f"{name}.png", np.full((8, 8), 255, np.uint8), TISSUES)
        write_mask(tmp_path / "pred" / f"{name}.png", np.zeros((8, 8), np.uint8), TISSUES)
    values = evaluate_folders(tmp_path / "pred", tmp_path / "true", TISSUES).to_dict()
    assert json.loads(json.dumps(values, allow_nan=False)) == {
        **dict.fromkeys(("miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px", "ci95")),
        "iou": dict.fromkeys(TISSUES.names),
    }


def test_groups() -> None:
    names = ["TCGA-A1-A0SK-DX1_xmin1_ymin2", "TCGA-A1-A0SK-DX2_xmin9_ymin2"]
    assert group_names(names) == ("patient", ["TCGA-A1-A0SK"] * 2)
    assert group_names(names, "slide") == ("slide", ["TCGA-A1-A0SK-DX1", "TCGA-A1-A0SK-DX2"])
    assert group_names(names, "image") == ("image", names)
    assert group_names(["train_1_x0_y0", "train_1_x9_y0"]) == ("slide", ["train_1", "train_1"])
    assert group_names(["one", "two"]) == ("image", ["one", "two"])
    assert group_names([*names, "other"])[0] == "image"
    with pytest.raises(DataError, match="1 of 3 names do not tell their patient, for example other"):
        group_names([*names, "other"], "patient")
    with pytest.raises(ConfigError, match="hospital"):
        group_names(names, "hospital")


def test_grouping_changes_the_interval_alone(folders: tuple[Path, Path]) -> None:
    patients, images = (evaluate_folders(*folders, TISSUES, group=group) for group in ("auto", "image"))
    assert (patients.groups, images.groups, images.grouped_by) == (3, 6, "image")
    assert patients.values.pop("ci95") != images.values.pop("ci95")
    assert patients.values == images.values
