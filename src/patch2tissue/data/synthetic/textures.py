"""What lies between nuclei: fibres, cytoplasm and cell borders, lumens, clefts, smudge; as amounts of dye."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy import ndimage

from patch2tissue.data.synthetic.cells import Forms
from patch2tissue.data.synthetic.difficulty import LYMPHOCYTES, NECROSIS, STROMA, TUMOUR
from patch2tissue.data.synthetic.fields import FloatArray, blur, fractal_noise, smooth_noise, soft_step, stretched_noise
from patch2tissue.data.synthetic.layout import Layout
from patch2tissue.data.synthetic.nuclei import PALE_TUMOUR, Nuclei
from patch2tissue.data.synthetic.slides import Slide


@dataclass(frozen=True)
class Fibres:
    """Curved coordinates of the stroma.

    Attributes:
        across: `[H, W]` coordinate across the fibres in µm.
        along: `[H, W]` coordinate along the fibres in µm.
        angle: `[H, W]` direction of the fibres in radians.
    """

    across: FloatArray
    along: FloatArray
    angle: FloatArray


def lay_fibres(rng: np.random.Generator, layout: Layout, um_per_pixel: float) -> Fibres:
    """Fibres run in one direction through the patch, wave, and bend around tumour nests."""
    shape = (layout.mask.shape[0], layout.mask.shape[1])
    turn = rng.uniform(0, np.pi)
    rows, columns = np.mgrid[: shape[0], : shape[1]].astype(np.float32) * np.float32(um_per_pixel)
    across = rows * np.float32(np.cos(turn)) - columns * np.float32(np.sin(turn))
    along = rows * np.float32(np.sin(turn)) + columns * np.float32(np.cos(turn))
    across += np.float32(rng.uniform(5.0, 10.0)) * smooth_noise(rng, shape, 26.0 / um_per_pixel)
    across += 1.2 * smooth_noise(rng, shape, 7.0 / um_per_pixel)
    if (layout.mask == TUMOUR).any():
        nest = blur((layout.mask == TUMOUR).astype(np.float32), 5.0 / um_per_pixel)
        across += np.float32(rng.choice((-1, 1)) * 16.0) * nest
    down, right = np.gradient(across)
    return Fibres(across, along, np.arctan2(-right, down).astype(np.float32))


def open_lumens(rng: np.random.Generator, layout: Layout, slide: Slide, um_per_pixel: float) -> FloatArray:
    """`[H, W]` 0..1: gland lumens inside tumour, where there is no tissue. They belong to the tumour's label."""
    shape = (layout.mask.shape[0], layout.mask.shape[1])
    field = smooth_noise(rng, shape, 15.0 / um_per_pixel) + 0.12 * smooth_noise(rng, shape, 3.0 / um_per_pixel)
    inside = layout.weights[TUMOUR] * soft_step(layout.depth, 0.55, 0.3)
    opened = soft_step(field, 2.1 - 1.2 * slide.glands + rng.normal(0, 0.15), 0.12)
    return np.asarray(opened * (inside > 0.5), np.float32)


def between_nuclei(
    rng: np.random.Generator,
    layout: Layout,
    forms: Forms,
    fibres: Fibres,
    lumen: FloatArray,
    nuclei: Nuclei,
    slide: Slide,
    um_per_pixel: float,
) -> tuple[FloatArray, FloatArray]:
    """Draw everything but nuclei; returns `[H, W]` amounts of haematoxylin and of eosin."""
    shape = (layout.mask.shape[0], layout.mask.shape[1])
    h = np.zeros(shape, np.float32)
    e = np.zeros(shape, np.float32)
    fine = smooth_noise(rng, shape, max(0.7 / um_per_pixel, 1.0))
    cloud = fractal_noise(rng, shape, 14.0 / um_per_pixel, octaves=3)
    weights = layout.weights
    stroma_h, stroma_e = _stroma(rng, forms, fibres, slide, fine, cloud)
    if weights[STROMA].any():
        h += weights[STROMA] * stroma_h
        e += weights[STROMA] * stroma_e
    if weights[LYMPHOCYTES].any():
        h += weights[LYMPHOCYTES] * (0.7 * stroma_h + 0.09)
        e += weights[LYMPHOCYTES] * (0.62 * stroma_e)
    if weights[TUMOUR].any():
        tumour_h, tumour_e = _cytoplasm(rng, forms, nuclei, slide, fine, cloud, um_per_pixel)
        h += weights[TUMOUR] * tumour_h
        e += weights[TUMOUR] * tumour_e
    if weights[NECROSIS].any():
        necrosis_h, necrosis_e = _necrosis(rng, forms, fibres, fine, cloud, um_per_pixel)
        h += weights[NECROSIS] * necrosis_h
        e += weights[NECROSIS] * necrosis_e
    solid = 1 - np.maximum(lumen, _retraction(rng, layout, slide, um_per_pixel))
    return np.maximum(h * solid, 0), np.maximum(e * solid, 0)


