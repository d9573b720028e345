from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image
from tests.slides.pictures import picture, write_ome, write_tiled

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.slides.opening import find_slides, open_slide


@pytest.fixture(params=["tiled", "ome", "png"])
def any_slide(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Path, np.ndarray]:
    image = picture()
    if request.param == "tiled":
        return write_tiled(tmp_path / "a.tif", image), image
    if request.param == "ome":
        return write_ome(tmp_path / "a.ome.tif", image), image
    Image.fromarray(image).save(tmp_path / "a.png")
    return tmp_path / "a.png", image


def test_any_format_gives_the_same_pixels(any_slide: tuple[Path, np.ndarray]) -> None:
    path, image = any_slide
    with open_slide(path, 0.5 if path.suffix == ".png" else None) as slide:
        assert slide.name == "a"
        assert slide.size == (420, 300)
        assert slide.resolution is not None and (slide.resolution.x, slide.resolution.y) == (0.5, 0.5)
        np.testing.assert_array_equal(slide.read(0, 0, 0, 420, 300), image)
        np.testing.assert_array_equal(slide.read(0, 50, 61, 100, 90), image[61:151, 50:150])
        outside = slide.read(0, -10, 290, 30, 30)
        np.testing.assert_array_equal(outside[:10, 10:], image[290:, :20])
        assert (outside[10:] == 255).all() and (outside[:, :10] == 255).all()
        assert (slide.read(0, 1000, 1000, 5, 5) == 255).all()
        if len(slide.levels) > 1:
            assert slide.levels[1] == (210, 150) and slide.downsamples[1] == pytest.approx(2.0)
            np.testing.assert_array_equal(slide.read(1, 20, 30, 64, 70), image[::2, ::2][30:100, 20:84])


def test_ome_units_are_understood(tmp_path: Path) -> None:
    with open_slide(write_ome(tmp_path / "a.ome.tif", picture(), 250.0, "nm")) as slide:
        assert slide.resolution is not None and slide.resolution.x == pytest.approx(0.25)


def test_what_is_given_comes_before_what_the_file_says(tmp_path: Path) -> None:
    with open_slide(write_tiled(tmp_path / "a.tif", picture()), 0.3) as slide:
        assert slide.resolution is not None and slide.resolution.x == 0.3


@pytest.mark.parametrize("name", ["tiled.tif", "b.ome.tif", "c.png"])
def test_slide_without_resolution_says_what_to_do(tmp_path: Path, name: str) -> None:
    path = tmp_path / name
    if name.startswith("tiled"):
        write_tiled(path, picture(), None)
    elif name.startswith("b"):
        write_ome(path, picture(), None)
    else:
        Image.fromarray(picture()).save(path, dpi=(300, 300))
    with pytest.raises(DataError, match="Pass --mpp") as caught:
        open_slide(path)
    assert str(path) in str(caught.value)
    with open_slide(path, needs_resolution=False) as slide:
        assert slide.resolution is None


def test_bad_files_are_told_of(tmp_path: Path) -> None:
    whole = write_tiled(tmp_path / "whole.tif", picture()).read_bytes()
    cases = {
        "zero.svs": (b"", r"is empty \(0 bytes\)"),
        "noise.svs": (b"no slide at all" * 50, "is no slide that can be read"),
        "short.tif": (whole[: len(whole) // 3], "read"),
        "noise.ome.tif": (b"II*\0 nonsense" * 20, "read"),
        "text.png": (b"not a picture", "cannot be read as an image"),
    }
    for name, (content, message) in cases.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(DataError, match=message) as caught, open_slide(tmp_path / name, 0.5) as slide:
            slide.read(0, 0, 0, *slide.size)
        assert name in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        open_slide(tmp_path / "absent.svs")
    with pytest.raises(DataError, match="is a folder"):
        open_slide(tmp_path)


def test_ome_tiff_that_is_no_colour_picture_is_refused(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "grey.ome.tif", np.zeros((64, 64), np.uint16), ome=True)
    with pytest.raises(DataError, match=r"grey\.ome\.tif: is no RGB picture"):
        open_slide(tmp_path / "grey.ome.tif", 0.5)
    deep = np.zeros((64, 64, 3), np.uint16)
    tifffile.imwrite(tmp_path / "deep.ome.tif", deep, ome=True, photometric="rgb", metadata={"axes": "YXS"})
    with pytest.raises(DataError, match=r"deep\.ome\.tif: .* uint16.* Export it as 8-bit RGB"):
        open_slide(tmp_path / "deep.ome.tif", 0.5)


def test_truncated_ome_tiff_is_damaged_where_it_is_read(tmp_path: Path) -> None:
    path = write_ome(tmp_path / "a.ome.tif", np.random.default_rng(0).integers(0, 255, (300, 420, 3), np.uint8))
    with tifffile.TiffFile(path) as file:
        cut = file.pages.first.dataoffsets[3] + 10
    content = bytearray(path.read_bytes())
    content[cut : cut + 200] = bytes(200)
    path.write_bytes(bytes(content))
    with pytest.raises(DataError, match="copy it again"), open_slide(path) as slide:
        slide.read(0, 0, 0, 420, 300)


def test_find_slides(tmp_path: Path) -> None:
    for name in ("a.svs", "b.tif", "c.txt", ".hidden.svs", "one.dcm", "two.dcm"):
        (tmp_path / name).write_bytes(b"x")
    found = [slide.path.name for slide in find_slides([tmp_path])]
    assert found == ["a.svs", "b.tif", "one.dcm"]
    assert [slide.path.name for slide in find_slides([str(tmp_path / "*.svs"), tmp_path / "a.svs"])] == ["a.svs"]
    listed = tmp_path / "list.csv"
    listed.write_text("\ufeffwsi;mpp\na.svs;0,25\nb.tif;\n", encoding="utf-8")
    assert [(slide.path.name, slide.um_per_pixel) for slide in find_slides([listed])] == [
        ("a.svs", 0.25),
        ("b.tif", None),
    ]
    assert find_slides([listed], 0.5)[0].um_per_pixel == 0.5


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("slide,mpp\na.svs,1\n", "no column 'wsi'"),
        ("wsi,mpp\na.svs,often\n", r"line 2: 'often' is no number"),
        ("wsi,mpp\n", "lists no slides"),
    ],
)
def test_bad_lists_are_told_of(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "list.csv").write_text(content)
    with pytest.raises(DataError, match=message):
        find_slides([tmp_path / "list.csv"])
    (tmp_path / "list.csv").write_text("wsi,mpp\na.svs,1000\n")
    with pytest.raises(ConfigError, match="no resolution"):
        find_slides([tmp_path / "list.csv"])


def test_nothing_to_find_is_an_error(tmp_path: Path) -> None:
    for inputs in ([], [tmp_path], [tmp_path / "*.svs"], [tmp_path / "absent.svs"]):
        with pytest.raises(DataError):
            find_slides(inputs)
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "a.svs").write_bytes(b"x")
    with pytest.raises(DataError, match="same name"):
        find_slides([tmp_path / "one", tmp_path / "two"])
    (tmp_path / "one" / "a.ome.tif").write_bytes(b"x")  # whose results are called a, too
    with pytest.raises(DataError, match="same name"):
        find_slides([tmp_path / "one"])
