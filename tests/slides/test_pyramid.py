"""Pyramids: every level against a slow reference, the right resolution, and nothing left by an interruption."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import openslide
import pytest
import tifffile
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from tests.slides.pictures import blobs, picture

from patch2tissue.slides import pyramid
from patch2tissue.slides.map_file import MapFile
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.pyramid import (
    level_shapes,
    majority,
    mean,
    mean_of_known,
    write_classes_tiff,
    write_confidence_tiff,
    write_picture_tiff,
    write_probability_tiff,
)
from patch2tissue.slides.rows import ArrayRows, RowFile
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["bcss-wsss"]
rasters = st.tuples(st.integers(1, 9), st.integers(1, 9)).flatmap(
    lambda shape: arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 3, 255]))
)


def slow_majority(a: int, b: int, c: int, d: int) -> int:
    counts = Counter([a, b, c, d])
    most = max(counts.values())
    tied = [value for value in (a, b, c, d) if counts[value] == most]
    with_tissue = [value for value in tied if value != 255]
    return with_tissue[0] if with_tissue else tied[0]


@settings(max_examples=300, deadline=None)
@given(rasters)
def test_majority_pixel_by_pixel(classes: np.ndarray) -> None:
    found = majority(classes)
    height, width = classes.shape
    assert found.shape == (-(-height // 2), -(-width // 2))
    for y in range(found.shape[0]):
        for x in range(found.shape[1]):
            below, right = min(2 * y + 1, height - 1), min(2 * x + 1, width - 1)
            four = (classes[2 * y, 2 * x], classes[2 * y, right], classes[below, 2 * x], classes[below, right])
            assert found[y, x] == slow_majority(*(int(value) for value in four)), four


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9), st.integers(1, 3))))
def test_mean_pixel_by_pixel(values: np.ndarray) -> None:
    odd = [(0, values.shape[0] % 2), (0, values.shape[1] % 2), (0, 0)]
    even = np.pad(values, odd, mode="edge").astype(int)
    height, width, channels = even.shape
    sums = even.reshape(height // 2, 2, width // 2, 2, channels).sum(axis=(1, 3))
    np.testing.assert_array_equal(mean(values), np.floor(sums / 4 + 0.5))


@settings(max_examples=100, deadline=None)
@given(arrays(np.uint8, st.tuples(st.integers(1, 9), st.integers(1, 9)), elements=st.sampled_from([0, 0, 1, 40, 255])))
def test_the_mean_of_what_is_known(values: np.ndarray) -> None:
    found = mean_of_known(values)
    even = np.pad(values, [(0, length % 2) for length in values.shape], mode="edge").astype(int)
    for y, x in np.ndindex(found.shape):
        four = even[2 * y : 2 * y + 2, 2 * x : 2 * x + 2]
        known = four[four > 0]
        assert found[y, x] == (np.floor(known.mean() + 0.5) if known.size else 0)


def test_confidence_has_a_quarter_of_the_resolution(tmp_path: Path, small_pages: None) -> None:
    confidence = np.random.default_rng(0).integers(1, 256, (333, 401)).astype(np.uint8)
    confidence[:50] = 0
    for name in "ab":
        write_confidence_tiff(tmp_path / f"{name}.tif", ArrayRows(confidence), (0.5, 0.25))
    assert (tmp_path / "a.tif").read_bytes() == (tmp_path / "b.tif").read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.tif", "b.tif"]
    found = tifffile.imread(tmp_path / "a.tif", level=0)
    np.testing.assert_array_equal(found, mean_of_known(mean_of_known(confidence)))
    assert not found[:12].any() and found[13:].all()
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as opened:
        assert opened.dimensions == (101, 84) and opened.level_count == 2
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(2.0, rel=1e-4)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(1.0, rel=1e-4)


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several levels of several tiles from small pictures."""
    monkeypatch.setattr(pyramid, "TILE", 64)
    monkeypatch.setattr(pyramid, "SMALLEST", 100)


