"""Where a slide holds tissue, at a fixed 8 µm per pixel: found by colour, or as a user drew it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw
from scipy import ndimage
from skimage.filters import threshold_otsu

from patch2tissue.data.images import read_image
from patch2tissue.errors import DataError
from patch2tissue.slides.rows import ArrayRows, count_values
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.slide import Slide

UM_PER_PIXEL = 8.0
"""Resolution at which tissue is looked for, whatever the slide's own."""

LEAST_AREA_UM2 = 10_000.0
"""Smaller pieces of tissue are taken for dirt: a square of 0.1 mm."""

LEAST_HOLE_UM2 = 2_500.0
"""Smaller holes are taken for gaps in the tissue: a square of 0.05 mm."""

_LEAST_SATURATION = 0.05
_MOST_SATURATION = 0.15
_DARKEST = 40
_ASPECT = 0.02
_STRIP_ROWS = 256


@dataclass(frozen=True)
class TissueMask:
    """Tissue on a slide.

    Attributes:
        mask: bool [h, w].
        scale: (sx, sy), level-0 pixels of the slide per mask pixel.
        source: how it came about.
    """

    mask: np.ndarray
    scale: tuple[float, float]
    source: str

    def share(self, left: np.ndarray | float, top: np.ndarray | float, width: float, height: float) -> np.ndarray:
        """Share of tissue in boxes, 0..1; what lies outside the slide holds none. Ask for all boxes at once.

        Args:
            left: of the boxes, in level-0 pixels, as are the others.
            top: likewise.
            width: of each box.
            height: of each box.

        Returns:
            float64, shaped like `left`.
        """
        sx, sy = self.scale
        x0, y0 = np.asarray(left, np.float64) / sx, np.asarray(top, np.float64) / sy
        x1, y1 = x0 + width / sx, y0 + height / sy
        # not kept: it takes four times the room of the mask
        table = _integral(self.mask)
        inside = _before(table, x1, y1) - _before(table, x0, y1) - _before(table, x1, y0) + _before(table, x0, y0)
        # sums of thousands lose their last digits; a box without tissue shall have exactly none
        share = inside / (width / sx * (height / sy))
        return np.asarray(np.where(share < 1e-9, 0.0, np.minimum(share, 1.0)))

    def region(self, rows: tuple[int, int], columns: tuple[int, int], scale: tuple[float, float]) -> np.ndarray:
        """The mask at the pixels of a part of a map, by their middles.

        Args:
            rows: [top, bottom) of the map.
            columns: [left, right) of the map.
            scale: (sx, sy), level-0 pixels per map pixel.

        Returns:
            bool [bottom - top, right - left].
        """
        y = (np.arange(*rows) + 0.5) * (scale[1] / self.scale[1])
        x = (np.arange(*columns) + 0.5) * (scale[0] / self.scale[0])
        y = np.clip(y.astype(np.intp), 0, self.mask.shape[0] - 1)
        x = np.clip(x.astype(np.intp), 0, self.mask.shape[1] - 1)
        return np.asarray(self.mask[y[:, None], x])


def _integral(mask: np.ndarray) -> np.ndarray:
    """Tissue above and left of each pixel's corner, in pixels: uint32 [h + 1, w + 1]."""
    table = np.zeros((mask.shape[0] + 1, mask.shape[1] + 1), np.uint32)
    inner = table[1:, 1:]
    np.cumsum(mask, axis=0, dtype=np.uint32, out=inner)
    np.cumsum(inner, axis=1, out=inner)
    return table


