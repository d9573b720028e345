"""Nuclei: kinds, placement without overlap, and drawing."""

from __future__ import annotations

from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from patch2tissue.data.synthetic.fields import FloatArray, smooth_noise


@dataclass(frozen=True)
class Kind:
    """How nuclei of one kind look; sizes in µm, darkness in amounts of haematoxylin.

    Attributes:
        name: what a pathologist calls it.
        radius: mean radius, of a circle of the same area.
        spread: relative deviation of the radius.
        length: mean ratio of length to width.
        darkness: mean amount of haematoxylin.
        irregular: relative deviation of the outline from an ellipse.
        rim: how much darker the membrane is than the inside; vesicular nuclei have a strong rim.
        clumps: strength of chromatin clumps.
        nucleolus: share of nuclei with nucleoli.
        room: distance kept around it, as a factor on the radius.
        edge: width over which it fades into the cytoplasm, in µm.
    """

    name: str
    radius: float
    spread: float
    length: float
    darkness: float
    irregular: float
    rim: float
    clumps: float
    nucleolus: float
    room: float
    edge: float = 0.45


KINDS = (
    Kind("tumour", 3.3, 0.15, 1.28, 0.50, 0.09, 0.30, 0.14, 0.8, 1.22),
    Kind("small tumour", 2.55, 0.10, 1.15, 0.72, 0.07, 0.12, 0.14, 0.2, 1.2),
    Kind("pale tumour", 3.2, 0.14, 1.20, 0.27, 0.10, 0.14, 0.08, 0.4, 1.4, 0.6),
    Kind("fibroblast", 1.75, 0.16, 3.6, 0.72, 0.05, 0.08, 0.12, 0.0, 1.5),
    Kind("plump fibroblast", 2.5, 0.14, 2.0, 0.52, 0.06, 0.2, 0.14, 0.3, 1.4),
    Kind("lymphocyte", 2.15, 0.07, 1.08, 0.95, 0.04, 0.10, 0.22, 0.0, 1.12),
    Kind("activated lymphocyte", 2.75, 0.10, 1.12, 0.66, 0.05, 0.2, 0.24, 0.3, 1.2),
    Kind("ghost", 2.9, 0.20, 1.25, 0.12, 0.16, 0.05, 0.05, 0.0, 1.6, 1.0),
    Kind("debris", 0.75, 0.45, 1.3, 0.75, 0.15, 0.0, 0.0, 0.0, 1.2, 0.4),
    Kind("shrunken", 1.7, 0.2, 1.3, 0.85, 0.18, 0.0, 0.1, 0.0, 1.3, 0.6),
)
(TUMOUR_CELL, SMALL_TUMOUR, PALE_TUMOUR, FIBROBLAST, PLUMP, LYMPHOCYTE, ACTIVATED, GHOST, DEBRIS, SHRUNKEN) = range(10)


def traits(name: str) -> FloatArray:
    """One attribute of all kinds as an array, indexed by kind."""
    return np.array([getattr(kind, name) for kind in KINDS], np.float32)


@dataclass(frozen=True)
class Nuclei:
    """Nuclei as arrays of equal length `[N]`: positions and sizes in pixels, angle of the long axis in radians."""

    row: FloatArray
    column: FloatArray
    kind: npt.NDArray[np.intp]
    radius: FloatArray
    length: FloatArray
    angle: FloatArray
    darkness: FloatArray

    def __len__(self) -> int:
        return len(self.row)

    def take(self, chosen: npt.NDArray[np.generic]) -> Nuclei:
        """Nuclei by index or by boolean mask."""
        return Nuclei(**{item.name: getattr(self, item.name)[chosen] for item in fields(self)})


def candidates(rng: np.random.Generator, shape: tuple[int, int], spacing: float) -> tuple[FloatArray, FloatArray]:
    """Positions on a jittered grid, in random order, about one per `spacing`² pixels; rows and columns."""
    rows, columns = np.meshgrid(np.arange(0, shape[0], spacing), np.arange(0, shape[1], spacing), indexing="ij")
    row = (rows + rng.uniform(0, spacing, rows.shape)).ravel()
    column = (columns + rng.uniform(0, spacing, columns.shape)).ravel()
    order = rng.permutation(len(row))
    row = np.clip(row[order], 0, shape[0] - 1.001)
    column = np.clip(column[order], 0, shape[1] - 1.001)
    return row.astype(np.float32), column.astype(np.float32)


def keep_apart(row: FloatArray, column: FloatArray, room: FloatArray) -> npt.NDArray[np.bool_]:
    """Greedy choice, in the given order, of positions that keep `room_i + room_j` pixels apart."""
    kept = np.ones(len(row), bool)
    if len(row) < 2:
        return kept
    points = np.stack([row, column], axis=1)
    pairs = cKDTree(points).query_pairs(2 * float(room.max()), output_type="ndarray")
    distance = np.hypot(*(points[pairs[:, 0]] - points[pairs[:, 1]]).T)
    pairs = np.sort(pairs[distance < room[pairs[:, 0]] + room[pairs[:, 1]]], axis=1)
    pairs = pairs[np.lexsort((pairs[:, 1], pairs[:, 0]))]
    for first, second in pairs.tolist():
        if kept[first]:
            kept[second] = False
    return kept