@pytest.mark.parametrize("form", ["tiff", "ome"])
def test_map_has_all_levels_in_colour(tmp_path: Path, small_pages: None, form: str) -> None:
    classes = blobs(333, 401, 4, 5.0)
    path = tmp_path / "a.ome.tif"
    write_classes_tiff(path, ArrayRows(classes), TISSUES, (0.5, 0.25), form=form, scale=(2.0, 1.0))
    wanted = [classes]
    while max(wanted[-1].shape) >= 100:
        wanted.append(majority(wanted[-1]))
    assert [level.shape for level in wanted] == level_shapes(333, 401)
    with tifffile.TiffFile(path) as file:
        pages = file.series[0].levels if form == "ome" else file.pages
        assert len(pages) == len(wanted) == 4
        for page, level in zip(pages, wanted, strict=True):
            np.testing.assert_array_equal(page.asarray(), level)
            first = page.keyframe if form == "ome" else page
            np.testing.assert_array_equal(first.colormap[:, :4].T // 257, TISSUES.colors)
            assert (first.colormap[:, 255] == 65535).all(), "none is white"
    with MapFile(path, TISSUES) as opened:
        assert opened.names == TISSUES.names and opened.scale == (2.0, 1.0)
        assert opened.um_per_pixel == pytest.approx((0.5, 0.25), rel=1e-4)
        np.testing.assert_array_equal(opened.read(100, 250), classes[100:250])


def test_openslide_sees_levels_colours_and_resolution(tmp_path: Path, small_pages: None) -> None:
    classes = blobs(333, 401, 4, 5.0)
    write_classes_tiff(tmp_path / "a.tif", ArrayRows(classes), TISSUES, (0.5, 0.25))
    palette = np.full((256, 3), 255, np.uint8)
    palette[:4] = TISSUES.colors
    with openslide.OpenSlide(str(tmp_path / "a.tif")) as opened:
        assert opened.level_count == 4
        assert float(opened.properties["openslide.mpp-x"]) == pytest.approx(0.5, rel=1e-4)
        assert float(opened.properties["openslide.mpp-y"]) == pytest.approx(0.25, rel=1e-4)
        level = classes
        for number in range(4):
            found = np.asarray(opened.read_region((0, 0), number, opened.level_dimensions[number]).convert("RGB"))
            np.testing.assert_array_equal(found, palette[level])
            level = majority(level)


def test_same_map_same_bytes(tmp_path: Path, small_pages: None) -> None:
    classes = blobs(150, 170, 4, 5.0)
    probabilities = np.random.default_rng(0).integers(0, 255, (150, 170, 4), np.uint8)
    for name in "ab":
        write_classes_tiff(tmp_path / f"{name}1.tif", ArrayRows(classes), TISSUES, (0.5, 0.5))
        write_classes_tiff(tmp_path / f"{name}2.tif", ArrayRows(classes), TISSUES, (0.5, 0.5), form="ome")
        write_probability_tiff(tmp_path / f"{name}3.tif", ArrayRows(probabilities), TISSUES, (0.5, 0.5))
        write_picture_tiff(tmp_path / f"{name}4.tif", ArrayRows(picture(150, 170)), (0.5, 0.5))
    for number in range(1, 5):
        assert (tmp_path / f"a{number}.tif").read_bytes() == (tmp_path / f"b{number}.tif").read_bytes()


def test_probabilities_have_channels_with_names(tmp_path: Path, small_pages: None) -> None:
    probabilities = np.random.default_rng(0).integers(0, 255, (150, 170, 4), np.uint8)
    write_probability_tiff(tmp_path / "a.ome.tif", ArrayRows(probabilities), TISSUES, (0.5, 0.5))
    with tifffile.TiffFile(tmp_path / "a.ome.tif") as file:
        series = file.series[0]
        assert series.axes == "CYX" and len(series.levels) == 2
        np.testing.assert_array_equal(series.levels[0].asarray().transpose(1, 2, 0), probabilities)
        np.testing.assert_array_equal(series.levels[1].asarray().transpose(1, 2, 0), mean(probabilities))
        assert all(name in (file.ome_metadata or "") for name in TISSUES.names)


def test_picture_opens_as_a_slide(tmp_path: Path, small_pages: None) -> None:
    image = picture(333, 401)
    write_picture_tiff(tmp_path / "a.tif", ArrayRows(image), (0.5, 0.5), quality=95)
    with open_slide(tmp_path / "a.tif") as slide:
        assert slide.size == (401, 333) and len(slide.levels) == 4
        assert slide.resolution is not None and slide.resolution.x == pytest.approx(0.5, rel=1e-4)
        difference = slide.read(0, 0, 0, 401, 333).astype(int) - image
        assert np.abs(difference).mean() < 2 and np.abs(difference).max() < 30


class BreakingRows(ArrayRows):
    """Fails in the middle, as a full disk or Ctrl-C does."""

    def read(self, top: int, bottom: int) -> np.ndarray:
        if top > 100:
            raise KeyboardInterrupt
        return super().read(top, bottom)


@pytest.mark.parametrize("kind", ["classes", "ome", "picture"])
def test_interrupted_writing_leaves_nothing_behind(tmp_path: Path, small_pages: None, kind: str) -> None:
    path = tmp_path / "a.tif"
    path.write_bytes(b"the old one")
    with pytest.raises(KeyboardInterrupt):
        if kind == "picture":
            write_picture_tiff(path, BreakingRows(picture(333, 401)), (0.5, 0.5))
        else:
            form = "ome" if kind == "ome" else "tiff"
            write_classes_tiff(path, BreakingRows(blobs(333, 401)), TISSUES, (0.5, 0.5), form=form)
    assert path.read_bytes() == b"the old one"
    assert [file.name for file in tmp_path.iterdir()] == ["a.tif"]


def test_rows_in_a_file(tmp_path: Path) -> None:
    classes = blobs(50, 60)
    rows = RowFile(tmp_path / "a.raw", (50, 60), create=True)
    assert not rows.read(0, 50).any()
    for top in range(0, 50, 7):
        rows.write(top, classes[top : top + 7])
    write_classes_tiff(tmp_path / "a.tif", rows, TISSUES, (0.5, 0.5))
    np.testing.assert_array_equal(tifffile.imread(tmp_path / "a.tif"), classes)
