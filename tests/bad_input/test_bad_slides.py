"""Broken and lying slides and maps, given to each command that reads some."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.bad_input.bad_slides import MAPS, SLIDES
from tests.bad_input.bad_texts import SQUARE, feature
from tests.bad_input.faults import Commands, Fault, unchanged
from tests.slides.pictures import picture, write_tiled
from tests.viewer.results import make_results

from patch2tissue.errors import DataError
from patch2tissue.viewer.layers import Look
from patch2tissue.viewer.scenes import find_scenes
from patch2tissue.viewer.slide_layers import MapLayer

SET = ("--tissues", "bcss-wsss")


@pytest.mark.parametrize("fault", SLIDES, ids=str)
def test_slides(commands: Commands, tmp_path: Path, fault: Fault) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tiled(folder / "good.tif", picture())
    fault.make(folder / fault.file)
    cut = ("slide", "tiles", folder, "--out", tmp_path / "tiles", "--size", 64, "--everywhere")
    with unchanged(folder):
        if fault.accepted:
            said = commands.accepts(*cut).said
            assert said.count(": 35 tiles") == 2 and all(words in said for words in fault.says)
        else:
            assert "1 of 2 slides could not be cut" in commands.refuses(fault, folder / fault.file, *cut).said
    # the other slide is done
    assert list((tmp_path / "tiles" / "train").glob("good_*.png"))


def test_predict_does_the_others(commands: Commands, whole_run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "slides"
    folder.mkdir()
    write_tiled(folder / "good.tif", picture())
    refused = {}
    for number, fault in enumerate(fault for fault in SLIDES if not fault.accepted):
        path = folder / fault.file.replace("s.", f"s{number}.", 1)
        fault.make(path)
        refused[path] = fault
    out = tmp_path / "maps"
    with unchanged(folder, whole_run):
        outcome = commands("slide", "predict", whole_run, folder, "--out", out, "--model-mpp", "2", "--workers", "0")
    assert outcome.code == 2
    assert f"{len(refused)} of {len(refused) + 1} slides could not be predicted" in outcome.said
    for path, fault in refused.items():
        assert all(words in outcome.said for words in (path.name, *fault.says)), fault.name
    assert (out / "good_classes.tif").is_file() and (out / "good.geojson").is_file()
    assert "good.tif | done" in (out / "summary.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("fault", MAPS, ids=str)
def test_maps(commands: Commands, tmp_path: Path, fault: Fault) -> None:
    slide = write_tiled(tmp_path / "a.tif", picture())
    folder = tmp_path / "maps"
    make_results(folder, slide, 150, 210)
    path = folder / fault.file
    path.unlink()
    fault.make(path)
    truth = tmp_path / "truth.geojson"
    truth.write_text(json.dumps(feature([SQUARE])), encoding="utf-8")
    with unchanged(folder):
        commands.refuses(fault, path, "slide", "evaluate", path, truth, *SET)
        if fault.name != "of another tissue set":  # which can be looked at
            with pytest.raises(DataError, match=fault.file):
                layer = MapLayer(path)
                for row in range(3):
                    layer.tile(8, 0, row, Look())


RESULTS = {
    "work/a/state.json": ("[]", "[" * 100_000, '{"result": {"slide": 3}}', '{"result": {"slide": "a\\u0000.tif"}}'),
    "a_areas.json": ("[]", "[" * 100_000, '{"tissues": {"tumour": {"share": NaN}}}', "\0"),
}


@pytest.mark.parametrize("file", sorted(RESULTS))
def test_results_that_a_viewer_finds(tmp_path: Path, file: str) -> None:
    folder = tmp_path / "maps"
    make_results(folder, write_tiled(tmp_path / "a.tif", picture()), 150, 210)
    for text in (*RESULTS[file], json.dumps({"result": {"slide": "x" * 5000}})):
        (folder / file).write_text(text, encoding="utf-8")
        if file.endswith("areas.json"):
            assert MapLayer(folder / "a_classes.tif").shares(None) == []
        else:
            with pytest.raises(DataError, match="nothing to look at"):
                find_scenes([folder])
