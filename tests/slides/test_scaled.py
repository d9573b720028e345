from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.slides.pictures import ArraySlide, picture, write_tiled

from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.scaled import ScaledSlide


def test_whole_factors_are_means_of_pixels() -> None:
    image = picture(120, 160)
    view = ScaledSlide(ArraySlide(image), 1.0)
    assert view.scale == (2.0, 2.0) and view.size == (80, 60) and view.um_per_pixel == (1.0, 1.0)
    expected = image.reshape(60, 2, 80, 2, 3).mean(axis=(1, 3))
    assert np.abs(view.thumbnail() - expected).max() <= 0.5


def test_resolutions_within_two_percent_are_not_resampled() -> None:
    view = ScaledSlide(ArraySlide(picture(100, 100), (0.2525, 0.2525)), 0.5)
    assert view.scale == (2.0, 2.0)
    assert view.um_per_pixel == pytest.approx((0.505, 0.505))
    assert ScaledSlide(ArraySlide(picture(100, 100), (0.24, 0.24)), 0.5).scale[0] == pytest.approx(0.5 / 0.24)


def test_pixels_that_are_not_square_become_square() -> None:
    view = ScaledSlide(ArraySlide(picture(100, 200), (0.25, 0.5)), 0.5)
    assert view.scale == (2.0, 1.0) and view.size == (100, 100)
    assert view.read(0, 0, 50, 60).shape == (60, 50, 3)


@settings(max_examples=60, deadline=None)
@given(
    um=st.floats(0.3, 3.0),
    left=st.integers(-5, 60),
    top=st.integers(-5, 40),
    width=st.integers(1, 40),
    height=st.integers(1, 40),
)
def test_a_pixel_does_not_depend_on_the_region_in_which_it_is_read(
    um: float, left: int, top: int, width: int, height: int
) -> None:
    view = ScaledSlide(ArraySlide(picture(90, 130, seed=3)), um)
    region = view.read(left, top, width, height)
    larger = view.read(left - 7, top - 3, width + 11, height + 9)
    difference = region.astype(int) - larger[3 : 3 + height, 7 : 7 + width]
    assert np.abs(difference).max() <= 2  # each of resampling's two passes rounds


def test_finest_level_that_is_fine_enough_is_read(tmp_path: Path) -> None:
    with open_slide(write_tiled(tmp_path / "a.tif", picture(400, 600))) as slide:
        assert [ScaledSlide(slide, um).level for um in (0.25, 0.5, 0.99, 1.0, 4.0)] == [0, 0, 1, 1, 1]
        # both levels of this file are the same picture
        np.testing.assert_array_equal(ScaledSlide(slide, 1.0).thumbnail(), picture(400, 600)[::2, ::2])


def test_thumbnail_in_strips_is_the_whole_picture() -> None:
    image = picture(5000, 3800)
    view = ScaledSlide(ArraySlide(image), 0.7)
    whole = view.thumbnail()
    np.testing.assert_array_equal(whole, view.read(0, 0, *view.size))