def _stroma(
    rng: np.random.Generator, forms: Forms, fibres: Fibres, slide: Slide, fine: FloatArray, cloud: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Wavy collagen in bundles, with white clefts between them; hyaline stroma is smooth and has none."""
    width = np.float32(slide.fibres)
    thin = stretched_noise(rng, fibres.across / width, fibres.along / 14.0)
    bundle = stretched_noise(rng, fibres.across / (3.2 * width), fibres.along / 26.0)
    hair = stretched_noise(rng, fibres.across / (0.5 * width), fibres.along / 7.0)
    hyaline = forms.of(STROMA, "hyaline")
    cellular = forms.of(STROMA, "desmoplastic")
    oedema = forms.of(STROMA, "oedematous")
    strength = 1 - 0.75 * hyaline
    ridges = thin + 0.8 * bundle + 0.6 * hair
    e = 0.29 + strength * (0.065 * ridges + 0.015 * fine) + 0.025 * cloud
    e = (e - 0.03 * hyaline - 0.05 * cellular) * (1 - 0.35 * oedema)
    gap = soft_step(-(thin + 1.1 * bundle + 0.45 * hair) + 0.35 * cloud, 3.3 - 1.6 * slide.clefts, 0.7)
    open_share = 1 - gap * strength * 0.92
    h = 0.035 + 0.008 * ridges * strength + 0.06 * cellular
    return np.asarray(h * open_share, np.float32), np.asarray(e * open_share, np.float32)


def _cytoplasm(
    rng: np.random.Generator,
    forms: Forms,
    nuclei: Nuclei,
    slide: Slide,
    fine: FloatArray,
    cloud: FloatArray,
    um_per_pixel: float,
) -> tuple[FloatArray, FloatArray]:
    """Granular cytoplasm with its own tone in each cell, and thin pale or dark borders between cells."""
    shape = fine.shape
    pale = forms.of(TUMOUR, "pale cells")
    tone = np.zeros(shape, np.float32)
    border = np.zeros(shape, np.float32)
    cells = nuclei.take(np.flatnonzero(nuclei.kind <= PALE_TUMOUR))
    if len(cells):
        seeds = np.ones(shape, bool)
        owner = np.zeros(shape, np.int32)
        rows, columns = cells.row.astype(np.intp), cells.column.astype(np.intp)
        seeds[rows, columns] = False
        owner[rows, columns] = np.arange(len(cells))
        away, nearest = ndimage.distance_transform_edt(seeds, return_indices=True)
        cell = owner[tuple(nearest)]
        tone = rng.standard_normal(len(cells)).astype(np.float32)[cell]
        differs = np.zeros(shape, np.float32)
        differs[:-1] += cell[:-1] != cell[1:]
        differs[:, :-1] += cell[:, :-1] != cell[:, 1:]
        border = ndimage.gaussian_filter(np.minimum(differs, 1), 0.35 / um_per_pixel) * (away < 9.0 / um_per_pixel)
    crisp = np.float32(rng.uniform(-0.10, 0.10))  # cell borders are dark, pale or absent
    h = np.float32(0.07 + 0.13 * slide.cytoplasm) * (1 + 0.12 * tone + 0.14 * fine)
    e = np.float32(0.25 - 0.06 * slide.cytoplasm) * (1 + 0.12 * tone + 0.10 * fine)
    e = e + 0.02 * cloud + crisp * border
    h = h * (1 - 0.62 * pale)
    e = e * (1 - 0.12 * pale) + 0.02 * pale * cloud
    return np.asarray(h, np.float32), np.asarray(e, np.float32)


def _necrosis(
    rng: np.random.Generator, forms: Forms, fibres: Fibres, fine: FloatArray, cloud: FloatArray, um_per_pixel: float
) -> tuple[FloatArray, FloatArray]:
    """Pale, smudged, granular eosinophilic matter without structure."""
    shape = (fine.shape[0], fine.shape[1])
    grain = smooth_noise(rng, shape, 1.3 / um_per_pixel)
    smudge = fractal_noise(rng, shape, 9.0 / um_per_pixel, octaves=2)
    e = 0.23 * (1 + 0.13 * cloud + 0.12 * smudge + 0.15 * grain + 0.08 * fine)
    fibrin = forms.of(NECROSIS, "fibrinous")
    if fibrin.any():
        e = e + fibrin * 0.05 * stretched_noise(rng, fibres.across / 2, fibres.along / 12)
    h = 0.03 * (1 + 0.5 * smudge + 0.3 * grain)
    return np.asarray(h, np.float32), np.asarray(e, np.float32)


def _retraction(rng: np.random.Generator, layout: Layout, slide: Slide, um_per_pixel: float) -> FloatArray:
    """`[H, W]` 0..1: white clefts where tumour shrank away from stroma; label as its surroundings."""
    shape = (layout.mask.shape[0], layout.mask.shape[1])
    seam = 4 * layout.weights[TUMOUR] * (layout.weights[STROMA] + layout.weights[LYMPHOCYTES])
    if not seam.any():
        return np.zeros(shape, np.float32)
    where = soft_step(smooth_noise(rng, shape, 14.0 / um_per_pixel), 1.5 - 1.1 * slide.clefts, 0.5)
    return soft_step(seam, 0.75, 0.3) * where
