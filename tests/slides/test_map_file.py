"""Maps and masks of slides, read back a few rows at a time; anything else is told of."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from tests.slides.pictures import blobs

from patch2tissue.errors import DataError
from patch2tissue.slides.map_file import MapFile
from patch2tissue.tissues import BUILT_IN

TISSUES = BUILT_IN["bcss-wsss"]
CLASSES = blobs(150, 170, 4, 5.0)


def mask(path: Path, kind: str) -> Path:
    options: dict[str, Any] = {"compression": "deflate"}
    pixels = CLASSES
    if kind == "tiles":
        options["tile"] = (64, 64)
    elif kind == "strips":
        options["rowsperstrip"] = 7
    elif kind == "one piece":
        options["rowsperstrip"] = 150
    elif kind == "colours":
        palette = np.full((256, 3), 255, np.uint8)
        palette[:4] = TISSUES.colors
        pixels = palette[CLASSES]
        options |= {"photometric": "rgb", "tile": (64, 64)}
    tifffile.imwrite(path, pixels, **options)
    return path


@pytest.mark.parametrize("kind", ["tiles", "strips", "one piece", "colours"])
def test_masks_of_any_program(tmp_path: Path, kind: str) -> None:
    with MapFile(mask(tmp_path / "a.tif", kind), TISSUES) as opened:
        assert opened.shape == (150, 170) and opened.names is None and opened.scale is None
        np.testing.assert_array_equal(opened.read(0, 150), CLASSES)
        np.testing.assert_array_equal(opened.read(33, 101), CLASSES[33:101])


def test_what_is_no_mask_is_told_of(tmp_path: Path) -> None:
    (tmp_path / "text.tif").write_bytes(b"no picture")
    (tmp_path / "empty.tif").write_bytes(b"")
    tifffile.imwrite(tmp_path / "deep.tif", np.zeros((20, 20), np.uint16))
    tifffile.imwrite(tmp_path / "two.tif", np.zeros((20, 20, 2), np.uint8), photometric="minisblack", planarconfig=1)
    for name in ("none", "text", "empty", "deep", "two"):
        with pytest.raises(DataError) as caught:
            MapFile(tmp_path / f"{name}.tif", TISSUES)
        assert f"{name}.tif" in str(caught.value)


def test_values_that_are_no_tissue_are_told_of(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "a.tif", np.full((20, 20), 9, np.uint8))
    with MapFile(tmp_path / "a.tif", TISSUES) as opened, pytest.raises(DataError, match=r"a\.tif.* 9"):
        opened.read(0, 20)


def test_palette_in_another_order_is_understood_or_told_of(tmp_path: Path) -> None:
    palette = np.full((256, 3), 255, np.uint16)
    palette[:4] = TISSUES.colors[::-1]
    options = {"photometric": "palette", "tile": (64, 64)}
    tifffile.imwrite(
        tmp_path / "a.tif",
        np.where(CLASSES < 4, 3 - CLASSES, 255).astype(np.uint8),
        **options,
        colormap=np.ascontiguousarray(palette.T * 257),
    )
    with MapFile(tmp_path / "a.tif", TISSUES) as opened:
        np.testing.assert_array_equal(opened.read(0, 150), CLASSES)
    palette[0] = (1, 2, 3)
    tifffile.imwrite(tmp_path / "b.tif", CLASSES, **options, colormap=np.ascontiguousarray(palette.T * 257))
    with MapFile(tmp_path / "b.tif", TISSUES) as opened, pytest.raises(DataError, match=r"b\.tif: its palette"):
        opened.read(0, 150)


def test_cut_short_is_damaged(tmp_path: Path) -> None:
    path = mask(tmp_path / "a.tif", "tiles")
    with tifffile.TiffFile(path) as file:
        begin = file.pages.first.dataoffsets[4]
    content = bytearray(path.read_bytes())
    content[begin : begin + 40] = bytes(40)
    path.write_bytes(bytes(content))
    with MapFile(path, TISSUES) as opened, pytest.raises(DataError, match="is damaged"):
        opened.read(0, 150)
