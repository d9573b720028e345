"""`data.csv` of a run: what is in it, and that a run does not go on with other data."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import RECIPES, TINY
from patch2tissue.config import RunConfig, load_config
from patch2tissue.data.fingerprint import read_fingerprints
from patch2tissue.data.images import read_image
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.pipeline import run_training
from patch2tissue.run_data import record_data, used_files
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import training_patches


def _config(data: Path, *changes: str) -> RunConfig:
    settings = [f"output={data.parent / 'run'}", f"data.path={data}", "data.layout=auto", *TINY, *changes]
    return load_config(RECIPES / "bcss-wsss.yaml", settings)


def _uses(config: RunConfig) -> set[str]:
    return {file.use for file in used_files(config, training_patches(config))}


def test_what_training_reads_is_listed_and_masks_only_where_it_reads_them(
    tmp_path: Path, fabricate: Callable[..., Path]
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    config = _config(data)
    files = used_files(config, training_patches(config))
    assert [file.use for file in files] == ["train"] * 12
    assert files[0].name.startswith("train/TCGA") and files[0].labels in files[0].name
    assert _uses(_config(data, "selection=validation_masks")) == {"train", "val", "val mask"}
    assert _uses(_config(data, "craanet.encoder.weights=w.safetensors")) == {"train", "craanet.encoder.weights"}
    (data / "train" / "mask").mkdir()
    for patch in training_patches(config):
        shutil.copy(patch.path, data / "train" / "mask")
    assert _uses(_config(data)) == {"train"}
    assert _uses(_config(data, "comparisons.full_supervision=true")) == {"train", "train mask"}


def test_a_tissue_set_in_a_file_becomes_part_of_the_run(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    own = tmp_path / "own.yaml"
    text = "name: own\ntissues:\n" + "".join(f"  - {{name: t{k}, color: [{k}, 0, 0]}}\n" for k in range(4))
    own.write_text(text, encoding="utf-8")
    config = _config(data, f"tissues={own}", "data.layout=bcss-wsss", "craanet.epochs=1")
    run = run_training(config, stages=["craanet"], progress=False)
    own.write_text(text.replace("t3", "other"), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other settings \(tissues"):
        run_training(config, progress=False)
    own.unlink()
    assert run.config().tissue_set().names == ("t0", "t1", "t2", "t3")


def test_a_run_does_not_go_on_with_other_data(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    config = _config(data, "craanet.epochs=1")
    run = run_training(config, stages=["craanet"], progress=False)
    assert len(read_fingerprints(run.data_file)) == 12
    before = run.data_file.read_bytes()
    first = training_patches(config)[0].path
    Image.fromarray(np.ascontiguousarray(read_image(first)[:20])).save(first)
    with pytest.raises(DataError, match=r"not those that .*run was begun with: 1 file is of other content, train/TCGA"):
        run_training(config, progress=False)
    assert run.data_file.read_bytes() == before
    run = run_training(config, stages=["craanet"], resume=False, progress=False)
    assert run.data_file.read_bytes() != before


def test_a_run_that_was_begun_without_it_goes_on_without_it(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    config = _config(fabricate(tmp_path / "data", "bcss-wsss"))
    run = RunFolder(config.output)
    run.craanet.mkdir(parents=True)
    record_data(run, config, training_patches(config))
    assert not run.data_file.exists()
