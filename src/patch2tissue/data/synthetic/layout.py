"""Where tissues lie in a patch: regions with ragged borders, and what is drawn there."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patch2tissue.data.synthetic.difficulty import (
    LYMPHOCYTES,
    NECROSIS,
    STROMA,
    TUMOUR,
    Composition,
    Difficulty,
)
from patch2tissue.data.synthetic.fields import FloatArray, MaskArray, blur, displace, fractal_noise, smooth_noise

TISSUES = 4
LEAST_SHARE = 0.04
"""A tissue that covers less of a patch than this is given to its neighbours, so that labels are truthful."""


@dataclass(frozen=True)
class Layout:
    """Arrangement of tissues.

    Attributes:
        mask: `[H, W]` uint8, the label.
        content: `[H, W]` uint8, the tissue that is drawn: the label with its border blurred and distractors added.
        weights: `[4, H, W]` float32 in 0..1, adding to 1: softened content, for blending textures.
        depth: `[H, W]` float32, about 0 at a tissue's border and 1 well inside it.
    """

    mask: MaskArray
    content: MaskArray
    weights: FloatArray
    depth: FloatArray


def make_layout(
    rng: np.random.Generator,
    shape: tuple[int, int],
    composition: Composition,
    difficulty: Difficulty,
    um_per_pixel: float,
    margin: int,
) -> Layout:
    """Arrange the tissues of `composition`.

    Tumour lies in stroma as a front, as nests or as cords; necrosis is the inside of tumour, infiltrates follow the
    tumour's edge or fill a part of the stroma.

    Args:
        rng: source of randomness.
        shape: height and width of the canvas, margins included.
        composition: mask indices of the tissues that shall be present.
        difficulty: sets region width, raggedness and the border.
        um_per_pixel: resolution.
        margin: pixels at each side of the canvas that will be cut off; shares hold inside them.
    """
    scale = difficulty.region_um / um_per_pixel
    inner = (slice(margin, shape[0] - margin), slice(margin, shape[1] - margin))
    mask = _regions(rng, shape, composition, difficulty, scale, inner)
    mask = _cleaned(mask, 0.8 / um_per_pixel, 30.0 / um_per_pixel**2)
    mask = _without_traces(mask, inner)
    content = _drawn(rng, mask, difficulty, um_per_pixel)
    softness = max(difficulty.border_um / um_per_pixel * 0.5, 0.8)
    weights = _softened(content, softness)
    deep = _softened(mask, 7.0 / um_per_pixel)
    own = np.take_along_axis(deep, mask[None].astype(np.intp), axis=0)[0]
    return Layout(mask, content, weights, np.clip(2 * own - 1, 0, 1))


def _regions(
    rng: np.random.Generator,
    shape: tuple[int, int],
    composition: Composition,
    difficulty: Difficulty,
    scale: float,
    inner: tuple[slice, slice],
) -> MaskArray:
    """Split the canvas by thresholds that give each tissue a drawn share of the inner part."""
    mask = np.full(shape, composition[0], np.uint8)
    if len(composition) == 1:
        return mask
    field = _ragged(rng, shape, scale, difficulty.ragged)
    kind = rng.choice(3, p=(0.45, 0.35, 0.20))
    if kind == 0:  # a front through the patch
        angle = rng.uniform(0, 2 * np.pi)
        rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32)
        field += np.float32(rng.uniform(1.0, 1.8) / scale) * (
            np.float32(np.sin(angle)) * rows + np.float32(np.cos(angle)) * columns
        )
    elif kind == 2 and TUMOUR in composition:  # cords
        field = -np.abs(_ragged(rng, shape, 1.4 * scale, difficulty.ragged)) + np.float32(0.25) * field
    order = _from_high_to_low(rng, composition)
    if len(composition) == 2:
        share = rng.uniform(0.18, 0.82)
        return np.where(field > np.quantile(field[inner], 1 - share), order[0], order[1]).astype(np.uint8)
    shares = np.sort(rng.dirichlet((3.0, 3.0, 3.0)) * 0.55 + 0.15)[rng.permutation(3)]
    if NECROSIS in composition:  # necrosis inside tumour
        first, second = np.quantile(field[inner], (1 - shares[0], 1 - shares[0] - shares[1]))
        mask[:] = order[2]
        mask[field > second] = order[1]
        mask[field > first] = order[0]
        return mask
    edge = np.quantile(field[inner], 1 - shares[0])
    outside = field <= edge
    near = _ragged(rng, shape, 0.8 * scale, difficulty.ragged) + np.float32(rng.uniform(0.0, 0.8)) * field
    level = np.quantile(near[inner][outside[inner]], 1 - shares[1] / (shares[1] + shares[2]))
    return np.where(outside, np.where(near > level, order[1], order[2]), order[0]).astype(np.uint8)


def _from_high_to_low(rng: np.random.Generator, composition: Composition) -> tuple[int, ...]:
    """Order tissues from the inside of a nest outwards."""
    if len(composition) == 3:
        inside_out = (NECROSIS, TUMOUR, LYMPHOCYTES, STROMA)
        return tuple(tissue for tissue in inside_out if tissue in composition)
    flip = rng.random() < 0.3
    ordered = tuple(tissue for tissue in (NECROSIS, LYMPHOCYTES, TUMOUR, STROMA) if tissue in composition)
    return ordered[::-1] if flip else ordered


def _ragged(rng: np.random.Generator, shape: tuple[int, int], scale: float, ragged: float) -> FloatArray:
    field = fractal_noise(rng, shape, scale, octaves=2, roughness=0.45)
    fine = fractal_noise(rng, shape, scale / 4, octaves=3, roughness=0.6)
    return np.asarray(field + np.float32(0.24 * ragged) * fine, np.float32)


def _softened(mask: MaskArray, sigma: float) -> FloatArray:
    """Blur each tissue's region; the blurred regions add to 1."""
    present = np.unique(mask)
    weights = np.zeros((TISSUES, *mask.shape), np.float32)
    if len(present) == 1:
        weights[present[0]] = 1
        return weights
    for tissue in present:
        region = (mask == tissue).astype(np.float32)
        weights[tissue] = blur(region, sigma)
    return np.asarray(weights / weights.sum(axis=0), np.float32)


