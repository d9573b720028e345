"""The Python examples of docs/other-tools.md run as they are printed."""

from __future__ import annotations

import importlib.util
from typing import Any

import numpy as np
import pytest
import yaml

from patch2tissue.config_sections import AugmentationConfig, LoggersConfig
from patch2tissue.data.color_pipeline import check_colors, given_augmentation
from test_documentation import ROOT, blocks

EXAMPLES = blocks(ROOT / "docs" / "other-tools.md", "python")


def example(word: str) -> dict[str, Any]:
    """Names that the one example with a word in it leaves behind."""
    (code,) = (block for block in EXAMPLES if word in block)
    names: dict[str, Any] = {}
    exec(code, names)
    return names


def test_recipes() -> None:
    trackers, albumentations, monai = (
        yaml.safe_load(block) for block in blocks(ROOT / "docs" / "other-tools.md", "yaml")
    )
    found = LoggersConfig.model_validate(trackers["loggers"])
    assert found.mlflow is not None and found.wandb is not None and found.wandb.mode == "offline"
    given = albumentations["data"]["augmentation"]
    assert AugmentationConfig.model_validate(given | {"albumentations": {}}).stain
    if importlib.util.find_spec("monai"):
        check_colors(AugmentationConfig.model_validate(monai["data"]["augmentation"]))


def test_metrics() -> None:
    names = example("MetricCollection")
    said = "miou, fwiou, acc, dice, iou_tumour, iou_stroma, boundary_f_2px, boundary_f_5px"
    assert set(names["scores"]) == set(said.split(", "))


def test_augmentation() -> None:
    function = example("grey_now_and_then")["grey_now_and_then"]
    check_colors(given_augmentation(function))
    np.random.seed(0)
    image = np.arange(48, dtype=np.uint8).reshape(4, 4, 3)
    assert any((function(image)[..., 0] == function(image)[..., 2]).all() for _ in range(50))


def test_points(tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    from spatial.written_map import write_map

    write_map(tmp_path)
    example("tissues_of_cells")["tissues_of_cells"](str(tmp_path))
    assert capsys.readouterr().out.strip()


@pytest.mark.extras
def test_tables(trained_runs: Any, tmp_path: Any, capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("pandas")
    import shutil

    from patch2tissue.evaluation.run_scores import score_run
    from patch2tissue.run_folder import RunFolder

    run = RunFolder(tmp_path / "run")
    shutil.copytree(trained_runs[1], run.path)
    score_run(run, progress=False)
    example("best_methods")["best_methods"](str(run.path))
    assert "full_method" in capsys.readouterr().out
