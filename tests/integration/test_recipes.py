"""Fabricated miniatures of the public data sets, trained by the published recipes with only size and epochs changed."""

from __future__ import annotations

import csv
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from conftest import RECIPES, TINY
from patch2tissue.config import CRAANetConfig, load_config
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.epoch_maps import EPOCH_MAPS_FILE, EpochMaps, replayed
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder

_opened: list[str] = []
_watching = False


def _watch(event: str, arguments: tuple[object, ...]) -> None:
    if _watching and event == "open" and isinstance(arguments[0], str | bytes | os.PathLike):
        _opened.append(os.fsdecode(arguments[0]))


sys.addaudithook(_watch)


@pytest.mark.parametrize("recipe", ["luad-histoseg", "bcss-wsss"])
def test_miniature_trains_by_its_recipe_and_never_opens_a_mask(
    recipe: str, tmp_path: Path, fabricate: Callable[..., Path]
) -> None:
    global _watching
    data = fabricate(tmp_path / "data", recipe)
    for mask in data.rglob("mask/*.png"):
        mask.write_bytes(b"nobody may read this")
        mask.chmod(0)
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY]
    config = load_config(RECIPES / f"{recipe}.yaml", overrides)
    _opened.clear()
    _watching = True
    try:
        run = run_training(config)
    finally:
        _watching = False
    assert any(str(data / "train") in path for path in _opened), "the watch itself must see files"
    assert not [path for path in _opened if f"{os.sep}mask{os.sep}" in path and str(data) in path]
    _check_run(run, tissues=4, patches=12)


def _check_run(run: RunFolder, tissues: int, patches: int) -> None:
    assert load_config(run.config_file).output == run.path
    assert json.loads(run.environment_file.read_text())["versions"]["torch"]
    for stage in (run.craanet, run.pfscnet):
        assert (stage / "weights.safetensors").is_file() and (stage / "network.json").is_file()
        assert not (stage / "checkpoint").exists()
    names = {row["name"] for row in csv.DictReader((run.craanet / "metrics.csv").open())}
    assert {"loss", "label_f1", "learning_rate"} <= names
    names = {row["name"] for row in csv.DictReader((run.pfscnet / "metrics.csv").open())}
    assert {"loss", "loss_ce", "loss_energy", "loss_contrast"} <= names
    rows = list(csv.DictReader((run.pseudo_labels / "manifest.csv").open()))
    assert len(rows) == patches
    for row in rows:
        mask = Image.open(run.pseudo_labels / row["mask"])
        assert mask.mode == "P"
        labels = row["name"][row["name"].index("[") + 1 : -1].replace(" ", "")
        present = {k for k in range(tissues) if labels[k] == "1"}
        assert set(np.unique(np.asarray(mask)).tolist()) <= present | {255}, "a tissue that is absent has no label"
    history = np.load(run.craanet / "attention_history.npz")
    assert history["accumulated"].shape[0] == 3
    _replay_is_the_memory(run, load_config(run.config_file).craanet)
    assert list((run.craanet / "tensorboard").rglob("events*"))


def _replay_is_the_memory(run: RunFolder, settings: CRAANetConfig) -> None:
    epochs = EpochMaps(run.craanet / EPOCH_MAPS_FILE)
    memory = AttentionMemory(run.craanet / "attention_memory")
    for row in range(len(memory)):
        maps = epochs.of_patch(row)
        found = replayed(
            maps, memory.mode, first=settings.first_accumulated_epoch, ema_decay=settings.accumulation.ema_decay
        )
        assert maps.any() and np.abs(found[-1] - memory.read(np.array([row]))[0].numpy()).max() < 4 / 255


def test_second_call_does_nothing_and_other_settings_are_refused(
    tmp_path: Path, fabricate: Callable[..., Path]
) -> None:
    data = fabricate(tmp_path / "data", "wsss4luad")
    common = [f"output={tmp_path / 'run'}", f"data.path={data}", "data.layout=wsss4luad", "tissues=wsss4luad", *TINY]
    config = load_config(RECIPES / "luad-histoseg.yaml", common)
    run = run_training(config)
    weights = run.pfscnet / "weights.safetensors"
    before = weights.stat().st_mtime_ns
    run_training(config)
    assert weights.stat().st_mtime_ns == before
    with pytest.raises(ConfigError, match=r"craanet\.epochs"):
        run_training(load_config(RECIPES / "luad-histoseg.yaml", [*common, "craanet.epochs=4"]))


