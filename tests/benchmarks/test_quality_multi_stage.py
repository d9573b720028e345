"""The rows with attention of several encoder stages: what they share with the others, and what they outdate."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.quality import runner
from benchmarks.quality.cells import read_cell
from benchmarks.quality.labels import MEMORIES
from benchmarks.quality.recipes import ENCODERS, SETS, load_recipe, merged
from benchmarks.quality.rows import BY_NAME, ROWS
from benchmarks.quality.settings import cell_settings, same_settings, stage1_settings
from tiny_quality import tiny_places

from patch2tissue.craanet.network import load_craanet

ROW_NAMES = ["multi_stage_labels", "multi_stage_attention"]


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
    places = tiny_places(tmp_path, monkeypatch)
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
