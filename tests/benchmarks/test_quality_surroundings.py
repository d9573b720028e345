"""Maps of patches cut from maps of whole pictures: the right place of the right picture, predicted once."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from benchmarks.quality.surroundings import PictureMaps
from benchmarks.quality.sweep import load_plan
from PIL import Image

from patch2tissue.data.patches import Patch
from patch2tissue.errors import ConfigError, DataError


def write(path: Path, picture: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(picture).save(path)
    return path


def test_each_patch_gets_its_part_of_its_picture(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    pictures = {name: rng.integers(0, 255, (60, 80, 3)).astype(np.uint8) for name in ("train_1", "train_10")}
    for name, picture in pictures.items():
        write(tmp_path / "train" / "img" / f"{name}.png", picture)
    asked = []

    def predict_array(image: np.ndarray) -> Any:
        asked.append(image.shape)
        return SimpleNamespace(mask=image[..., 0] // 2)

    maps = PictureMaps(SimpleNamespace(predict_array=predict_array), tmp_path)  # type: ignore[arg-type]
    for name, left, top in (("train_1", 0, 28), ("train_1", 40, 0), ("train_10", 48, 28)):
        part = pictures[name][top : top + 32, left : left + 32]
        stem = f"{name}_x{left:06d}_y{top:06d}_mpp0.62-[1 0]"
        patch = Patch(write(tmp_path / "patches" / f"{stem}.png", part), stem, (1, 0))
        np.testing.assert_array_equal(maps(patch), part[..., 0] // 2)
    assert asked == [(60, 80, 3)] * 2
    for stem in ("elsewhere_x000000_y000000", "train_1"):
        with pytest.raises(DataError, match="which picture of train"):
            maps(Patch(tmp_path / f"{stem}.png", stem, (1, 0)))


def test_only_sets_with_pictures_larger_than_patches_try_tiles() -> None:
    assert next(iter(load_plan("luad")[1])) == "tile" == next(iter(load_plan("glas")[1]))
    assert "tile" not in load_plan("synthetic_hard")[1]
    assert load_plan("synthetic_hard", ["tile"])[1] == {}
    with pytest.raises(ConfigError, match="has no group 'tiles'"):
        load_plan("luad", ["tiles"])
