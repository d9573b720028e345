"""Which slides are looked at, with which maps."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.viewer.results import make_results, make_slide

from patch2tissue.errors import DataError
from patch2tissue.viewer.scenes import Viewer, find_scenes


def test_results_bring_their_slides_and_further_maps_are_found(tmp_path: Path) -> None:
    slide, other = make_slide(tmp_path / "slides", "a"), make_slide(tmp_path / "slides", "b")
    make_results(tmp_path / "one", slide)
    make_results(tmp_path / "two", slide, seed=1)
    (both,) = find_scenes([tmp_path / "one"], [tmp_path / "two"])
    assert (both.name, both.path, [path.parent.name for path in both.maps]) == ("a", slide, ["one", "two"])
    assert find_scenes([tmp_path / "one", tmp_path / "two"]) == [both]
    plain = find_scenes([tmp_path / "slides"], [tmp_path / "two"])
    assert [(scene.path, len(scene.maps)) for scene in plain] == [(slide, 1), (other, 0)]


def test_a_run_brings_what_it_predicted(tmp_path: Path) -> None:
    run = tmp_path / "run"
    make_results(run / "slides", make_slide(tmp_path / "slides"))
    (run / "config.yaml").write_text("", encoding="utf-8")
    assert [scene.name for scene in find_scenes([run])] == ["a"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "empty" / "config.yaml").write_text("", encoding="utf-8")
    with pytest.raises(DataError, match="has not predicted slides"):
        find_scenes([tmp_path / "empty"])


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
    (only,) = found["maps"]
    assert (only["from"], only["width"], only["scale"]) == ("maps", 400, [2.0, 2.0])
    assert [tissue["area_mm2"] for tissue in only["tissues"]] == [(classes == k).sum() / 1e6 for k in range(4)]
    for number in (-1, 1):
        with pytest.raises(IndexError):
            viewer.describe(number)
    with pytest.raises(IndexError):
        viewer.map(0, 1)
    viewer.close()