def _before(table: np.ndarray, x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Tissue above and left of any place; between corners the integral is bilinear, which is exact."""
    height, width = table.shape[0] - 1, table.shape[1] - 1
    x, y = np.clip(x, 0, width), np.clip(y, 0, height)
    x0, y0 = np.minimum(x.astype(np.intp), width - 1), np.minimum(y.astype(np.intp), height - 1)
    fx, fy = x - x0, y - y0
    upper = table[y0, x0] * (1 - fx) + table[y0, x0 + 1] * fx
    lower = table[y0 + 1, x0] * (1 - fx) + table[y0 + 1, x0 + 1] * fx
    return np.asarray(upper * (1 - fy) + lower * fy)


def full_mask(slide: Slide) -> TissueMask:
    """All of the slide."""
    width, height = slide.size
    return TissueMask(np.ones((1, 1), bool), (float(width), float(height)), "everywhere")


def find_tissue(
    slide: Slide,
    *,
    um_per_pixel: float = UM_PER_PIXEL,
    least_area_um2: float = LEAST_AREA_UM2,
    least_hole_um2: float = LEAST_HOLE_UM2,
) -> TissueMask:
    """Find tissue by its colour: saturation above Otsu's threshold, cleaned.

    Pale tissue, pen marks and fat defeat any such rule; look at the contour picture, and hand in a mask of your own
    where it is wrong.

    Args:
        slide: with a resolution.
        um_per_pixel: resolution to look at.
        least_area_um2: smaller pieces are left out.
        least_hole_um2: smaller holes are filled.

    Raises:
        DataError: if the slide has no resolution or is damaged.
    """
    view = ScaledSlide(slide, um_per_pixel)
    pixel = view.um_per_pixel[0] * view.um_per_pixel[1]
    mask = tissue_by_colour(view.thumbnail(), least_area_um2 / pixel, least_hole_um2 / pixel)
    return TissueMask(mask, view.scale, f"found at {um_per_pixel:g} µm per pixel")


def tissue_by_colour(image: np.ndarray, least_area: float = 0.0, least_hole: float = 0.0) -> np.ndarray:
    """Pixels of a thumbnail that show tissue.

    Args:
        image: uint8 RGB [H, W, 3].
        least_area: in pixels; smaller pieces are left out.
        least_hole: in pixels; smaller holes are filled.

    Returns:
        bool [H, W].
    """
    saturation = ndimage.median_filter(_saturation(image), size=3, mode="nearest")
    for rows in _strips(len(image)):
        # coverslip edges and black borders have no colour that means anything
        saturation[rows][image[rows].max(axis=2) < _DARKEST] = 0
    counts = count_values(ArrayRows(saturation))
    # glass is a little coloured, too: the threshold of a slide that is all glass or all tissue says nothing
    threshold = float(threshold_otsu(hist=(counts, np.arange(256)))) / 255 if np.count_nonzero(counts) > 1 else 0.0
    mask = saturation > 255 * np.clip(threshold, _LEAST_SATURATION, _MOST_SATURATION)
    for rows in _strips(len(image)):
        mask[rows] &= ~_pen(image[rows])
    mask = ndimage.binary_closing(np.pad(mask, 2, mode="edge"), iterations=2)[2:-2, 2:-2]
    # a picture smaller than a piece must be may hold one all the same
    area, hole = min(int(least_area), mask.size // 4), min(int(least_hole), mask.size // 4)
    if area > 0:
        mask = _without_small_pieces(mask, area)
    if hole > 0:
        mask = ~_without_small_pieces(~mask, hole)
    return np.asarray(mask, bool)


def _without_small_pieces(mask: np.ndarray, least: int) -> np.ndarray:
    """Leave out pieces of fewer pixels than `least`."""
    labels, count = ndimage.label(mask)
    sizes = np.zeros(count + 1, np.int64)
    for rows in _strips(len(mask)):
        sizes += np.bincount(labels[rows].ravel(), minlength=count + 1)
    large = sizes >= least
    large[0] = False
    return np.asarray(large[labels])


def _saturation(image: np.ndarray) -> np.ndarray:
    """Saturation as in HSV, uint8 [H, W] in 1/255."""
    found = np.empty(image.shape[:2], np.uint8)
    for rows in _strips(len(image)):
        brightest, darkest = image[rows].max(axis=2).astype(np.float32), image[rows].min(axis=2)
        found[rows] = np.rint(255 * (brightest - darkest) / np.maximum(brightest, 1))
    return found


def _strips(height: int) -> Iterator[slice]:
    """Rows that are worked on at a time: a thumbnail of a large slide has millions of pixels."""
    return (slice(top, min(height, top + _STRIP_ROWS)) for top in range(0, height, _STRIP_ROWS))


def _pen(image: np.ndarray) -> np.ndarray:
    """Green and blue strokes of a pen, which stains never are: haematoxylin is as red as it is green, or redder."""
    red, green, blue = (image[..., channel].astype(np.int16) for channel in range(3))
    return np.asarray(((green > red + 30) & (green > blue + 10)) | ((blue > red + 90) & (green > red + 20)))


def read_tissue_mask(path: Path, slide: Slide) -> TissueMask:
    """A user's own mask.

    Args:
        path: an image of the slide's shape at any size, in which tissue is not black; or GeoJSON in the slide's
            pixels, all of whose areas are tissue.
        slide: with a resolution.

    Raises:
        DataError: if the file cannot be used.
    """
    path = Path(path)
    name = path.name.lower()
    if name.endswith((".geojson", ".json", ".geojson.gz")):
        from patch2tissue.slides.filling import fill_polygons
        from patch2tissue.slides.geojson import IN_PIXELS, read_geojson

        view = ScaledSlide(slide, UM_PER_PIXEL)
        polygons = [shape for _, shape in read_geojson(path)]
        filled = fill_polygons(polygons, *view.shape, view.scale)
        if not filled.any():
            raise DataError(f"{path}: marks nothing on {slide.path.name}. {IN_PIXELS}")
        return TissueMask(filled, view.scale, f"{path}")
    mask = read_image(path).max(axis=2) > 0
    width, height = slide.size
    own, theirs = mask.shape[1] / mask.shape[0], width / height
    if abs(own / theirs - 1) > max(_ASPECT, 1.5 / min(mask.shape)):
        raise DataError(
            f"{path}: is {mask.shape[1]} × {mask.shape[0]} pixels, which is not the shape of {slide.path.name} "
            f"({width} × {height}). A tissue mask covers the whole slide."
        )
    return TissueMask(mask, (width / mask.shape[1], height / mask.shape[0]), f"{path}")


def tissue_mask_for(slide: Slide, choice: str | Path) -> TissueMask:
    """The mask that a user chose.

    Args:
        slide: with a resolution.
        choice: `found`, `everywhere`, a mask file, or a folder with `NAME.png`, `NAME.tif` or `NAME.geojson` for the
            slide's name.

    Raises:
        DataError: if there is no such file, or it cannot be used.
    """
    if choice == "found":
        return find_tissue(slide)
    if choice == "everywhere":
        return full_mask(slide)
    path = Path(choice)
    if not path.is_dir():
        return read_tissue_mask(path, slide)
    for ending in (".png", ".tif", ".tiff", ".geojson", ".geojson.gz"):
        if (path / f"{slide.name}{ending}").is_file():
            return read_tissue_mask(path / f"{slide.name}{ending}", slide)
    raise DataError(f"{path}: holds no mask for {slide.path.name}, {slide.name}.png or {slide.name}.geojson.")


def contour_picture(slide: Slide, tissue: TissueMask, longest: int = 1600) -> Image.Image:
    """The slide made small with the outline of its tissue and a scale bar of 1 mm (or of 0.1 mm on a small one).

    Args:
        slide: with a resolution.
        tissue: where tissue is.
        longest: longer side of the picture in pixels, at most.
    """
    assert slide.resolution is not None
    finest = max(slide.size) / longest
    view = ScaledSlide(slide, max(slide.resolution.x, slide.resolution.y) * max(1.0, finest))
    image = view.thumbnail()
    inside = tissue.region((0, image.shape[0]), (0, image.shape[1]), view.scale)
    wide = ndimage.binary_dilation(inside, iterations=max(1, longest // 800))
    image[wide & ~inside] = (0, 140, 60)
    picture = Image.fromarray(image)
    bar_mm = 1.0 if picture.width * view.um_per_pixel[0] > 4000 else 0.1
    length = round(1000 * bar_mm / view.um_per_pixel[0])
    draw = ImageDraw.Draw(picture)
    y = picture.height - 14
    draw.rectangle((9, y - 16, 15 + max(length, 48), y + 8), fill=(255, 255, 255))
    draw.rectangle((12, y, 12 + length, y + 4), fill=(0, 0, 0))
    draw.text((12, y - 13), f"{bar_mm:g} mm", fill=(0, 0, 0))
    return picture
