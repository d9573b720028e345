from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from skimage.segmentation import find_boundaries

from patch2tissue.inference import overlay
from patch2tissue.inference.overlay import blend, overlay_picture
from patch2tissue.tissues import load_tissue_set

LUAD = load_tissue_set("luad-histoseg")


def test_inside_a_tissue_colours_are_mixed() -> None:
    image = np.full((20, 20, 3), 100, dtype=np.uint8)
    found = blend(image, np.full((20, 20), 2, dtype=np.uint8), LUAD, opacity=0.4)
    mixed = np.rint(0.6 * 100 + 0.4 * np.array(LUAD.colors[2]))
    assert (found == mixed).all()


@pytest.mark.parametrize("value", [4, 255])
def test_what_is_no_tissue_keeps_the_image(value: int) -> None:
    image = np.random.default_rng(0).integers(0, 256, (30, 30, 3), dtype=np.uint8)
    mask = np.full((30, 30), value, dtype=np.uint8)
    mask[:, 20:] = 1
    found = blend(image, mask, LUAD)
    np.testing.assert_array_equal(found[:, :20], image[:, :20])
    assert (found[:, 20:] != image[:, 20:]).any()


@pytest.mark.parametrize("tissue", range(4))
@pytest.mark.parametrize("beside", [0, 3, 4])
def test_every_tissue_is_outlined_the_first_too(tissue: int, beside: int) -> None:
    if tissue == beside:
        return
    image = np.full((21, 21, 3), 128, dtype=np.uint8)
    mask = np.full((21, 21), beside, dtype=np.uint8)
    mask[5:16, 5:16] = tissue
    found = blend(image, mask, LUAD).astype(int)
    inside, edge = found[10, 10], found[5, 10]
    color = np.array(LUAD.colors[tissue])
    assert np.abs(edge - color).sum() < np.abs(inside - color).sum()


def test_rows_are_worked_on_in_blocks_without_a_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (64, 40, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 3, 4, 255], dtype=np.uint8), (64, 40))
    whole = blend(image, mask, LUAD)
    monkeypatch.setattr(overlay, "_ROWS", 7)
    np.testing.assert_array_equal(blend(image, mask, LUAD), whole)


def test_neither_image_nor_mask_is_changed() -> None:
    image, mask = np.full((8, 8, 3), 9, dtype=np.uint8), np.eye(8, dtype=np.uint8)
    blend(image, mask, LUAD)
    assert (image == 9).all()
    assert (mask == np.eye(8)).all()


@settings(deadline=None, max_examples=20)
@given(height=st.integers(1, 60), width=st.integers(1, 700), value=st.sampled_from([0, 3, 4, 255]))
def test_picture_of_any_size_has_the_blend_on_top_and_a_strip_below(height: int, width: int, value: int) -> None:
    image = np.full((height, width, 3), 200, dtype=np.uint8)
    mask = np.full((height, width), value, dtype=np.uint8)
    picture = overlay_picture(image, mask, LUAD)
    assert picture.mode == "RGB"
    assert picture.width == width
    assert picture.height > height
    np.testing.assert_array_equal(np.asarray(picture)[:height], blend(image, mask, LUAD))


def test_legend_shows_the_tissues_that_occur() -> None:
    image = np.full((100, 400, 3), 200, dtype=np.uint8)
    mask = np.zeros((100, 400), dtype=np.uint8)
    mask[:, 200:] = 3
    legend = np.asarray(overlay_picture(image, mask, LUAD))[100:].reshape(-1, 3)
    shown = {k for k, color in enumerate(LUAD.colors) if (legend == color).all(axis=1).sum() > 20}
    assert shown == {0, 3}


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**32), st.integers(1, 40), st.integers(1, 40), st.floats(0, 1))
def test_the_blend_is_what_its_formula_says(seed: int, height: int, width: int, opacity: float) -> None:
    rng = np.random.default_rng(seed)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    mask = rng.choice(np.array([0, 1, 2, 3, 4, 255], np.uint8), (height, width), p=[0.5, 0.1, 0.1, 0.1, 0.1, 0.1])
    edges = find_boundaries(mask, mode="inner", background=255)
    expected = image.copy()
    for tissue, color in enumerate(np.array(LUAD.colors, np.float32)):
        inside = mask == tissue
        mixed = (1 - opacity) * image[inside] + opacity * color
        mixed[edges[inside]] = 0.25 * mixed[edges[inside]] + 0.75 * color
        expected[inside] = np.clip(np.rint(mixed), 0, 255)
    np.testing.assert_array_equal(blend(image, mask, LUAD, opacity), expected)
