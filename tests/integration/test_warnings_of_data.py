"""Data that would teach nothing, or flatter, are refused or told of before training begins."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from patch2tissue.config import RunConfig, config_from_dict, load_config
from patch2tissue.data.images import read_image, write_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.predict import check_resolution
from patch2tissue.pipeline import run_training
from patch2tissue.training_data import patients_in_both, training_patches


@pytest.fixture
def config(fabricate: Callable[..., Path], tmp_path: Path) -> RunConfig:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    return config_from_dict({"output": str(tmp_path / "run"), "tissues": "bcss-wsss", "data": {"path": str(data)}})


def test_labels_that_all_agree_are_refused(config: RunConfig) -> None:
    train = Path(config.data.path) / "train"
    for number, path in enumerate(sorted(train.iterdir())):
        path.rename(train / f"TCGA-A1-A0SK-DX1_xmin{number}_ymin0_MPP-0.2500+0[1111].png")
    with pytest.raises(DataError, match=r"all 12 training patches have the same label \(tumour \+ .*that differ"):
        training_patches(config)


def test_patients_of_both_splits_are_told_of(config: RunConfig) -> None:
    patches = training_patches(config)
    assert patients_in_both(config, patches) == []
    root = Path(config.data.path)
    for split in ("val", "test"):
        image = next((root / split / "img").iterdir())
        shutil.copy(image, root / split / "img" / patches[0].path.name.replace("_ymin", "_ymin9"))
    config.selection = "validation_masks"
    of_val, of_test = patients_in_both(config, patches)
    assert of_val.startswith(f"{root / 'val'}: shares 1 with train, for example patient TCGA-A")
    assert "chooses the checkpoint and gives scores that flatter" in of_val
    assert "checkpoint" not in of_test and "patch2tissue check" in of_test


@pytest.mark.parametrize(("images", "said"), [(0.5, ""), (0.52, ""), (None, ""), (0.6, "expect less"), (0.4, "expect")])
def test_other_resolutions_are_warned_of(images: float | None, said: str, caplog: pytest.LogCaptureFixture) -> None:
    check_resolution(images, 0.5, "the images")
    assert said in caplog.text and bool(said) == bool(caplog.records)


@pytest.mark.parametrize("images", [0.24, 1.01])
def test_quite_other_resolutions_are_refused(images: float) -> None:
    check_resolution(images, None, "the images")
    with pytest.raises(ConfigError, match=r"trained at 0\.5.*Resize them"):
        check_resolution(images, 0.5, "the images")


def test_full_supervision_that_is_asked_for_later_needs_every_mask(
    trained_runs: tuple[Path, Path, Path], tmp_path: Path
) -> None:
    data, run = tmp_path / "data", tmp_path / "run"
    shutil.copytree(trained_runs[0], data)
    shutil.copytree(trained_runs[1], run)
    changes = [f"output={run}", f"data.path={data}"]
    config = load_config(run / "config.yaml", changes)
    (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
    config.comparisons.full_supervision = True
    with pytest.raises(DataError, match="full_supervision needs a mask for every training patch; 12 have none"):
        run_training(config, progress=False)
    for path in sorted((data / "train").glob("*.png")):
        size = read_image(path).shape[:2]
        write_mask(data / "train" / "mask" / path.name, np.zeros(size, np.uint8), config.tissue_set())
    run_training(config, progress=False)
    assert (run / "comparisons" / "full_supervision" / "finished").is_file()
    listed = (run / "data.csv").read_text(encoding="utf-8")
    assert listed.count("train mask,") == 12
    # left out again, and given once more: neither is a change of the data
    config.comparisons.full_supervision = False
    run_training(config, progress=False)
    assert (run / "data.csv").read_text(encoding="utf-8") == listed
