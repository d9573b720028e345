"""Random fields: smooth noise, noise of several scales, noise along curved directions, and displacement."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from scipy import ndimage

FloatArray = npt.NDArray[np.float32]
MaskArray = npt.NDArray[np.uint8]

_SPLINE_DEVIATION = 0.479  # of a cubic B-spline over independent unit-variance coefficients, in two dimensions


def _spline_taps(
    places: npt.NDArray[np.integer], scale: float, offset: float
) -> tuple[npt.NDArray[np.intp], FloatArray]:
    """First coefficient and the four cubic B-spline weights of places on a line."""
    position = places / scale + offset
    first = np.floor(position).astype(np.intp)
    t = (position - first).astype(np.float32)
    weights = np.stack([(1 - t) ** 3, 3 * t**3 - 6 * t**2 + 4, -3 * t**3 + 3 * t**2 + 3 * t + 1, t**3]) / 6
    return first, weights.astype(np.float32)


class SmoothField:
    """Gaussian noise of unit variance whose features are about `scale` pixels wide, drawn where it is asked for.

    A cubic B-spline over random coefficients: linear in the area, and the same bits on any number of threads.

    Args:
        rng: source of randomness.
        shape: height and width of the area in pixels.
        scale: distance between coefficients in pixels.
    """

    def __init__(self, rng: np.random.Generator, shape: tuple[int, int], scale: float) -> None:
        self._scale, self._offset = scale, rng.random(2)
        ends = [np.floor((length - 1) / scale + offset) for length, offset in zip(shape, self._offset, strict=True)]
        self._grid = rng.standard_normal((int(ends[0]) + 4, int(ends[1]) + 4), dtype=np.float32)

    def at(self, rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer]) -> FloatArray:
        """Values at the crossings of rows and columns, `[len(rows), len(columns)]` float32."""
        y, row_weights = _spline_taps(rows, self._scale, float(self._offset[0]))
        x, column_weights = _spline_taps(columns, self._scale, float(self._offset[1]))
        grid = self._grid[:, x[0] : x[-1] + 4]
        x = x - x[0]
        tall = np.zeros((len(rows), grid.shape[1]), np.float32)
        field = np.zeros((len(rows), len(columns)), np.float32)
        for k in range(4):
            tall += row_weights[k][:, None] * grid[y + k]
        for k in range(4):
            field += column_weights[k] * tall[:, x + k]
        return np.asarray(field / np.float32(_SPLINE_DEVIATION), np.float32)


def smooth_noise(rng: np.random.Generator, shape: tuple[int, int], scale: float) -> FloatArray:
    """A whole `SmoothField`: `[H, W]` float32.

    Args:
        rng: source of randomness.
        shape: height and width.
        scale: distance between coefficients in pixels.
    """
    return SmoothField(rng, shape, scale).at(np.arange(shape[0]), np.arange(shape[1]))


def fractal_noise(
    rng: np.random.Generator, shape: tuple[int, int], scale: float, octaves: int = 3, roughness: float = 0.5
) -> FloatArray:
    """Sum of smooth noise at `scale`, `scale`/2, ... with amplitudes falling by `roughness`; unit variance."""
    amplitudes = [roughness**k for k in range(octaves)]
    field = np.zeros(shape, np.float32)
    for k, amplitude in enumerate(amplitudes):
        field += np.float32(amplitude) * smooth_noise(rng, shape, max(scale / 2**k, 1.0))
    return np.asarray(field / np.float32(np.sqrt(sum(a * a for a in amplitudes))), np.float32)


def stretched_noise(
    rng: np.random.Generator, across: npt.NDArray[np.floating], along: npt.NDArray[np.floating]
) -> FloatArray:
    """Noise in curved coordinates, for fibres: features are one unit of `across` wide and one of `along` long.

    Args:
        rng: source of randomness.
        across: `[H, W]` coordinate across the fibres, in feature widths.
        along: `[H, W]` coordinate along the fibres, in feature lengths.

    Returns:
        `[H, W]` float32, about unit variance.
    """
    table = rng.standard_normal((256, 64), dtype=np.float32)
    sampled = ndimage.map_coordinates(table, (across, along), order=1, mode="grid-wrap", output=np.float32)
    return np.asarray(sampled * np.float32(1.5), np.float32)  # linear interpolation lowers the deviation to 2/3


def displace(mask: MaskArray, rng: np.random.Generator, amount: float, scale: float) -> MaskArray:
    """Look `mask` up at positions moved by smooth noise of deviation `amount` pixels (nearest neighbour)."""
    height, width = mask.shape
    rows = np.arange(height)[:, None] + amount * smooth_noise(rng, (height, width), scale)
    columns = np.arange(width) + amount * smooth_noise(rng, (height, width), scale)
    rows = np.clip(np.rint(rows), 0, height - 1).astype(np.intp)
    columns = np.clip(np.rint(columns), 0, width - 1).astype(np.intp)
    return np.asarray(mask[rows, columns], np.uint8)


def blur(field: FloatArray, sigma: float) -> FloatArray:
    """Blur by about a Gaussian of deviation `sigma` pixels; a wide one by three boxes, at a cost free of `sigma`."""
    if sigma < 4:
        return np.asarray(ndimage.gaussian_filter(field, sigma, truncate=3.0), np.float32)
    width = 2 * round(sigma - 0.5) + 1  # odd; three boxes have a variance of (width² - 1) / 4, about sigma²
    for _ in range(3):
        field = ndimage.uniform_filter(field, width)
    return np.asarray(field, np.float32)


def soft_step(field: FloatArray, edge: float, width: float) -> FloatArray:
    """Go from 0 to 1 where `field` passes `edge`, smoothly over `width`."""
    t = np.clip((field - np.float32(edge)) / np.float32(width) + np.float32(0.5), 0, 1)
    return np.asarray(t * t * (3 - 2 * t), np.float32)