def draw(
    rng: np.random.Generator,
    nuclei: Nuclei,
    shape: tuple[int, int],
    um_per_pixel: float,
    pleomorphism: float,
    nucleoli: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """Draw nuclei.

    Args:
        rng: source of randomness.
        nuclei: what to draw.
        shape: height and width of the canvas.
        um_per_pixel: resolution.
        pleomorphism: factor on the irregularity of tumour nuclei.
        nucleoli: share of tumour nuclei with a visible nucleolus.

    Returns:
        `[H, W]` float32 each: amount of haematoxylin inside nuclei, cover 0..1, and amount of extra eosin (nucleoli).
    """
    stain = np.zeros(shape, np.float32)
    cover = np.zeros(shape, np.float32)
    extra = np.zeros(shape, np.float32)
    grain = smooth_noise(rng, shape, max(0.75 / um_per_pixel, 1.0))
    reach = 1.25 * nuclei.radius * np.sqrt(nuclei.length) + 1.5 * traits("edge")[nuclei.kind] / um_per_pixel + 1
    tumour = nuclei.kind <= PALE_TUMOUR
    irregular = traits("irregular")[nuclei.kind] * np.where(tumour, pleomorphism, 1.0)
    waves = rng.standard_normal((len(nuclei), 3, 2), dtype=np.float32) * irregular[:, None, None]
    waves = waves.astype(np.float32) * np.array([1.0, 0.7, 0.5], np.float32)[:, None]
    share = traits("nucleolus")[nuclei.kind] * np.where(tumour, 2 * nucleoli, 1.0)
    has_nucleolus = rng.random(len(nuclei)) < share
    spot = rng.normal(0.0, 0.3, (len(nuclei), 2)).astype(np.float32)
    for low, high in ((0, 5), (5, 8), (8, 12), (12, 18), (18, 30), (30, 60), (60, 1000)):
        chosen = np.flatnonzero((reach >= low) & (reach < high))
        if len(chosen):
            size = int(np.ceil(reach[chosen].max()))
            _draw_group(
                nuclei.take(chosen), size, um_per_pixel, grain, waves[chosen], has_nucleolus[chosen], spot[chosen],
                stain, cover, extra,
            )  # fmt: skip
    return stain, cover, extra


def _draw_group(
    nuclei: Nuclei,
    size: int,
    um_per_pixel: float,
    grain: FloatArray,
    waves: FloatArray,
    has_nucleolus: npt.NDArray[np.bool_],
    spot: FloatArray,
    stain: FloatArray,
    cover: FloatArray,
    extra: FloatArray,
) -> None:
    """Draw nuclei that fit a window of 2·`size`+1 pixels, all at once, then put each in its place."""
    height, width = stain.shape
    span = np.arange(-size, size + 1)
    rows = np.rint(nuclei.row).astype(np.intp)
    columns = np.rint(nuclei.column).astype(np.intp)
    y = (span - (nuclei.row - rows)[:, None]).astype(np.float32)[:, :, None]
    x = (span - (nuclei.column - columns)[:, None]).astype(np.float32)[:, None, :]
    sine, cosine = np.sin(nuclei.angle)[:, None, None], np.cos(nuclei.angle)[:, None, None]
    long = (nuclei.radius * np.sqrt(nuclei.length))[:, None, None]
    short = (nuclei.radius / np.sqrt(nuclei.length))[:, None, None]
    p = (x * cosine + y * sine) / long
    q = (y * cosine - x * sine) / short
    rho = np.sqrt(p * p + q * q) + np.float32(1e-6)
    c1, s1 = p / rho, q / rho
    c2, s2 = c1 * c1 - s1 * s1, 2 * c1 * s1
    c3, s3 = c2 * c1 - s2 * s1, s2 * c1 + c2 * s1
    w = waves[:, :, :, None, None]
    outline = 1 + w[:, 0, 0] * c2 + w[:, 0, 1] * s2 + w[:, 1, 0] * c3 + w[:, 1, 1] * s3
    outline += w[:, 2, 0] * (c2 * c2 - s2 * s2) + w[:, 2, 1] * (2 * c2 * s2)
    depth = (np.clip(outline, 0.5, 1.6) - rho) * np.sqrt(long * short)  # pixels inside the outline
    edge = (traits("edge")[nuclei.kind] / um_per_pixel)[:, None, None]
    alpha = np.clip(0.5 + depth / (2 * edge), 0, 1)
    rim = traits("rim")[nuclei.kind][:, None, None]
    clumps = traits("clumps")[nuclei.kind][:, None, None]
    iy = np.clip(rows[:, None] + span, 0, height - 1)
    ix = np.clip(columns[:, None] + span, 0, width - 1)
    texture = 1 + clumps * grain[iy[:, :, None], ix[:, None, :]]
    membrane = np.exp(-((depth / (0.55 / um_per_pixel) - 0.6) ** 2))
    value = nuclei.darkness[:, None, None] * (texture * (1 - 0.5 * rim) + 1.6 * rim * membrane)
    nucleolus = (
        np.exp(
            -(((p - spot[:, :1, None]) * long) ** 2 + ((q - spot[:, 1:, None]) * short) ** 2)
            / (2 * (0.55 / um_per_pixel) ** 2)
        )
        * has_nucleolus[:, None, None]
    )
    value = value + np.float32(0.45) * nucleolus
    for k, (row, column) in enumerate(zip(rows.tolist(), columns.tolist(), strict=True)):
        top, left = max(row - size, 0), max(column - size, 0)
        bottom, right = min(row + size + 1, height), min(column + size + 1, width)
        if bottom <= top or right <= left:
            continue
        canvas = (slice(top, bottom), slice(left, right))
        own = (k, slice(top - row + size, bottom - row + size), slice(left - column + size, right - column + size))
        a = alpha[own]
        stain[canvas] += a * (value[own] - stain[canvas])
        cover[canvas] = np.maximum(cover[canvas], a)
        extra[canvas] = np.maximum(extra[canvas], a * np.float32(0.25) * nucleolus[own])
