"""Tissue on slides: found by colour, from a user, and shares of it in boxes."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from tests.slides.pictures import ArraySlide, blobs

from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.errors import DataError
from patch2tissue.slides.tissue_mask import (
    TissueMask,
    contour_picture,
    find_tissue,
    full_mask,
    read_tissue_mask,
    tissue_by_colour,
    tissue_mask_for,
)

PINK = (214, 160, 196)


def glass(height: int = 200, width: int = 260) -> np.ndarray:
    noise = np.random.default_rng(0).integers(-3, 4, (height, width, 3))
    return np.clip(244 + noise, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_tissue_of_a_synthetic_slide_is_found(seed: int) -> None:
    whole = WholeSlide(2048, 1536, seed=seed)
    mask = find_tissue(ArraySlide(whole.picture.read(0, 1536)))
    assert mask.scale == (16.0, 16.0) and mask.mask.shape == (96, 128)
    truth = whole.truth.read(0, 1536)[8::16, 8::16] != 255
    both, either = (mask.mask & truth).sum(), (mask.mask | truth).sum()
    assert both / either > 0.93


def test_glass_dust_and_pen_are_no_tissue() -> None:
    image = glass()
    assert not tissue_by_colour(image, 40, 10).any()
    image[50:120, 60:160] = PINK
    tissue = np.zeros(image.shape[:2], bool)
    tissue[50:120, 60:160] = True
    image[5:9, 5:9] = PINK  # dust
    image[150:160, 20:220] = (30, 150, 60)  # a pen's stroke
    image[:, :4] = 0  # a scanner's border
    found = tissue_by_colour(image, 40, 10)
    assert (found != tissue).mean() < 0.01


def test_holes_are_kept_and_gaps_are_closed() -> None:
    image = glass()
    image[40:160, 40:220] = PINK
    image[80:120, 100:150] = 244  # a lumen
    image[60:62, 60:62] = 244  # a gap
    found = tissue_by_colour(image, 40, 40)
    assert not found[90:110, 110:140].any() and found[60:62, 60:62].all()


def test_a_slide_that_is_all_tissue_and_a_tiny_one() -> None:
    pink = np.full((100, 100, 3), PINK, np.uint8) + np.random.default_rng(0).integers(0, 8, (100, 100, 3), np.uint8)
    assert tissue_by_colour(pink, 100, 40).all()
    assert tissue_by_colour(pink[:2, :3], 100, 40).all()


@settings(max_examples=100, deadline=None)
@given(st.floats(-30, 60), st.floats(-30, 60), st.integers(1, 50), st.integers(1, 50), st.sampled_from([1.0, 2.0, 2.5]))
def test_share_of_a_box_is_its_area_of_tissue(left: float, top: float, width: int, height: int, scale: float) -> None:
    pixels = blobs(12, 16, 1, 1.5, seed=3) == 0
    mask = TissueMask(pixels, (scale, 2.0), "test")
    area = 0.0
    for y, x in np.argwhere(pixels):
        across = min(left + width, (x + 1) * scale) - max(left, x * scale)
        down = min(top + height, (y + 1) * 2.0) - max(top, y * 2.0)
        area += max(across, 0) * max(down, 0)
    share = float(mask.share(np.array([left]), np.array([top]), width, height)[0])
    assert share == pytest.approx(area / (width * height), abs=1e-6)


def test_rows_are_the_mask_at_the_middles() -> None:
    pixels = blobs(12, 16, 1, 1.5) == 0
    mask = TissueMask(pixels, (10.0, 10.0), "test")
    np.testing.assert_array_equal(mask.region((0, 24), (0, 32), (5.0, 5.0)), pixels.repeat(2, axis=0).repeat(2, axis=1))
    np.testing.assert_array_equal(mask.region((2, 5), (3, 8), (20.0, 20.0)), pixels[5:10:2, 7::2])


def test_masks_of_a_user(tmp_path: Path) -> None:
    slide = ArraySlide(glass(300, 400))
    drawn = np.zeros((75, 100), np.uint8)
    drawn[10:40, 20:60] = 1
    folder = tmp_path / "masks"
    folder.mkdir()
    Image.fromarray(drawn * 255).save(folder / "array.png")
    box = [[80, 40], [240, 40], [240, 160], [80, 160], [80, 40]]
    geometry = {"type": "Polygon", "coordinates": [box]}
    (tmp_path / "a.geojson").write_text(json.dumps({"type": "Feature", "geometry": geometry, "properties": {}}))
    by_folder, by_file = tissue_mask_for(slide, folder), tissue_mask_for(slide, folder / "array.png")
    by_outline = tissue_mask_for(slide, tmp_path / "a.geojson")
    for mask in (by_folder, by_file, by_outline):
        assert float(mask.share(80, 40, 160, 120)) == pytest.approx(1.0, abs=0.05)
        assert float(mask.share(0, 0, 400, 300)) == pytest.approx(160 * 120 / (400 * 300), rel=0.1)
    assert full_mask(slide).share(0, 0, 400, 300) == 1.0


def test_masks_that_do_not_fit(tmp_path: Path) -> None:
    slide = ArraySlide(glass(300, 400))
    Image.fromarray(np.ones((100, 100), np.uint8)).save(tmp_path / "square.png")
    with pytest.raises(DataError, match=r"square\.png: is 100 × 100 pixels.*400 × 300"):
        read_tissue_mask(tmp_path / "square.png", slide)
    with pytest.raises(DataError, match=r"no mask for array\.png"):
        tissue_mask_for(slide, tmp_path)
    with pytest.raises(DataError, match=r"none\.png"):
        tissue_mask_for(slide, tmp_path / "none.png")


def test_contour_picture_shows_the_edge() -> None:
    image = glass(300, 400)
    image[100:200, 100:300] = PINK
    slide = ArraySlide(image, (8.0, 8.0))
    tissue = find_tissue(slide)
    picture = np.asarray(contour_picture(slide, tissue))
    green = (picture == (0, 140, 60)).all(axis=2)
    assert picture.shape == (300, 400, 3) and green.any()
    assert not green[110:190, 110:290].any() and not green[:90].any(), "only along the edge"
