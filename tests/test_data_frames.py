"""Results as pandas tables: what the files say, in columns and types that do not depend on it."""

from __future__ import annotations

import csv
import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from patch2tissue import data_frames
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.run_folder import RunFolder


@pytest.fixture(scope="module")
def scored(
    trained_runs: tuple[Path, Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[RunFolder, RunFolder]:
    folder = tmp_path_factory.mktemp("scored")
    one, two = (Path(shutil.copytree(run, folder / run.name)) for run in trained_runs[1:])
    runs = RunFolder(one), RunFolder(two)
    for run in runs:
        score_run(run, progress=False)
    return runs


def test_without_pandas_it_is_said_what_to_install(
    trained_runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "pandas", None)  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"needs the package pandas.*patch2tissue\[tables\]"):
        data_frames.curves_table(trained_runs[1])


def types(frame: Any) -> dict[str, str]:
    return {name: str(dtype) for name, dtype in frame.dtypes.items()}


@pytest.mark.extras
def test_scores_are_those_of_the_runs(scored: tuple[RunFolder, RunFolder]) -> None:
    pytest.importorskip("pandas")
    frame = data_frames.scores_table(*scored)
    assert types(frame) == {
        **{"run": "string", "seed": "Int64", "part": "string", "method": "string"},
        **dict.fromkeys(data_frames.SCORES, "float64"),
    }
    for run, seed in zip(scored, (0, 1), strict=True):
        of_run = frame[frame["run"] == run.path.name]
        assert (of_run["seed"] == seed).all()
        plain = json.loads(run.scores_file.read_text(encoding="utf-8"))
        methods = [(part, method) for part in ("pseudo_labels", "test") for method in plain.get(part, {})]
        assert list(zip(of_run["part"], of_run["method"], strict=True)) == methods
        for row in of_run.itertuples():
            wanted = plain[row.part][row.method]
            assert row.miou == wanted["miou"] and [row.ci95_low, row.ci95_high] == wanted["ci95"]
    tissues = data_frames.tissue_scores_table(*scored)
    assert types(tissues)["iou"] == "float64" and set(tissues["tissue"]) == set(scored[0].config().tissue_set().names)
    means = tissues.groupby(["run", "part", "method"])["iou"].mean()
    for row in frame.itertuples():
        assert means[row.run, row.part, row.method] == pytest.approx(row.miou)
    images = data_frames.image_scores_table(scored[0])
    assert types(images)["miou"] == "float64" and len(images) == 4 and images["image"].is_unique


@pytest.mark.extras
def test_curves_are_those_of_the_metrics(scored: tuple[RunFolder, RunFolder]) -> None:
    pytest.importorskip("pandas")
    frame = data_frames.curves_table(str(scored[0].path))
    text = {"run": "string", "stage": "string", "name": "string"}
    assert types(frame) == text | {"epoch": "Int64", "value": "float64"}
    rows = list(csv.DictReader(scored[0].metrics_file.open(encoding="utf-8")))
    assert [float(row["value"]) for row in rows] == frame["value"].tolist()
    wide = frame.pivot(index=["stage", "epoch"], columns="name", values="value")
    assert wide.loc[("craanet", 3), "loss"] < wide.loc[("craanet", 1), "loss"] * 2


@pytest.mark.extras
def test_comparisons_are_those_of_the_command(scored: tuple[RunFolder, RunFolder]) -> None:
    pytest.importorskip("pandas")
    frame = data_frames.comparison_table(*scored)
    scores = data_frames.scores_table(*scored)
    assert types(frame)["seeds"] == "Int64" and set(frame["seeds"]) == {1}  # their epochs differ
    assert frame["spread"].isna().all()
    assert sorted(frame["miou"]) == pytest.approx(sorted(scores["miou"]))


@pytest.mark.extras
def test_areas_of_images_and_slides(tmp_path: Path) -> None:
    pytest.importorskip("pandas")
    from patch2tissue.inference.areas import TissueArea, write_areas
    from patch2tissue.inference.slides.result import SlideArea, SlideResult, write_areas_json, write_slide_areas

    write_areas(
        tmp_path / "areas.csv",
        [("a.png", TissueArea("tumour", 3, 0.75, None)), ("NA", TissueArea("stroma", 1, 0.25, 2.0))],
    )
    frame = data_frames.areas_table(tmp_path)
    assert frame["image"].tolist() == ["a.png", "NA"] and frame["area_um2"].isna().tolist() == [True, False]
    assert types(frame)["pixels"] == "Int64" and frame["share"].tolist() == [0.75, 0.25]

    result = SlideResult(
        Path("s.svs"),
        "done",
        areas=(SlideArea("tumour", 4, 1.0, 2.5, None, None),),
        size=(8, 6),
        um_per_pixel=(0.5, 0.25),
    )
    write_slide_areas(tmp_path / "slides.csv", [result])
    frame = data_frames.areas_table(tmp_path / "slides.csv")
    assert frame["slide"].tolist() == ["s.svs"] and frame["pieces"].isna().all() and types(frame)["pieces"] == "Int64"
    write_areas_json(tmp_path / "s_areas.json", result)
    (slide,) = data_frames.slides_table(tmp_path).to_dict("records")
    assert slide["um_per_pixel_y"] == 0.25 and slide["tumour_mm2"] == slide["tissue_mm2"] == 2.5
    (tmp_path / "s_areas.json").write_text("{}", encoding="utf-8")
    with pytest.raises(DataError, match=r"s_areas\.json: is damaged"):
        data_frames.slides_table(tmp_path)
    (tmp_path / "areas.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataError, match="no table of areas"):
        data_frames.areas_table(tmp_path)
    with pytest.raises(DataError, match="cannot be read"):
        data_frames.areas_table(tmp_path / "nowhere")
