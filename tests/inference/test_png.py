from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.inference.png import write_png


@pytest.mark.parametrize("shape", [(1, 1), (37, 50), (1, 1, 3), (37, 50, 3)])
def test_a_picture_is_read_back_as_it_was(tmp_path: Path, shape: tuple[int, ...]) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
    write_png(tmp_path / "a.png", pixels)
    with Image.open(tmp_path / "a.png") as image:
        assert image.format == "PNG" and image.mode == ("L" if len(shape) == 2 else "RGB")
        np.testing.assert_array_equal(np.asarray(image), pixels)


def test_a_view_of_other_strides(tmp_path: Path) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8)[::-1, ::2]
    write_png(tmp_path / "a.png", pixels)
    np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "a.png")), pixels)