def test_a_folder_that_is_no_run_is_left_alone(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("years of work")
    config = load_config(RECIPES / "bcss-wsss.yaml", [f"output={tmp_path / 'precious'}", f"data.path={data}", *TINY])
    for resume in (True, False):
        with pytest.raises(DataError, match="Choose another output"):
            run_training(config, resume=resume)
    assert (tmp_path / "precious" / "thesis.txt").read_text() == "years of work"


def test_a_tissue_that_never_occurs_is_named(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    for patch in (data / "train").glob("*.png"):
        if patch.stem.endswith("1]"):
            patch.unlink()
    config = load_config(RECIPES / "bcss-wsss.yaml", [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY])
    with pytest.raises(DataError, match="necrosis"):
        run_training(config)


def test_choosing_by_validation_masks_is_asked_for_and_recorded(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY, "selection=validation_masks"]
    run = run_training(load_config(RECIPES / "bcss-wsss.yaml", overrides))
    rows = list(csv.DictReader((run.pfscnet / "metrics.csv").open()))
    chosen = [float(row["value"]) for row in rows if row["name"] == "validation_miou"]
    assert len(chosen) == 3 and all(0 <= value <= 1 for value in chosen)
    scores = score_run(run, progress=False)
    assert "validation masks" in scores["supervision"]


def test_a_vision_transformer_teaches_a_convolutional_network(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    overrides = [
        *(f"output={tmp_path / 'run'}", f"data.path={data}", *TINY),
        "craanet.encoder.name=vit_tiny_patch16_224",
        "craanet.epochs=1",
        "pfscnet.encoder={name: resnet10t, output_stride: 16}",
        "pfscnet.init=encoder",
        "pfscnet.epochs=1",
    ]
    run = run_training(load_config(RECIPES / "bcss-wsss.yaml", overrides))
    assert np.load(run.craanet / "attention_memory" / "maps.npy").shape == (12, 4, 2, 2)
    assert (run.pfscnet / "weights.safetensors").is_file()


FOUNDATION = [
    *(
        setting
        for setting in TINY
        if not setting.startswith(("craanet.encoder.name", "pseudo_labels", "craanet.epochs"))
    ),
    "craanet.epochs=3",
    "data.patch_size=null",
    "craanet.encoder.options={depth: 2, out_indices: [0, 1]}",
    "pseudo_labels.scales=[1.0, 1.5]",
]
"""The real model at random weights, with two of its blocks."""


@pytest.mark.slow
def test_a_frozen_foundation_model_is_trained_on_by_its_recipe(
    tmp_path: Path, fabricate: Callable[..., Path], run_command: Callable[..., int]
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *FOUNDATION]
    run = run_training(load_config(RECIPES / "foundation-uni.yaml", overrides))
    _check_run(run, tissues=4, patches=12)
    assert np.load(run.craanet / "attention_memory" / "maps.npy").shape == (12, 4, 2, 2)
    image = next((data / "test" / "img").glob("*.png"))
    assert run_command("predict", run.path, image, "--out", tmp_path / "maps") == 0


@pytest.mark.extras
def test_an_adapted_foundation_model_is_trained_by_its_recipe(
    tmp_path: Path, fabricate: Callable[..., Path], run_command: Callable[..., int]
) -> None:
    pytest.importorskip("peft")
    data = fabricate(tmp_path / "data", "luad-histoseg")
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *FOUNDATION]
    run = run_training(load_config(RECIPES / "foundation-virchow2-lora.yaml", overrides))
    _check_run(run, tissues=4, patches=12)
    assert np.load(run.craanet / "attention_memory" / "maps.npy").shape == (12, 4, 3, 3)  # 32 px as 3 tokens of 14 px
    image = next((data / "test" / "img").glob("*.png"))
    assert run_command("predict", run.path, image, "--out", tmp_path / "maps") == 0
