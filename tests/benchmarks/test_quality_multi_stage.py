"""The rows with attention of several encoder stages: what they share with the others, and what they outdate."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmarks.quality import recipes, runner
from benchmarks.quality.cells import apart, read_cell
from benchmarks.quality.labels import MEMORIES
from benchmarks.quality.recipes import ENCODERS, SETS, load_recipe, merged
from benchmarks.quality.rows import BY_NAME, ROWS
from benchmarks.quality.settings import cell_settings, same_settings, stage1_settings

from patch2tissue.craanet.network import load_craanet

ROW_NAMES = ["multi_stage_labels", "multi_stage_attention"]

TINY: dict[str, Any] = {
    "title": "tiny",
    "tissues": "bcss-wsss",
    "train_patches": 8,
    "test_images": 2,
    "data": {"source": {"kind": "synthetic", "train": 8, "val": 0, "test": 2, "size": 32, "seed": 3}},
    "craanet": {"epochs": 2, "batch_size": 4},
    "pseudo_labels": {"scales": [1.0], "symmetries": False},
    "pfscnet": {"epochs": 1, "batch_size": 4, "decoder_channels": 8, "atrous_rates": [1, 2, 3]},
    "hardware": {"threads": 1},
}


def settings(
    name: str, set_name: str = "glas", encoder: str = "pretrained", changes: dict[str, Any] | None = None
) -> dict[str, Any]:
    recipe = load_recipe(set_name, encoder)
    changed = replace(recipe, plain=merged(recipe.plain, changes or {}))
    return cell_settings(changed.config(BY_NAME[name], 0, Path("work")), BY_NAME[name], None, None)


@pytest.mark.parametrize("set_name", SETS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_each_differs_from_the_method_in_nothing_else(set_name: str, encoder: str) -> None:
    for name, base in zip(ROW_NAMES, ("pseudo_labels", "full_method"), strict=True):
        ours, theirs = settings(name, set_name, encoder), settings(base, set_name, encoder)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        assert {key.removeprefix("labels.") for key in differing} == {"craanet.attention_stages"}, name


def test_results_from_before_the_field_stay() -> None:
    for row in ROWS:
        now = settings(row.name, encoder=row.encoders[0] if row.encoders else "pretrained")
        old = {key: value for key, value in now.items() if not key.endswith("attention_stages")}
        assert same_settings(old, now) is (row.name not in ROW_NAMES), row.name


def test_classifiers_without_attention_know_nothing_of_it() -> None:
    several = {"craanet": {"attention_stages": 3}}
    for name in ("cam", "cam_pipeline", "seam", "mlps_labels", "mlps"):
        assert settings(name) == settings(name, changes=several), name
    assert settings("pseudo_labels") != settings("pseudo_labels", changes=several)
    assert settings("full_supervision") != settings("full_supervision", changes=several), "it starts from that encoder"
    config = load_recipe("glas", "pretrained").config(BY_NAME["cam"], 0, Path("work"))
    assert "craanet.attention_stages" not in stage1_settings(config, plain_cam=True)


def test_both_rows_share_one_classifier(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "recipes"
    home.mkdir()
    for name in ("rows.yaml", "encoder-random.yaml"):
        shutil.copy(recipes.FOLDER / name, home)
    (home / "synthetic_hard.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    monkeypatch.setattr(recipes, "FOLDER", home)
    places = apart(tmp_path / "work")
    cells = runner.planned_cells(["synthetic_hard"], ["random"], [BY_NAME[name] for name in ROW_NAMES], [0])
    assert runner.run_cells(cells, places, threads=1, say=lambda _: None) == []
    results = [read_cell(cell.file(places)) for cell in cells]
    assert all(result is not None and 0 <= result["scores"]["miou"] <= 1 for result in results)
    classifiers = list(places.work.rglob("craanet-*/network.json"))
    assert len(classifiers) == 1, "pseudo labels and networks come from the same"
    network = load_craanet(classifiers[0].parent)
    assert len(network.earlier_heads) == 1 and network.attention_stride == 8
    for folder in ("attention_memory", *MEMORIES.values()):
        assert np.load(classifiers[0].parent / folder / "maps.npy").shape == (8, 4, 4, 4)
