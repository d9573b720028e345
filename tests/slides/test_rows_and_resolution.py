from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.slides.resolution import given_resolution, missing_resolution, resolution_of
from patch2tissue.slides.rows import ArrayRows, RowFile

PATH = Path("a.svs")


def test_row_file_reads_what_was_written(tmp_path: Path) -> None:
    image = np.random.default_rng(0).integers(0, 256, (20, 7, 3), dtype=np.uint8)
    rows = RowFile(tmp_path / "a.raw", image.shape, create=True)
    assert not rows.read(0, 20).any()
    rows.write(5, image[5:12])
    rows.write(0, image[:5])
    again = RowFile(tmp_path / "a.raw", image.shape)
    np.testing.assert_array_equal(again.read(0, 12), image[:12])
    assert not again.read(12, 20).any()
    np.testing.assert_array_equal(ArrayRows(image).read(3, 9), image[3:9])


def test_row_file_of_another_size_is_refused(tmp_path: Path) -> None:
    RowFile(tmp_path / "a.raw", (4, 5), create=True)
    with pytest.raises(DataError, match="is no raster of 4 rows of 6 bytes"):
        RowFile(tmp_path / "a.raw", (4, 6))
    with pytest.raises(DataError, match=r"b\.raw"):
        RowFile(tmp_path / "b.raw", (4, 6))


@pytest.mark.parametrize(
    ("properties", "expected", "source"),
    [
        ({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.26", "openslide.objective-power": "20"}, (0.25, 0.26), "sl"),
        ({"openslide.mpp-x": "0.25"}, (0.25, 0.25), "sl"),
        ({"openslide.mpp-x": "0,25"}, (0.25, 0.25), "sl"),
        (
            {"tiff.XResolution": "20000", "tiff.YResolution": "40000", "tiff.ResolutionUnit": "centimeter"},
            (0.5, 0.25),
            "TIFF",
        ),
        ({"tiff.XResolution": "50800", "tiff.ResolutionUnit": "inch"}, (0.5, 0.5), "TIFF"),
        ({"openslide.mpp-x": "nonsense", "openslide.objective-power": "40"}, (0.25, 0.25), "objective"),
    ],
)
def test_resolution_is_taken_in_the_order_of_trust(
    properties: dict[str, str], expected: tuple[float, float], source: str
) -> None:
    found = resolution_of(PATH, properties)
    assert found is not None
    assert (found.x, found.y) == pytest.approx(expected)
    assert found.source.startswith(source)


@pytest.mark.parametrize(
    "properties",
    [
        {},
        {"openslide.mpp-x": "nan"},
        {"openslide.mpp-x": "-1"},
        {"tiff.XResolution": "72", "tiff.ResolutionUnit": "inch"},  # a program's default
        {"tiff.XResolution": "20000", "tiff.ResolutionUnit": "none"},
        {"openslide.objective-power": "0"},
    ],
)
def test_no_resolution_is_made_up(properties: dict[str, str]) -> None:
    assert resolution_of(PATH, properties) is None
    assert "--mpp" in str(missing_resolution(PATH))


def test_guess_by_the_objective_warns(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolution_of(PATH, {"openslide.objective-power": "20"})
    assert "objective" in caplog.text and "--mpp" in caplog.text


def test_pixels_that_are_not_square_are_told_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        resolution_of(PATH, {"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"})
    assert "0.25 µm wide and 0.5 µm high" in caplog.text


@pytest.mark.parametrize("value", [0.0, -1.0, float("nan"), float("inf"), 0.0001, 1e4])
def test_impossible_resolutions_are_refused(value: float) -> None:
    with pytest.raises(ConfigError, match="no resolution of a slide"):
        given_resolution(value)


def test_lying_metadata_is_refused() -> None:
    with pytest.raises(DataError, match="states 250 µm per pixel"):
        resolution_of(PATH, {"openslide.mpp-x": "250"})
