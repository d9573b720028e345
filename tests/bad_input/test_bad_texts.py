"""Broken and strange names, tables, recipes, tissue sets and annotations, given to each command that reads some."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.bad_input.bad_images import encoded
from tests.bad_input.bad_texts import LISTS, NAMES, RECIPES, SETS, SHAPES, TABLES
from tests.bad_input.faults import Commands, Fault, unchanged
from tests.slides.pictures import picture, write_tiled
from tests.viewer.results import make_results

from patch2tissue.config import load_config
from patch2tissue.labelling.store import DATABASE
from patch2tissue.slides import geojson
from patch2tissue.slides.opening import find_slides
from patch2tissue.training_data import training_patches

SET = ("--tissues", "bcss-wsss")


@pytest.mark.parametrize("fault", NAMES, ids=str)
def test_names(commands: Commands, data: Path, recipe: Path, fault: Fault) -> None:
    path = data / "train" / fault.file
    path.write_bytes(encoded("PNG"))
    with unchanged(data):
        if fault.accepted:
            commands.accepts("check", data, *SET)
            found = {patch.path: patch.labels for patch in training_patches(load_config(recipe))}
            assert found[path] == (1, 0, 0, 1) and len(found) == 5
        else:
            assert f"error train/{fault.file}: " in commands.refuses(fault, path, "check", data, *SET).said
            commands.refuses(fault, path, "train", recipe)
    assert not (recipe.parent / "run" / "craanet").exists()
    if fault.accepted:
        commands.accepts("labels", "import", data, *SET)
        commands.accepts("labels", "export", data, *SET)
        found = {patch.path: patch.labels for patch in training_patches(load_config(recipe))}
        assert found[path] == (1, 0, 0, 1) and len(found) == 5


@pytest.mark.parametrize("fault", TABLES, ids=str)
def test_tables_of_labels(commands: Commands, data: Path, recipe: Path, fault: Fault) -> None:
    path = data / "labels.csv"
    fault.make(path)
    with unchanged(data):
        if fault.accepted:
            commands.accepts("check", data, *SET)
            found = training_patches(load_config(recipe))
            assert [patch.labels for patch in found] == [tuple(int(k == t) for t in range(4)) for k in range(4)]
        else:
            commands.refuses(fault, path, "check", data, *SET)
            commands.refuses(fault, path, "train", recipe)
    assert not (recipe.parent / "run" / "craanet").exists()
    if "there is no such file" in fault.says:
        return  # the labels of the other files can be taken over
    if fault.accepted:
        assert commands.accepts("labels", "import", data, *SET, "--table", path).said.startswith("4 labels taken over")
    else:
        commands.refuses(fault, path, "labels", "import", data, *SET, "--table", path)
        assert "0 of 4" in commands("labels", "status", data, *SET).said


@pytest.mark.parametrize("fault", RECIPES, ids=str)
def test_recipes(commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, data: Path, fault: Fault) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / fault.file
    fault.make(path)
    outcome = commands("train", path)
    assert outcome.code == 2 and all(words in outcome.said for words in fault.says), outcome.said
    assert path.name in outcome.said or "timm" in outcome.said or "tissue set" in outcome.said
    assert not (tmp_path / "canary").exists()
    assert not (tmp_path / "new" / "craanet").exists()
    if "timm" in outcome.said:
        return  # known only when the network is built
    run = tmp_path / "run"
    run.mkdir()
    fault.make(run / "config.yaml")
    with unchanged(run):
        outcome = commands("report", run)
        assert outcome.code == 2 and all(words in outcome.said for words in fault.says), outcome.said


def test_every_command_refuses_a_broken_configuration_of_a_run(
    commands: Commands, tmp_path: Path, data: Path, run_copy: Path
) -> None:
    (run_copy / "config.yaml").write_text("output: [\n")
    fault = Fault("recipes", "broken", "config.yaml", lambda path: None, ("is not readable as YAML",))
    with unchanged(run_copy, data):
        for arguments in (
            ("predict", run_copy, data / "test", "--out", tmp_path / "out"),
            ("slide", "predict", run_copy, data / "test" / "img" / "t0.png", "--out", tmp_path / "out"),
            ("pseudo-labels", run_copy),
            ("score", run_copy),
            ("compare", run_copy),
            ("report", run_copy),
            ("view", run_copy, "--no-browser"),
        ):
            commands.refuses(fault, run_copy / "config.yaml", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("fault", SETS, ids=str)
def test_tissue_sets(commands: Commands, data: Path, tmp_path: Path, fault: Fault) -> None:
    path = tmp_path / fault.file
    fault.make(path)
    with unchanged(data):
        commands.refuses(fault, path, "check", data, "--tissues", path)
        commands.refuses(fault, path, "labels", "import", data, "--tissues", path)
        commands.refuses(fault, path, "label", data, "--tissues", path, "--no-browser")
    assert not (data / DATABASE).exists()


def test_every_command_refuses_a_broken_tissue_set(commands: Commands, data: Path, tmp_path: Path) -> None:
    path = tmp_path / SETS[0].file
    SETS[0].make(path)
    with unchanged(data):
        for arguments in (
            ("patches", data, "--out", tmp_path / "out"),
            ("evaluate", data / "test", data / "test" / "mask"),
            ("slide", "evaluate", data / "test", data / "test" / "mask"),
            ("labels", "status", data),
            ("labels", "export", data),
            ("view", data / "test", "--no-browser"),
        ):
            commands.refuses(SETS[0], path, *arguments, "--tissues", path)
    assert not (tmp_path / "out").exists()


@pytest.fixture
def slide(tmp_path: Path) -> Path:
    """A slide of 420 × 300 pixels."""
    (tmp_path / "slides").mkdir()
    return write_tiled(tmp_path / "slides" / "a.tif", picture())


@pytest.mark.parametrize("fault", SHAPES, ids=str)
def test_annotations(
    commands: Commands, tmp_path: Path, slide: Path, monkeypatch: pytest.MonkeyPatch, fault: Fault
) -> None:
    monkeypatch.setattr(geojson, "LARGEST_TEXT", 2**22)
    make_results(tmp_path / "maps", slide, 150, 210)
    path = tmp_path / fault.file
    fault.make(path)
    cut = ("slide", "tiles", slide, "--out", tmp_path / "tiles", "--size", 32, "--tile-mpp", "0.5")
    with unchanged(tmp_path / "maps", tmp_path / "slides"):
        judge = ("slide", "evaluate", tmp_path / "maps" / "a_classes.tif", path, *SET)
        if fault.accepted:
            commands.accepts(*judge)
            commands.accepts(*cut, "--tissue-mask", path, "--tissue-share", "0.1")
            assert list((tmp_path / "tiles" / "train").iterdir())
        else:
            commands.refuses(fault, path, *judge)
            commands.refuses(fault, path, *cut, "--tissue-mask", path)
            assert not (tmp_path / "tiles" / "train").exists()


@pytest.mark.parametrize("fault", LISTS, ids=str)
def test_lists_of_slides(commands: Commands, whole_run: Path, tmp_path: Path, slide: Path, fault: Fault) -> None:
    path = slide.parent / fault.file
    fault.make(path)
    with unchanged(slide.parent):
        if fault.accepted:
            assert [file.path for file in find_slides([path])] == [slide]
            commands.accepts("slide", "tiles", path, "--out", tmp_path / "tiles", "--everywhere", "--size", 64)
            return
        named = path if fault.says[0] not in ("x.svs", "has the same name") else Path(fault.says[0])
        commands.refuses(fault, named, "slide", "tiles", path, "--out", tmp_path / "tiles")
        commands.refuses(fault, named, "slide", "predict", whole_run, path, "--out", tmp_path / "maps")
    assert not list(tmp_path.glob("tiles/train/*"))
    assert not list(tmp_path.glob("maps/*_classes.tif"))
