"""Small pictures and slides in several formats."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import tifffile
from PIL import Image
from scipy.ndimage import gaussian_filter

from patch2tissue.slides.resolution import Resolution
from patch2tissue.slides.slide import Slide


def picture(height: int = 300, width: int = 420, seed: int = 0) -> np.ndarray:
    """Smooth colours, so that lossy storage changes them little."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(60, 240, (6, 8, 3), dtype=np.uint8)
    return np.array(Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC))


def write_tiled(path: Path, image: np.ndarray, um_per_pixel: tuple[float, float] | None = (0.5, 0.5)) -> Path:
    """A generic tiled TIFF with levels, as scanners' exports are."""
    with tifffile.TiffWriter(path) as file:
        for level in (image, image[::2, ::2]):
            options = {"tile": (64, 64), "photometric": "rgb", "subfiletype": int(level is not image)}
            if um_per_pixel is not None:
                options |= {"resolution": tuple(1e4 / um for um in um_per_pixel), "resolutionunit": "CENTIMETER"}
            file.write(np.ascontiguousarray(level), **options)
    return path


def write_ome(path: Path, image: np.ndarray, um_per_pixel: float | None = 0.5, unit: str = "µm", **options) -> Path:
    metadata = {"axes": "YXS"}
    if um_per_pixel is not None:
        for axis in "XY":
            metadata |= {f"PhysicalSize{axis}": um_per_pixel, f"PhysicalSize{axis}Unit": unit}
    with tifffile.TiffWriter(path, ome=True) as file:
        options = {"tile": (64, 64), "photometric": "rgb", "compression": "deflate", **options}
        file.write(image, subifds=1, metadata=metadata, **options)
        file.write(np.ascontiguousarray(image[::2, ::2]), subfiletype=1, **options)
    return path


class ArraySlide(Slide):
    """An array as a slide of one level."""

    def __init__(self, image: np.ndarray, um_per_pixel: tuple[float, float] = (0.5, 0.5)) -> None:
        self.path, self.image = Path("array.png"), image
        self.levels, self.downsamples = ((image.shape[1], image.shape[0]),), (1.0,)
        self.resolution = Resolution(*um_per_pixel, "given")

    def _read(self, level: int, left: int, top: int, width: int, height: int) -> np.ndarray:
        return self.image[top : top + height, left : left + width].copy()


def blobs(height: int, width: int, tissues: int = 3, scale: float = 9.0, seed: int = 0) -> np.ndarray:
    """A map of smooth regions, uint8; the last of them is none (255)."""
    rng = np.random.default_rng(seed)
    fields = np.stack([gaussian_filter(rng.standard_normal((height, width)), scale) for _ in range(tissues + 1)])
    found = fields.argmax(axis=0).astype(np.uint8)
    found[found == tissues] = 255
    return found
