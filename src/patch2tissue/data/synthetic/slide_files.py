"""Writing synthetic slides with their truth, as files that slide programs open."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

import patch2tissue
from patch2tissue.atomic import remove_abandoned, temporary_prefix, write_text
from patch2tissue.data.synthetic.drawing import TISSUE_SET
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.errors import ConfigError, DataError, WriteError
from patch2tissue.slides.geojson import write_geojson
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.pyramid import write_classes_tiff, write_picture_tiff
from patch2tissue.slides.rows import RowFile, Rows, count_values, strips
from patch2tissue.tissues import BUILT_IN

_ENDINGS = (".tif", ".tiff", ".svs")


@dataclass(frozen=True)
class SlideFiles:
    """Files of a synthetic slide.

    Attributes:
        slide: the picture, a pyramid.
        truth: its tissues as a palette pyramid; 255 on glass.
        truth_geojson: their outlines, along the pixels' edges.
        description: size, resolution, seed, and each tissue's pixels and area in mm².
    """

    slide: Path
    truth: Path
    truth_geojson: Path
    description: Path


def write_synthetic_slide(
    path: Path,
    width: int,
    height: int,
    *,
    seed: int = 0,
    um_per_pixel: float = 0.5,
    difficulty: str = "medium",
    progress: Callable[[str, int, int], None] = lambda step, done, total: None,
) -> SlideFiles:
    """Write a slide, and beside it `NAME_truth.tif`, `NAME_truth.geojson` and `NAME_truth.json`.

    Args:
        path: the slide, `.tif` or `.svs` (described as a scanner by Aperio does). Each file is written atomically;
            same arguments, same bytes.
        width: in pixels.
        height: in pixels.
        seed: seed.
        um_per_pixel: resolution.
        difficulty: see `WholeSlide`.
        progress: called with what is being done, the rows that are done, and all rows.

    Raises:
        ConfigError: if an argument makes no sense.
        DataError: if the files cannot be written.
    """
    path = Path(path)
    if path.suffix.lower() not in _ENDINGS:
        raise ConfigError(f"{path}: a synthetic slide's name ends in {', '.join(_ENDINGS)}.")
    whole = WholeSlide(width, height, seed=seed, um_per_pixel=um_per_pixel, difficulty=difficulty)
    tissues = BUILT_IN[TISSUE_SET]
    files = SlideFiles(path, *(path.with_name(f"{path.stem}_truth.{ending}") for ending in ("tif", "geojson", "json")))
    both = (um_per_pixel, um_per_pixel)
    description = None
    if path.suffix.lower() == ".svs":
        description = (
            f"Aperio Image Library\r\n{width}x{height} (256x256) JPEG/RGB Q=90|AppMag = {10 / um_per_pixel:g}"
            f"|MPP = {um_per_pixel:g}|Title = synthetic tissue"
        )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        remove_abandoned(path.parent, below=False)
        picture = _Watched(whole.picture, lambda done: progress("the picture", done, height))
        write_picture_tiff(path, picture, both, description=description)
        with tempfile.TemporaryDirectory(prefix=temporary_prefix(path), dir=path.parent) as folder:
            truth = RowFile(Path(folder) / "truth.raw", whole.shape, create=True, durable=False)
            for top, strip in strips(whole.truth):
                truth.write(top, strip)
                progress("its truth", top + len(strip), height)
            write_classes_tiff(files.truth, truth, tissues, both)
            pieces = trace(truth, len(tissues))
            write_geojson(files.truth_geojson, pieces, tissues, scale=(1.0, 1.0), um_per_pixel=both)
            counts = count_values(truth)
    except OSError as error:
        if isinstance(error, WriteError) and error.full:
            raise
        raise DataError(f"{error.filename or path}: cannot be written: {error.strerror or error}.") from None
    areas = {
        tissue.name: {"pixels": int(count), "area_mm2": int(count) * um_per_pixel**2 / 1e6}
        for tissue, count in zip(tissues.tissues, counts.tolist(), strict=False)
    }
    plain = {
        "synthetic": True,
        "patch2tissue": patch2tissue.__version__,
        "width": width,
        "height": height,
        "um_per_pixel": um_per_pixel,
        "seed": seed,
        "difficulty": difficulty,
        "tissues": areas,
    }
    write_text(files.description, json.dumps(plain, indent=2) + "\n")
    return files


class _Watched:
    """`Rows` that tell how far they were read."""

    def __init__(self, rows: Rows, tell: Callable[[int], None]) -> None:
        self._rows, self._tell = rows, tell
        self.shape = rows.shape

    def read(self, top: int, bottom: int) -> np.ndarray:
        """See `Rows.read`."""
        found = self._rows.read(top, bottom)
        self._tell(min(bottom, self.shape[0]))
        return found
