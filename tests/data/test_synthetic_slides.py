"""Synthetic whole slides: the same every time, the same in any strips, and files that slide programs open."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import openslide
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.data.synthetic.slide_files import write_synthetic_slide
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.slides.geojson import read_geojson, validate_qupath
from patch2tissue.slides.map_file import MapFile
from patch2tissue.slides.opening import find_slides, open_slide
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["bcss-wsss"]


@pytest.fixture(scope="module")
def small() -> tuple[WholeSlide, np.ndarray, np.ndarray]:
    whole = WholeSlide(700, 500, seed=3)
    return whole, whole.picture.read(0, 500), whole.truth.read(0, 500)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 499), st.integers(1, 300))
def test_rows_do_not_depend_on_the_strip(
    small: tuple[WholeSlide, np.ndarray, np.ndarray], top: int, height: int
) -> None:
    whole, picture, truth = small
    bottom = min(500, top + height)
    np.testing.assert_array_equal(whole.picture.read(top, bottom), picture[top:bottom])
    np.testing.assert_array_equal(whole.truth.read(top, bottom), truth[top:bottom])


def test_a_slide_has_tissue_and_glass() -> None:
    whole = WholeSlide(3000, 2500, seed=0)
    picture, truth = whole.picture.read(0, 2500), whole.truth.read(0, 2500)
    assert set(np.unique(truth)) == {0, 1, 2, 3, 255}
    shares = np.bincount(truth.ravel(), minlength=256) / truth.size
    assert (shares[:4] > 0.005).all() and 0.1 < shares[255] < 0.8
    assert (picture[truth == 255].min(axis=1) > 220).mean() > 0.99, "glass is bright, but for the tissue's soft edge"
    assert picture[truth < 4].mean() < 210, "tissue is not"
    redness = [picture[truth == tissue][:, 0].mean() for tissue in range(4)]
    assert TISSUES.names[int(np.argmin(redness))] == "lymphocytic infiltrate", "full of nuclei"


@pytest.mark.parametrize("name", ["a.tif", "a.svs"])
def test_files_open_and_agree(tmp_path: Path, name: str) -> None:
    files = write_synthetic_slide(tmp_path / name, 1300, 1100, seed=2)
    whole = WholeSlide(1300, 1100, seed=2)
    truth = whole.truth.read(0, 1100)
    with openslide.OpenSlide(str(files.slide)) as opened:
        assert opened.dimensions == (1300, 1100) and opened.level_count == 2
        assert opened.properties["openslide.vendor"] == ("aperio" if name == "a.svs" else "generic-tiff")
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-3)
        found = np.asarray(opened.read_region((0, 0), 0, (1300, 1100)).convert("RGB")).astype(int)
    assert np.abs(found - whole.picture.read(0, 1100)).mean() < 4, "JPEG"
    with MapFile(files.truth, TISSUES) as opened_map:
        np.testing.assert_array_equal(opened_map.read(0, 1100), truth)
    told = json.loads(files.description.read_text(encoding="utf-8"))
    assert told["synthetic"] is True and told["seed"] == 2
    counts = np.bincount(truth.ravel(), minlength=4)
    assert [told["tissues"][tissue]["pixels"] for tissue in TISSUES.names] == counts[:4].tolist()
    assert validate_qupath(files.truth_geojson) == []
    areas = dict.fromkeys(TISSUES.names, 0.0)
    for tissue, shape in read_geojson(files.truth_geojson):
        areas[str(tissue)] += shape.area
    assert list(areas.values()) == counts[:4].tolist(), "along the pixels' edges"
    # a folder of them holds one slide each
    assert [slide.path.name for slide in find_slides([tmp_path])] == [name]


def test_same_arguments_same_bytes(tmp_path: Path) -> None:
    both = [write_synthetic_slide(tmp_path / folder / "a.tif", 300, 260, seed=5) for folder in "xy"]
    other = write_synthetic_slide(tmp_path / "z" / "a.tif", 300, 260, seed=6)
    for kind in ("slide", "truth", "truth_geojson", "description"):
        first, second = (getattr(files, kind).read_bytes() for files in both)
        assert first == second != getattr(other, kind).read_bytes()


def test_another_resolution_shows_the_same_kind_of_tissue(tmp_path: Path) -> None:
    files = write_synthetic_slide(tmp_path / "a.tif", 600, 500, um_per_pixel=0.25)
    with open_slide(files.slide) as slide:
        assert slide.resolution is not None and slide.resolution.x == pytest.approx(0.25, rel=1e-3)


def test_what_makes_no_sense(tmp_path: Path) -> None:
    for arguments in ({"width": 10}, {"height": 300_000}, {"um_per_pixel": 9.0}, {"difficulty": "absurd"}):
        with pytest.raises(ConfigError):
            write_synthetic_slide(tmp_path / "a.tif", **{"width": 200, "height": 200, **arguments})  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match=r"a\.png"):
        write_synthetic_slide(tmp_path / "a.png", 200, 200)
    (tmp_path / "file").write_text("x")
    with pytest.raises(DataError, match="cannot be written"):
        write_synthetic_slide(tmp_path / "file" / "a.tif", 200, 200)
    assert [file.name for file in tmp_path.iterdir()] == ["file"]


def test_demo_slide_says_what_to_do_next(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "my slide.tif"
    assert run_command("demo", "--slide", path, "--slide-size", "400x300", "--slide-seed", 4) == 0
    told = capsys.readouterr().err
    assert "slide predict" in told and f"'{path}'" in told and "slide evaluate" in told
    with openslide.OpenSlide(str(path)) as opened:
        assert opened.dimensions == (400, 300)
    for size in ("400", "400x", "axb", "-3x5", "10x10"):
        assert run_command("demo", "--slide", tmp_path / "b.tif", "--slide-size", size) == 2
    assert run_command("demo", "--slide", tmp_path / "b.tif", "--fresh") == 2
    assert not (tmp_path / "b.tif").exists()
