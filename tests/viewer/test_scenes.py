"""Which slides are looked at, with which maps."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from tests.viewer.results import TISSUES, make_results, make_slide

from patch2tissue.errors import DataError
from patch2tissue.inference.predict import predict_images
from patch2tissue.viewer.runs import ViewedRun
from patch2tissue.viewer.scenes import Scene, find_scenes
from patch2tissue.viewer.viewer import Viewer

Runs = tuple[Path, Path, Path]


def test_results_bring_their_slides_and_further_maps_are_found(tmp_path: Path) -> None:
    slide, other = make_slide(tmp_path / "slides", "a"), make_slide(tmp_path / "slides", "b")
    make_results(tmp_path / "one", slide)
    make_results(tmp_path / "two", slide, seed=1)
    (both,) = find_scenes([tmp_path / "one"], [tmp_path / "two"])
    assert (both.name, both.path, [layer.origin for layer in both.layers]) == ("a", slide, ["one", "two"])
    assert find_scenes([tmp_path / "one", tmp_path / "two"]) == [both]
    plain = find_scenes([tmp_path / "slides"], [tmp_path / "two"])
    assert [(scene.path, len(scene.layers)) for scene in plain] == [(slide, 1), (other, 0)]


def kinds(scene: Scene) -> list[tuple[str, str]]:
    return [(source.origin, source.kind) for source in scene.sources()]


def test_a_run_brings_its_patches_and_the_slides_it_predicted(trained_runs: Runs, tmp_path: Path) -> None:
    run = shutil.copytree(trained_runs[1], tmp_path / "mine")
    make_results(run / "slides", make_slide(tmp_path / "slides"))
    scenes = find_scenes([run])
    assert [scene.group for scene in scenes] == ["slide"] + 12 * ["training"] + 4 * ["test"]
    assert kinds(scenes[0]) == [("mine", "map")]
    everything = ["network", "pseudo_label", "attention", "epoch_attention"]
    assert kinds(scenes[1]) == [("mine", kind) for kind in everything]
    assert kinds(scenes[-1]) == [("mine", "network"), ("data", "mask")]
    assert scenes[1].um_per_pixel == 0.25
    # one that is not there any more is no reason not to show the slides
    (run / "config.yaml").write_text(
        (run / "config.yaml").read_text(encoding="utf-8").replace(str(trained_runs[0]), str(tmp_path / "gone")),
        encoding="utf-8",
    )
    shutil.rmtree(run / "pseudo_labels")
    assert [scene.group for scene in find_scenes([run])] == ["slide"]
    shutil.rmtree(run / "slides")
    with pytest.raises(DataError, match="gone"):
        find_scenes([run])


def test_two_runs_share_their_patches(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, two = trained_runs
    known: dict[Path, ViewedRun] = {}
    scenes = find_scenes([one, two], runs=known)
    assert len(scenes) == 16 and {run.name for run in known.values()} == {"one", "two"}
    assert kinds(scenes[0])[0::4] == [("one", "network"), ("two", "network")]
    # of the same name, told apart by the folder
    other = shutil.copytree(one, tmp_path / "one")
    names = {origin for origin, _ in kinds(find_scenes([one, other])[0])}
    assert names == {f"{one.parent.name}/one", f"{tmp_path.name}/one"}
    # the folder itself brings nothing new
    assert len(find_scenes([one, data / "test"])) == 16


def test_before_training_has_ended_there_is_what_there_is(trained_runs: Runs, tmp_path: Path) -> None:
    run = shutil.copytree(trained_runs[1], tmp_path / "mine")
    shutil.rmtree(run / "pfscnet")
    assert kinds(find_scenes([run])[0]) == [("mine", k) for k in ("pseudo_label", "attention", "epoch_attention")]
    (run / "craanet" / "attention_epochs.npy").unlink()
    assert kinds(find_scenes([run])[0]) == [("mine", "pseudo_label"), ("mine", "attention")]
    shutil.rmtree(run / "pseudo_labels")
    assert kinds(find_scenes([run])[0]) == []
    viewer = Viewer(find_scenes([run]))
    assert viewer.describe(0)["layers"] == []
    viewer.close()


def test_images_with_what_predict_wrote(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    out = tmp_path / "out"
    predict_images(one, [data / "test" / "img"], out, progress=False)
    scenes = find_scenes([data / "test"], [out])
    assert [scene.group for scene in scenes] == ["picture"] * 4
    assert kinds(scenes[0]) == [("out", "map"), ("data", "mask")]
    viewer = Viewer(scenes)
    with pytest.raises(DataError, match="--tissues"):
        viewer.describe(0)
    viewer = Viewer(scenes, TISSUES)
    assert [layer["kind"] for layer in viewer.describe(0)["layers"]] == ["map", "mask"]
    viewer.close()


def test_mistakes_are_told(tmp_path: Path) -> None:
    slide = make_slide(tmp_path / "slides")
    with pytest.raises(DataError, match="no such file or folder"):
        find_scenes([tmp_path / "nowhere.svs"])
    with pytest.raises(DataError, match="no such folder of maps"):
        find_scenes([slide], [tmp_path / "nowhere"])
    make_results(tmp_path / "maps", slide)
    slide.unlink()
    viewer = Viewer(find_scenes([tmp_path / "maps"]))
    with pytest.raises(DataError, match=r"a\.tif: there is no such file"):
        viewer.describe(0)
    viewer.close()


def test_description_tells_size_resolution_and_areas(tmp_path: Path) -> None:
    classes = make_results(tmp_path / "maps", make_slide(tmp_path / "slides"))
    viewer = Viewer(find_scenes([tmp_path / "maps"]))
    found = viewer.describe(0)
    assert (found["width"], found["height"], found["um_per_pixel"]) == (800, 600, [0.5, 0.5])
    (only,) = found["layers"]
    assert (only["from"], only["kind"], only["width"], only["scale"]) == ("maps", "map", 400, [2.0, 2.0])
    assert not only["heat"] and not only["epochs"]
    assert [of["area_mm2"] for of in viewer.shares(0, 0, None)] == [(classes == k).sum() / 1e6 for k in range(4)]
    for number in (-1, 1):
        with pytest.raises(IndexError):
            viewer.describe(number)
    with pytest.raises(IndexError):
        viewer.layer(0, 1)
    viewer.close()
