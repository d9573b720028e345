"""Tiles of slides and maps against the whole picture."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.slides.pictures import picture
from tests.viewer.results import TISSUES, make_probabilities, make_results, make_slide

from patch2tissue.errors import DataError
from patch2tissue.slides.opening import open_slide
from patch2tissue.viewer.layers import TILE, Look, SlideLayer, deepest_level, heat_colours
from patch2tissue.viewer.slide_layers import MapLayer


def opened(content: bytes, mode: str) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(content)).convert(mode))


def joined(layer_tile, size: tuple[int, int], level: int) -> np.ndarray:
    """All tiles of a level, put together."""
    factor = 2 ** (deepest_level(*size) - level)
    width, height = -(-size[0] // factor), -(-size[1] // factor)
    rows = [
        np.concatenate([layer_tile(level, x, y) for x in range(-(-width // TILE))], axis=1)
        for y in range(-(-height // TILE))
    ]
    found = np.concatenate(rows)
    assert found.shape[:2] == (height, width)
    return found


def test_slide_tiles_are_the_slide(tmp_path: Path) -> None:
    with open_slide(make_slide(tmp_path, height=601, width=801)) as slide:
        layer = SlideLayer(slide)
        deepest = deepest_level(801, 601)
        assert deepest == 10
        full = joined(lambda *place: opened(layer.tile(*place), "RGB"), layer.size, deepest)
        image = picture(601, 801)
        assert np.abs(full.astype(int) - image).mean() < 6  # JPEG of noise
        for level in range(deepest):
            small = joined(lambda *place: opened(layer.tile(*place), "RGB"), layer.size, level)
            assert np.abs(small.mean(axis=(0, 1)) - image.mean(axis=(0, 1))).max() < 8


def test_map_tiles_are_the_map_in_its_colours(tmp_path: Path) -> None:
    classes = make_results(tmp_path / "maps", make_slide(tmp_path))
    layer = MapLayer(tmp_path / "maps" / "a_classes.tif")
    assert layer.names == TISSUES.names and layer.colours == TISSUES.colors
    assert layer.size == (400, 300) and layer.scale == (2.0, 2.0)
    deepest = deepest_level(400, 300)
    full = joined(lambda *place: opened(layer.tile(*place, Look()), "RGBA"), layer.size, deepest)
    expected = np.zeros((300, 400, 4), np.uint8)
    for k, colour in enumerate(TISSUES.colors):
        expected[classes == k] = (*colour, 255)
    np.testing.assert_array_equal(full, expected)
    # a hidden tissue leaves nothing, not even its colour
    part = joined(lambda *place: opened(layer.tile(*place, Look((True, False))), "RGBA"), layer.size, deepest)
    expected[classes == 1] = 0
    np.testing.assert_array_equal(part, expected)
    for level in range(deepest + 1):
        joined(lambda *place: opened(layer.tile(*place, Look()), "RGBA"), layer.size, level)
    layer.close()


def test_probabilities_are_heat(tmp_path: Path) -> None:
    classes = make_results(tmp_path / "maps", make_slide(tmp_path), probabilities=True)
    layer = MapLayer(tmp_path / "maps" / "a_classes.tif")
    assert layer.has_heat
    wanted = make_probabilities(classes)
    for k in range(4):

        def values(*place: int, k: int = k) -> np.ndarray:
            picture = Image.open(io.BytesIO(layer.tile(*place, Look(heat=k))))
            assert picture.mode == "P" and picture.info["transparency"][0] == 0
            return np.asarray(picture)

        np.testing.assert_array_equal(joined(values, layer.size, 9), wanted[..., k])
        for level in (5, 7):
            small = joined(values, layer.size, level)
            assert abs(small.mean() - wanted[..., k].mean()) < 6
    full = joined(lambda *place: opened(layer.tile(*place, Look(heat=1)), "RGBA"), layer.size, 9)
    np.testing.assert_array_equal(full[..., :3], heat_colours()[wanted[..., 1]])
    for look in (Look(heat=4), Look(heat=-1), Look(epoch=1)):
        with pytest.raises(IndexError):
            layer.tile(9, 0, 0, look)
    layer.close()


def test_a_map_without_probabilities_has_no_heat(tmp_path: Path) -> None:
    make_results(tmp_path / "maps", make_slide(tmp_path))
    layer = MapLayer(tmp_path / "maps" / "a_classes.tif")
    assert not layer.has_heat
    with pytest.raises(IndexError):
        layer.tile(9, 0, 0, Look(heat=0))
    (tmp_path / "maps" / "a_probabilities.ome.tif").write_bytes(b"II*\0 cut off")
    with pytest.raises(DataError, match=r"a_probabilities\.ome\.tif: "):
        MapLayer(tmp_path / "maps" / "a_classes.tif")


@pytest.mark.parametrize("place", [(11, 0, 0), (-1, 0, 0), (10, 4, 0), (10, 0, 3), (10, -1, 0), (0, 1, 0)])
def test_places_that_there_are_not(tmp_path: Path, place: tuple[int, int, int]) -> None:
    with open_slide(make_slide(tmp_path)) as slide, pytest.raises(IndexError):
        SlideLayer(slide).tile(*place)


def test_what_is_no_map_is_refused(tmp_path: Path) -> None:
    path = make_slide(tmp_path)
    with pytest.raises(DataError, match=r"a\.tif: is no tissue map"):
        MapLayer(path)
    (tmp_path / "b.tif").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"b\.tif: is no tissue map"):
        MapLayer(tmp_path / "b.tif")
