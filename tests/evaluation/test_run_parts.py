"""Which parts of a run are scored, when its test split is predicted, and what is noted; prediction is a stand-in."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from patch2tissue.config import config_from_dict
from patch2tissue.data.images import read_mask, write_mask
from patch2tissue.errors import DataError
from patch2tissue.evaluation import run_scores
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.inference.confidence import confidence_file, write_confidence
from patch2tissue.inference.predict import ImageResult
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


def add_network(run: RunFolder, name: str = "full_method", weights: bytes = b"weights") -> None:
    folder = run.pfscnet if name == "full_method" else run.comparison(name)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "weights.safetensors").write_bytes(weights)
    (folder / "finished").touch()


def add_pseudo_labels(run: RunFolder, *variants: str, names: Sequence[str]) -> None:
    run.pseudo_labels.mkdir(exist_ok=True)
    (run.pseudo_labels / "manifest.csv").write_text("name\n")
    for folder in (*(f"variants/{variant}" for variant in variants), "masks"):
        for name in names:
            labels = np.full((32, 32), name[-5:-1].index("1"), np.uint8)
            if folder == "masks":
                labels[16:] = 255
            write_mask(run.pseudo_labels / folder / f"{name}.png", labels, TISSUES)


@pytest.fixture
def data(tmp_path: Path, fabricate: Callable[..., Path]) -> Path:
    """Fabricated patches; those of train have masks, too: the first half of each in its first tissue."""
    root = fabricate(tmp_path / "data", "bcss-wsss", train=6)
    for patch in (root / "train").glob("*.png"):
        mask = np.full((32, 32), 1, np.uint8)
        mask[:, :16] = patch.stem[-5:-1].index("1")
        write_mask(root / "train" / "mask" / patch.name, mask, TISSUES)
    return root


@pytest.fixture
def run(data: Path, tmp_path: Path) -> RunFolder:
    folder = RunFolder(tmp_path / "run")
    folder.path.mkdir()
    set_config(folder, data)
    return folder


def set_config(run: RunFolder, root: Path, **settings: Any) -> None:
    plain = {"output": str(run.path), "tissues": "bcss-wsss", "data": {"path": str(root)}, **settings}
    run.config_file.write_text(config_from_dict(plain).to_yaml())


@pytest.fixture
def predicted(monkeypatch: pytest.MonkeyPatch, data: Path) -> list[tuple[str, int]]:
    """Stand-in for prediction that copies the true masks; lists (network, new masks) per call."""
    calls: list[tuple[str, int]] = []

    def predict_images(
        run: Path, images: Sequence[Path], out: Path, *, network: str, overlay: bool, resume: bool, progress: bool
    ) -> list[ImageResult]:
        assert resume and overlay == (network == "full_method")
        new = 0
        for image in images:
            target = out / f"{image.stem}_mask.png"
            if not target.is_file():
                new += 1
                mask = read_mask(image.parent.parent / "mask" / image.name, TISSUES)
                write_mask(target, mask, TISSUES)
                write_confidence(confidence_file(target), np.full_like(mask, 255))
        calls.append((network, new))
        return [ImageResult(image, out / f"{image.stem}_mask.png") for image in images]

    monkeypatch.setattr("patch2tissue.evaluation.predictions.predict_images", predict_images)
    return calls


def names_of(data: Path) -> list[str]:
    return sorted(path.stem for path in (data / "train").glob("*.png"))


def test_only_what_is_there_is_scored(run: RunFolder, data: Path, predicted: list[Any]) -> None:
    add_network(run)
    add_network(run, "cam_pipeline")
    run.comparison("full_supervision").mkdir(parents=True)  # still training
    add_pseudo_labels(run, "accumulated", names=names_of(data))
    scores = score_run(run, progress=False)
    assert set(scores) == {"supervision", "pseudo_labels", "test"}
    assert set(scores["pseudo_labels"]) == {"accumulated"}
    assert set(scores["test"]) == {"full_method", "cam_pipeline"}
    assert all(values["miou"] == 1 for values in scores["test"].values())
    assert predicted == [("full_method", 4), ("cam_pipeline", 4)]
    detail = json.loads((run.path / "scores_detail.json").read_text())
    assert set(detail) == {"pseudo_labels", "test", "pseudo_label_noise"}
    assert set(detail["pseudo_labels"]) == {"accumulated"} and set(detail["test"]) == set(scores["test"])


def test_noise_of_variants_and_of_the_final_labels(run: RunFolder, data: Path) -> None:
    add_pseudo_labels(run, "cam", names=names_of(data))
    score_run(run, progress=False)
    noise = json.loads((run.path / "scores_detail.json").read_text())["pseudo_label_noise"]
    assert set(noise) == {"cam", "final"}
    assert noise["cam"]["labelled_share"] == 1 and noise["final"]["labelled_share"] == 0.5
    # the right half is stroma; wrong wherever the first tissue is another
    wrong = np.mean([0.0 if name[-5:-1].index("1") == 1 else 0.5 for name in names_of(data)])
    assert noise["cam"]["wrong_share"] == pytest.approx(wrong) == pytest.approx(noise["final"]["wrong_share"])


def test_predictions_are_kept(run: RunFolder, predicted: list[Any]) -> None:
    add_network(run)
    first = score_run(run, progress=False)
    assert score_run(run, progress=False) == first
    assert predicted == [("full_method", 4)]


def test_only_missing_predictions_are_made(run: RunFolder, predicted: list[Any]) -> None:
    add_network(run)
    score_run(run, progress=False)
    next(run.predictions().glob("*_mask.png")).unlink()
    score_run(run, progress=False)
    assert predicted == [("full_method", 4), ("full_method", 1)]


def test_another_network_or_other_settings_predict_anew(run: RunFolder, data: Path, predicted: list[Any]) -> None:
    add_network(run)
    score_run(run, progress=False)
    add_network(run, weights=b"trained longer")
    score_run(run, progress=False)
    set_config(run, data, inference={"symmetries": True})
    score_run(run, progress=False)
    set_config(run, data, inference={"symmetries": True, "batch_size": 2}, hardware={"threads": 1})
    score_run(run, progress=False)
    (run.predictions() / "made_with.json").write_text("{")
    score_run(run, progress=False)
    assert predicted == [("full_method", 4)] * 4


def test_predictions_without_a_record_count_if_they_are_newer_than_the_weights(
    run: RunFolder, data: Path, predicted: list[Any]
) -> None:
    add_network(run)
    for mask in (data / "test" / "mask").iterdir():
        target = run.predictions() / f"{mask.stem}_mask.png"
        write_mask(target, read_mask(mask, TISSUES), TISSUES)
        write_confidence(confidence_file(target), np.full_like(read_mask(mask, TISSUES), 255))
    score_run(run, progress=False)
    assert predicted == []
    (run.predictions() / "made_with.json").unlink()
    later = next(run.predictions().iterdir()).stat().st_mtime + 60
    os.utime(run.pfscnet / "weights.safetensors", (later, later))
    score_run(run, progress=False)
    assert predicted == [("full_method", 4)]


def test_an_image_that_cannot_be_predicted_is_named(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(run: Path, images: Sequence[Path], *arguments: Any, **options: Any) -> list[ImageResult]:
        return [ImageResult(image, None, error=f"{image}: is damaged.") for image in images]

    monkeypatch.setattr("patch2tissue.evaluation.predictions.predict_images", fail)
    add_network(run)
    with pytest.raises(DataError, match=r"xmin47759_ymin.*: is damaged"):
        score_run(run, progress=False)
    assert not run.scores_file.exists()


def test_incomplete_variants_are_passed_over_with_a_warning(
    run: RunFolder, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    add_pseudo_labels(run, "cam", "refined", names=names_of(data))
    next((run.pseudo_labels / "variants" / "refined").iterdir()).unlink()
    scores = score_run(run, progress=False)
    assert set(scores["pseudo_labels"]) == {"cam"}
    assert "refined: holds 5 of 6 pseudo labels" in caplog.text


def test_patches_of_train_without_a_mask_are_left_out(run: RunFolder, data: Path) -> None:
    add_pseudo_labels(run, "cam", names=names_of(data))
    (data / "train" / "mask" / f"{names_of(data)[0]}.png").unlink()
    score_run(run, progress=False)
    detail = json.loads((run.path / "scores_detail.json").read_text())
    assert detail["pseudo_labels"]["cam"]["images"] == 5


def test_val_stands_in_for_test_and_that_is_noted(run: RunFolder, data: Path, predicted: list[Any]) -> None:
    add_network(run)
    shutil.rmtree(data / "test" / "mask")
    (note,) = score_run(run, progress=False)["notes"]
    assert "the test scores are of val" in note and "checkpoint" not in note
    set_config(run, data, selection="validation_masks")
    scores = score_run(run, progress=False)
    assert "whose masks also chose the checkpoint" in scores["notes"][0]
    assert scores["supervision"] == "image-level labels; checkpoint chosen on validation masks"


def test_a_test_folder_of_its_own_comes_first(run: RunFolder, data: Path, predicted: list[Any], tmp_path: Path) -> None:
    elsewhere = tmp_path / "regions"
    (elsewhere / "img").mkdir(parents=True)
    for name in ("one", "two", "unmasked"):
        Image.new("RGB", (50, 40)).save(elsewhere / "img" / f"{name}.png")
        if name != "unmasked":
            write_mask(elsewhere / "mask" / f"{name}.png", np.full((40, 50), 2, np.uint8), TISSUES)
    set_config(run, data, data={"path": str(data), "test_path": str(elsewhere)})
    add_network(run)
    score_run(run, progress=False)
    detail = json.loads((run.path / "scores_detail.json").read_text())["test"]["full_method"]
    assert [row["name"] for row in detail["per_image"]] == ["one", "two"]
    assert detail["grouped_by"] == "image"


def test_full_supervision_is_flagged(run: RunFolder, predicted: list[Any]) -> None:
    add_network(run, "full_supervision")
    assert "trained on the masks of train" in score_run(run, progress=False)["notes"][0]


def test_nothing_to_score_is_said(run: RunFolder, data: Path) -> None:
    (note,) = score_run(run, progress=False)["notes"]
    assert "no network" in note and "trained yet" in note
    for split in ("train", "val", "test"):
        shutil.rmtree(data / split / "mask")
    add_network(run)
    scores = score_run(run, progress=False)
    assert set(scores) == {"supervision", "notes"} and "holds no masks" in scores["notes"][0]
    assert json.loads(run.scores_file.read_text()) == scores


def test_order_of_the_networks() -> None:
    assert run_scores.NETWORKS[0] == "full_method" and run_scores.NETWORKS[-1] == "full_supervision"


def test_patients_of_train_among_the_test_images_are_noted(run: RunFolder, data: Path, predicted: list[Any]) -> None:
    add_network(run)
    assert "notes" not in score_run(run, progress=False)
    image = next((data / "test" / "img").iterdir())
    other = next((data / "train").glob("*.png"))
    name = f"{other.stem.split('_')[0]}_xmin1_ymin1_MPP-0.2500+0[1000].png"
    for kind in ("img", "mask"):
        shutil.copy(data / "test" / kind / image.name, data / "test" / kind / name)
    (note,) = score_run(run, progress=False)["notes"]
    assert note.startswith("the test scores flatter: 1 of the test images' patients or slides (patient TCGA-A")
