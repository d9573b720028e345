"""Options of `slide predict` that choose where the work runs."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.inference.tiny_run import real_run
from tests.slides.pictures import write_tiled

import patch2tissue.inference.cohort.predict as cohort_module
from patch2tissue.cli.app import main
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions
from patch2tissue.inference.cohort.summary import CohortSlide
from patch2tissue.inference.cohort.work import WorkRecord
from patch2tissue.inference.slides.result import SlideArea, SlideResult


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return real_run(tmp_path_factory.mktemp("slide-predict") / "run", "bcss-wsss")


@pytest.fixture
def slides(tmp_path: Path) -> Path:
    folder = tmp_path / "slides"
    folder.mkdir()
    for number, name in enumerate(("a", "b", "c")):
        pixels = np.random.default_rng(number).integers(0, 256, (64, 70 + number, 3), dtype=np.uint8)
        write_tiled(folder / f"{name}.tif", pixels, (0.25, 0.25))
    return folder


def call(*arguments: object) -> int:
    with pytest.raises(SystemExit) as leaving:
        main(["slide", "predict", *map(str, arguments), "--everywhere"])
    return int(leaving.value.code or 0)


def local(run: Path, slides: Path, out: Path, *more: object) -> int:
    return call(run, slides, "--out", out, "--workers", 0, *more)


def test_parts_share_the_list_and_a_call_without_them_writes_the_tables(
    run: Path, slides: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert local(run, slides, out, "--part", "1/2") == 0
    assert local(run, slides, out, "--part", "2/2") == 0
    maps = sorted(path.name for path in out.glob("*_classes.tif"))
    assert maps == ["a_classes.tif", "b_classes.tif", "c_classes.tif"]
    assert not (out / "areas.csv").exists() and not (out / "summary.md").exists()
    for number in (1, 2):
        assert (out / f"areas_part-{number}-of-2.csv").is_file() and (out / f"summary_part-{number}-of-2.md").is_file()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*_classes.tif")}
    capsys.readouterr()
    assert local(run, slides, out) == 0
    assert capsys.readouterr().err.count("done already") == 3
    assert {path: path.stat().st_mtime_ns for path in before} == before
    lines = (out / "areas.csv").read_text(encoding="utf-8").splitlines()
    parts = [(out / f"areas_part-{number}-of-2.csv").read_text(encoding="utf-8").splitlines() for number in (1, 2)]
    assert sorted(lines[1:]) == sorted([*parts[0][1:], *parts[1][1:]])
    # more parts than slides
    assert local(run, slides, out, "--part", "9/9") == 0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (["--engine", "dask"], "local or ray, or what computes"),
        (["--engine", "ray", "--compute", "fortran"], "--compute is one of"),
        (["--engine", "torch", "--compute", "compile"], "contradict"),
        (["--actor-cpus", "2", "--retries", "0"], "--actor-cpus, --retries: only with --engine ray"),
        (["--engine", "ray", "--part", "1/2"], "without Ray"),
        (["--part", "0/2"], "numbered from 1"),
    ],
)
def test_options_that_contradict(
    run: Path, slides: Path, tmp_path: Path, options: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(run, slides, "--out", tmp_path / "out", *options) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("options", [["--compute", "torch"], ["--engine", "torch"], ["--engine", "local"]])
def test_what_computes_may_be_named_either_way(run: Path, slides: Path, tmp_path: Path, options: list[str]) -> None:
    assert local(run, slides / "a.tif", tmp_path / "out", *options) == 0
    settings = json.loads((tmp_path / "out" / "work" / "a" / "state.json").read_text())["settings"]
    assert settings["inference"]["engine"] == ("auto" if "local" in options else "torch")


def test_without_ray_the_extra_is_named(
    run: Path, slides: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    assert call(run, slides, "--out", tmp_path / "out", "--engine", "ray") == 2
    assert "patch2tissue[cluster]" in " ".join(capsys.readouterr().err.split())


def test_a_cohort_ends_in_a_table_and_the_exit_code_of_one_process(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    asked: dict[str, Any] = {}
    areas = (SlideArea("tumour", 100, 1.0, 1.25),)
    good = SlideResult(Path("good.svs"), "done", files={}, areas=areas, tiles=70, seconds=12.0)
    bad = SlideResult(Path("bad.svs"), "failed", "bad.svs: is empty (0 bytes). Copy it again.")
    found = [CohortSlide(good, WorkRecord(3, ("here:1", "there:2"), 1, 12.0)), CohortSlide(bad)]

    def predicted(*arguments: Any, **settings: Any) -> list[CohortSlide]:
        asked.update(settings)
        return found

    monkeypatch.setattr(cohort_module, "predict_cohort", predicted)
    monkeypatch.setenv("COLUMNS", "120")
    options = ["--engine", "ray", "--compute", "torch", "--address", "auto", "--actors", "2", "--actor-gpus", "0.5"]
    assert call(run, "x.svs", "--out", tmp_path / "out", *options, "--retries", "7") == 2
    assert asked["cluster"] == ClusterOptions("auto", 2, None, 0.5, 7) and asked["engine"] == "torch"
    shown = capsys.readouterr().err
    assert "good.svs" in shown and "1.250" in shown and "1 of 2 slides could not be predicted" in shown
    assert call(run, "x.svs", "--out", tmp_path / "out", *options, "--json") == 2
    assert [item["status"] for item in json.loads(capsys.readouterr().out)] == ["done", "failed"]
    found.pop()
    assert call(run, "x.svs", "--out", tmp_path / "out", *options) == 0
