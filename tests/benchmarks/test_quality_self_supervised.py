"""The rows with a pre-trained encoder: what they share with the others, and one tiny real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.quality import recipes, runner
from benchmarks.quality.cells import apart, read_cell
from benchmarks.quality.recipes import SETS, load_recipe
from benchmarks.quality.rows import BY_NAME
from benchmarks.quality.settings import cell_settings
from safetensors.torch import load_file

ROW_NAMES = ["self_supervised_labels", "self_supervised"]

TINY: dict[str, Any] = {
    "title": "tiny",
    "tissues": "bcss-wsss",
    "train_patches": 8,
    "test_images": 2,
    "data": {"source": {"kind": "synthetic", "train": 8, "val": 0, "test": 2, "size": 32, "seed": 3}},
    "craanet": {"epochs": 1, "batch_size": 4},
    "pseudo_labels": {"scales": [1.0], "symmetries": False},
    "pfscnet": {"epochs": 1, "batch_size": 4, "decoder_channels": 8, "atrous_rates": [1, 2, 3]},
    "rows": {name: {"pretraining": {"epochs": 1, "batch_size": 4, "crop": 32}} for name in ROW_NAMES},
    "hardware": {"threads": 1},
}


@pytest.mark.parametrize("set_name", SETS)
def test_each_differs_from_the_method_in_its_start_alone(set_name: str) -> None:
    recipe = load_recipe(set_name, "random")

    def settings(name: str) -> dict[str, Any]:
        return cell_settings(recipe.config(BY_NAME[name], 0, Path("work")), BY_NAME[name], None, None)

    for name, base in zip(ROW_NAMES, ("pseudo_labels", "full_method"), strict=True):
        ours, theirs = settings(name), settings(base)
        differing = {key for key in ours.keys() | theirs.keys() if ours.get(key) != theirs.get(key)}
        assert differing and all("pretraining" in key for key in differing)


def test_both_rows_start_from_one_pretraining(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "synthetic_hard.yaml").write_text(yaml.safe_dump(TINY))
    for file in recipes.FOLDER.glob("encoder-*.yaml"):
        (folder / file.name).write_text(file.read_text())
    (folder / "rows.yaml").write_text("{}")
    monkeypatch.setattr(recipes, "FOLDER", folder)
    places = apart(tmp_path / "work")
    rows = [BY_NAME[name] for name in ROW_NAMES]
    cells = runner.planned_cells(["synthetic_hard"], ["random"], rows, [0])
    assert runner.run_cells(cells, places, threads=1, say=lambda _: None) == []
    assert all(read_cell(cell.file(places)) is not None for cell in cells)
    trained = sorted((tmp_path / "work").rglob("encoder.safetensors"))
    assert len(trained) == 1 and len(list((tmp_path / "work").rglob("craanet-*/made_with.json"))) == 1
    assert load_file(trained[0])
