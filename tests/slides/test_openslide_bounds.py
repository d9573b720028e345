"""Slides of which only a part was scanned (MRXS): coordinates count from the scanned area, as in QuPath."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import openslide
import pytest
from tests.slides.pictures import picture, write_tiled

from patch2tissue.errors import DataError
from patch2tissue.slides.cut_tiles import TileSettings, cut_tiles
from patch2tissue.slides.opening import SlideFile, open_slide

BOUNDS = {"x": 40, "y": 20, "width": 300, "height": 200}


@pytest.fixture
def scanned_part(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """Make OpenSlide say that only a part was scanned; no format that does can be written here."""
    bounds = dict(BOUNDS)

    class Bounded(openslide.OpenSlide):
        @property
        def properties(self) -> Mapping[str, str]:
            told = {f"openslide.bounds-{name}": str(value) for name, value in bounds.items()}
            return {**super().properties, **told}

    monkeypatch.setattr(openslide, "OpenSlide", Bounded)
    return bounds


def test_pixels_are_counted_from_the_scanned_area(tmp_path: Path, scanned_part: dict[str, int]) -> None:
    image = picture(300, 420)
    with open_slide(write_tiled(tmp_path / "a.tif", image)) as slide:
        assert slide.size == (300, 200) and slide.origin == (40, 20) and slide.levels[1] == (150, 100)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 300, 200), image[20:220, 40:340])
        np.testing.assert_array_equal(slide.read(1, 0, 0, 150, 100), image[::2, ::2][10:110, 20:170])
        # what lies outside is not shown, although the file has pixels there
        assert (slide.read(0, -10, 0, 10, 50) == 255).all() and (slide.read(0, 300, 0, 10, 50) == 255).all()


def test_names_of_tiles_carry_the_files_own_coordinates(tmp_path: Path, scanned_part: dict[str, int]) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(300, 420))
    cut_tiles([SlideFile(path)], tmp_path / "out", TileSettings(size=100, stride=100, tissue="everywhere"))
    names = sorted(file.name for file in (tmp_path / "out" / "train").iterdir())
    assert names[0] == "a_x000040_y000020_mpp0.5.png" and len(names) == 6


def test_a_scanned_area_outside_the_picture_is_damage(tmp_path: Path, scanned_part: dict[str, int]) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(300, 420))
    scanned_part["x"] = 5000
    with pytest.raises(DataError, match=r"a\.tif: states a scanned area outside its picture"):
        open_slide(path)


def test_outlines_start_at_the_scanned_area(
    tmp_path: Path, scanned_part: dict[str, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    import patch2tissue.inference.predictor as predictor_module
    from inference.tiny_run import COLOURS, ColourNetwork, real_run
    from patch2tissue.inference.slides.predict import SlideOptions, predict_slide

    run = real_run(tmp_path / "run", "bcss-wsss")
    monkeypatch.setattr(predictor_module, "load_pfscnet", lambda *arguments: ColourNetwork())
    classes = np.zeros((300, 420), np.uint8)
    classes[120:160, 140:200] = 1  # (100, 100) to (160, 140) of the scanned area
    path = write_tiled(tmp_path / "a.tif", COLOURS[classes], (0.25, 0.25))
    options = SlideOptions(tissue="everywhere", workers=0)
    result = predict_slide(run, path, tmp_path / "out", options=options, progress=False)
    assert result.size == (300, 200) and result.files is not None
    features = json.loads(result.files["geojson"].read_text(encoding="utf-8"))["features"]
    (stroma,) = [feature for feature in features if feature["properties"]["classification"]["name"] == "stroma"]
    corners = np.array(stroma["geometry"]["coordinates"][0])
    assert corners.min(axis=0).tolist() == [100, 100] and corners.max(axis=0).tolist() == [160, 140]
