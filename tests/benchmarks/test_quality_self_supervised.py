"""The rows with a pre-trained encoder: what they share with the others, and one tiny real run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from benchmarks.quality import runner
from benchmarks.quality.cells import read_cell
from benchmarks.quality.recipes import SETS, load_recipe
from benchmarks.quality.rows import BY_NAME
from benchmarks.quality.settings import cell_settings
from safetensors.torch import load_file
from tiny_quality import tiny_places

ROW_NAMES = ["self_supervised_labels", "self_supervised"]

SHORT: dict[str, Any] = {
    "craanet": {"epochs": 1},
    "rows": {name: {"pretraining": {"epochs": 1, "batch_size": 4, "crop": 32}} for name in ROW_NAMES},
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
    places = tiny_places(tmp_path, monkeypatch, SHORT, rows=False)
    rows = [BY_NAME[name] for name in ROW_NAMES]
    cells = runner.planned_cells(["synthetic_hard"], ["random"], rows, [0])
    assert runner.run_cells(cells, places, threads=1, say=lambda _: None) == []
    assert all(read_cell(cell.file(places)) is not None for cell in cells)
    trained = sorted((tmp_path / "work").rglob("encoder.safetensors"))
    assert len(trained) == 1 and len(list((tmp_path / "work").rglob("craanet-*/made_with.json"))) == 1
    assert load_file(trained[0])