def _cleaned(mask: MaskArray, sigma: float, least_area: float) -> MaskArray:
    """Remove hairs by smoothing, and specks by their area: no annotator would draw them."""
    smooth = np.asarray(_softened(mask, max(sigma, 0.7)).argmax(axis=0), np.uint8)
    specks = np.zeros(mask.shape, bool)
    for tissue in np.unique(smooth):
        parts, count = ndimage.label(smooth == tissue)
        areas = np.bincount(parts.ravel(), minlength=count + 1)
        specks |= (areas < least_area)[parts] & (parts > 0)
    return _filled(smooth, specks)


def _without_traces(mask: MaskArray, inner: tuple[slice, slice]) -> MaskArray:
    """Give tissues with less than the least share of the inner part to their nearest neighbours."""
    shares = np.bincount(mask[inner].ravel(), minlength=TISSUES) / mask[inner].size
    rare = np.flatnonzero(shares < LEAST_SHARE)
    return _filled(mask, np.isin(mask, rare))


def _filled(mask: MaskArray, holes: npt.NDArray[np.bool_]) -> MaskArray:
    """Give `holes` to their nearest neighbours."""
    if not holes.any() or holes.all():
        return mask
    nearest = ndimage.distance_transform_edt(holes, return_distances=False, return_indices=True)
    return np.asarray(mask[tuple(nearest)], np.uint8)


def _drawn(rng: np.random.Generator, mask: MaskArray, difficulty: Difficulty, um_per_pixel: float) -> MaskArray:
    """What is drawn: tissue strays over its border, and small pieces of other tissue lie in it unlabelled."""
    content = displace(mask, rng, difficulty.border_um / um_per_pixel, 6.0 / um_per_pixel)
    content = displace(content, rng, 0.4 * difficulty.border_um / um_per_pixel, 2.0 / um_per_pixel)
    area = mask.size * um_per_pixel**2
    for _ in range(rng.poisson(difficulty.distractors * area / 1e4)):
        _add_piece(rng, content, um_per_pixel)
    return content


_PIECES = {TUMOUR: (STROMA, LYMPHOCYTES), STROMA: (TUMOUR, LYMPHOCYTES), LYMPHOCYTES: (STROMA,), NECROSIS: (TUMOUR,)}


def _add_piece(rng: np.random.Generator, content: npt.NDArray[np.uint8], um_per_pixel: float) -> None:
    """Draw one irregular piece, 4 to 8 µm in radius."""
    row, column = (int(rng.integers(0, length)) for length in content.shape)
    radius = rng.uniform(4.0, 8.0) / um_per_pixel
    reach = int(1.6 * radius) + 1
    top, left = max(row - reach, 0), max(column - reach, 0)
    window = content[top : row + reach, left : column + reach]
    rows, columns = np.ogrid[: window.shape[0], : window.shape[1]]
    distance = np.hypot(rows - (row - top), columns - (column - left)).astype(np.float32)
    distance += np.float32(0.25 * radius) * smooth_noise(rng, (window.shape[0], window.shape[1]), 0.7 * radius)
    tissue = rng.choice(_PIECES[int(content[row, column])])
    window[distance < radius] = tissue
