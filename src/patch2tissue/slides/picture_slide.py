"""Plain pictures (PNG, JPEG, small TIFF) taken for slides."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import PIL
import tifffile

from patch2tissue.data.images import image_size, read_image
from patch2tissue.slides.resolution import resolution_of
from patch2tissue.slides.slide import Slide


class PictureSlide(Slide):
    """A picture that is read whole at its first use; its resolution must be given unless TIFF tags tell it.

    Raises:
        DataError: if it is unreadable or too large.
    """

    reader = f"Pillow {PIL.__version__}"

    def __init__(self, path: Path) -> None:
        self.path = Path(path)
        height, width = image_size(self.path)
        self.levels, self.downsamples = ((width, height),), (1.0,)
        self.resolution = resolution_of(self.path, _tiff_tags(self.path))
        self._image: np.ndarray | None = None

    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        if self._image is None:
            self._image = read_image(self.path)
        return self._image[top : top + height, left : left + width].copy()

    def close(self) -> None:
        """See `Slide.close`."""
        self._image = None


def _tiff_tags(path: Path) -> dict[str, str]:
    if path.suffix.lower() not in (".tif", ".tiff"):
        return {}  # the dots per inch of a PNG or JPEG are for printing
    from patch2tissue.slides.ome_slide import resolution_tags

    try:
        with tifffile.TiffFile(path) as file:
            return resolution_tags(file.pages.first)
    except Exception:
        return {}
