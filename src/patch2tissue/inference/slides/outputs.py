"""Files made of a finished map: the palette pyramid, polygons, areas and the overlay."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol

import numpy as np
from PIL import Image

from patch2tissue.atomic import atomic_path
from patch2tissue.inference.overlay import overlay_picture
from patch2tissue.inference.slides.result import SlideArea
from patch2tissue.slides.geojson import TissueSummary, write_geojson
from patch2tissue.slides.polygons import trace
from patch2tissue.slides.pyramid import write_classes_tiff, write_confidence_tiff, write_probability_tiff
from patch2tissue.slides.rows import Rows, count_values, strips
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

OVERLAY_LONGEST = 2048
"""Longer side of the overlay picture in pixels, at most."""

Step = Callable[[str], None]
"""Called with what is being done."""


@dataclass(frozen=True)
class OutputOptions:
    """What is written of a map.

    Attributes:
        form: `tiff`: a palette pyramid whose pages are the levels, which OpenSlide and QuPath open; `ome`: OME-TIFF.
        polygons: write GeoJSON.
        simplify: tolerance of the polygons in map pixels; 0: exactly along the pixels' edges.
        compress: write `.geojson.gz`.
        probabilities: write a pyramid of probabilities.
        confidence: write a pyramid of confidence, of a quarter of the map's resolution.
    """

    form: Literal["tiff", "ome"] = "tiff"
    polygons: bool = True
    simplify: float = 1.0
    compress: bool = False
    probabilities: bool = False
    confidence: bool = True


class DrawnMap(Protocol):
    """A map that is drawn, on disk, as `MapFiles` describes it."""

    @property
    def classes(self) -> Rows:
        """uint8 [H, W]."""

    @property
    def probabilities(self) -> Rows | None:
        """uint8 [H, W, K]."""

    @property
    def confidence(self) -> Rows | None:
        """uint8 [H, W]."""


def write_outputs(
    name: str, out: Path, files: DrawnMap, view: ScaledSlide, tissues: TissueSet, options: OutputOptions, step: Step
) -> tuple[dict[str, Path], tuple[SlideArea, ...]]:
    """Write what a finished map is wanted as; returns the files by kind, and the areas."""
    ending = ".ome.tif" if options.form == "ome" else ".tif"
    written = {"classes": out / f"{name}_classes{ending}"}
    step("writing the map")
    write_classes_tiff(
        written["classes"], files.classes, tissues, view.um_per_pixel, form=options.form, scale=view.scale
    )
    if options.probabilities and files.probabilities is not None:
        step("writing probabilities")
        written["probabilities"] = out / f"{name}_probabilities.ome.tif"
        write_probability_tiff(written["probabilities"], files.probabilities, tissues, view.um_per_pixel)
    if options.confidence and files.confidence is not None:
        step("writing confidence")
        written["confidence"] = out / f"{name}_confidence.tif"
        write_confidence_tiff(written["confidence"], files.confidence, view.um_per_pixel)
    outlines: dict[str, TissueSummary] = {}
    if options.polygons:
        step("tracing outlines")
        written["geojson"] = out / f"{name}.geojson{'.gz' if options.compress else ''}"
        pieces = trace(files.classes, len(tissues), simplify=options.simplify)
        summary = write_geojson(
            written["geojson"],
            pieces,
            tissues,
            scale=view.scale,
            um_per_pixel=view.um_per_pixel,
            size=view.slide.size,
        )
        outlines = summary.tissues
    step("drawing the overlay")
    written["overlay"] = out / f"{name}_overlay.png"
    write_overlay(written["overlay"], files.classes, view, tissues)
    return written, measure(files.classes, tissues, view.um_per_pixel, outlines)


def measure(
    rows: Rows, tissues: TissueSet, um_per_pixel: tuple[float, float], outlines: dict[str, TissueSummary]
) -> tuple[SlideArea, ...]:
    """Areas of a map's tissues, with the perimeters of their outlines where there are any."""
    counts = count_values(rows)
    with_tissue = int(counts[: len(tissues)].sum())
    pixel_mm2 = um_per_pixel[0] * um_per_pixel[1] / 1e6
    areas = []
    for name, pixels in zip(tissues.names, counts.tolist(), strict=False):
        outline = outlines.get(name)
        areas.append(
            SlideArea(
                name,
                pixels,
                pixels / with_tissue if with_tissue else 0.0,
                pixels * pixel_mm2,
                None if not outlines else (outline.perimeter_mm if outline else 0.0),
                None if not outlines else (outline.pieces if outline else 0),
            )
        )
    return tuple(areas)


def write_overlay(path: Path, rows: Rows, view: ScaledSlide, tissues: TissueSet) -> None:
    """Write the map, made small, over the slide's thumbnail."""
    width, height = view.size
    factor = max(1, -(-max(width, height) // OVERLAY_LONGEST))
    small = ScaledSlide(view.slide, max(view.um_per_pixel) * factor)
    picture = small.thumbnail()
    mask = np.full(picture.shape[:2], IGNORE_INDEX, np.uint8)
    # the map's pixel in the middle of each pixel of the thumbnail
    places_y = _middles(picture.shape[0], small.scale[1] / view.scale[1], height)
    places_x = _middles(picture.shape[1], small.scale[0] / view.scale[0], width)
    for top, strip in strips(rows):
        here = np.flatnonzero((places_y >= top) & (places_y < top + len(strip)))
        if len(here):
            mask[here] = strip[places_y[here] - top][:, places_x]
    with atomic_path(path) as temporary:
        overlay_picture(picture, mask, tissues, of_tissue=True).save(temporary, format="PNG")


def _middles(length: int, factor: float, within: int) -> np.ndarray:
    return np.minimum(((np.arange(length) + 0.5) * factor).astype(np.intp), within - 1)


def save_picture(path: Path, picture: Image.Image) -> None:
    """Write a PNG atomically."""
    with atomic_path(path) as temporary:
        picture.save(temporary, format="PNG")
