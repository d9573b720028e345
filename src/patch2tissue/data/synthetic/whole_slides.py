"""Synthetic whole slides: tissue on glass, of any size, drawn a few rows at a time, with its truth.

A patch's drawing costs too much for 1.6 gigapixels. Here each tissue is drawn once as a square of dye amounts that
repeats, in two kinds that are mixed by a smooth field, and smooth fields say where on the slide which tissue is. What
repeats is texture, never the outline of anything.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import numpy.typing as npt
from scipy import ndimage

from patch2tissue.cores import available_cores
from patch2tissue.data.synthetic.difficulty import LYMPHOCYTES, NECROSIS, STROMA, TUMOUR, Difficulty, difficulty_named
from patch2tissue.data.synthetic.fields import FloatArray, SmoothField, soft_step
from patch2tissue.data.synthetic.layout import TISSUES
from patch2tissue.data.synthetic.patches import UM_PER_PIXEL, dye_amounts
from patch2tissue.data.synthetic.slides import Slide as SlideLook
from patch2tissue.errors import ConfigError
from patch2tissue.tissues import IGNORE_INDEX

SMALLEST, LARGEST = 64, 200_000
"""Least and greatest width and height of a synthetic slide in pixels."""

_LATTICE = 4  # pixels between the places at which fields are computed
_KINDS = 2
_REGION_UM = 220.0
_BORDER_UM = 1.5
_NECROSIS_FROM, _TUMOUR_FROM, _LYMPHOCYTES_FROM = 1.05, 0.2, 0.75
_WRAP = 32  # pixels over which a texture's end passes into its beginning


class _Field:
    """Smooth fields of several scales, added up; about unit variance."""

    def __init__(
        self, rng: np.random.Generator, shape: tuple[int, int], scale: float, octaves: int, roughness: float
    ) -> None:
        amplitudes = [roughness**k for k in range(octaves)]
        whole = np.sqrt(sum(amplitude**2 for amplitude in amplitudes))
        # some pixels more than the slide, for the lattice's last place
        wide = (shape[0] + 2 * _LATTICE, shape[1] + 2 * _LATTICE)
        self._parts = [
            (np.float32(amplitude / whole), SmoothField(rng, wide, max(scale / 2**k, 2.0 * _LATTICE)))
            for k, amplitude in enumerate(amplitudes)
        ]

    def at(self, rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer]) -> FloatArray:
        """Values at the crossings of rows and columns."""
        total = np.zeros((len(rows), len(columns)), np.float32)
        for amplitude, part in self._parts:
            total += amplitude * part.at(rows, columns)
        return total


class WholeSlide:
    """A synthetic slide; same arguments, same pixels.

    Pieces of tissue lie on glass: tumour in stroma, necrosis inside it, infiltrates beside it.

    Args:
        width: in pixels.
        height: in pixels.
        seed: seed.
        um_per_pixel: resolution, 0.1 to 2.
        difficulty: how far its stain is from the usual one; `easy`, `medium` or `hard`.

    Attributes:
        shape: height and width in pixels.
        um_per_pixel: see above.

    Raises:
        ConfigError: if an argument makes no sense.
    """

    def __init__(
        self,
        width: int,
        height: int,
        *,
        seed: int = 0,
        um_per_pixel: float = UM_PER_PIXEL,
        difficulty: str = "medium",
    ) -> None:
        for name, length in (("width", width), ("height", height)):
            if not SMALLEST <= length <= LARGEST:
                raise ConfigError(f"A synthetic slide's {name} is from {SMALLEST} to {LARGEST} pixels, not {length}.")
        if not 0.1 <= um_per_pixel <= 2:
            raise ConfigError(f"A synthetic slide has 0.1 to 2 µm per pixel, not {um_per_pixel:g}.")
        level = difficulty_named(difficulty)
        self.shape, self.um_per_pixel = (height, width), um_per_pixel
        where, looks, noise, drawing = np.random.SeedSequence([seed, 4]).spawn(4)
        self._look = SlideLook.random(np.random.default_rng(looks), level.stain_shift)
        rng = np.random.default_rng(where)
        extent = min(self.shape)
        region = min(_REGION_UM / um_per_pixel, extent / 4)
        self._outline = _Field(rng, self.shape, extent / 5, 4, 0.5)
        self._nests = _Field(rng, self.shape, region, 4, 0.5)
        self._infiltrates = _Field(rng, self.shape, 0.7 * region, 4, 0.5)
        self._mixture = _Field(rng, self.shape, 80.0 / um_per_pixel, 2, 0.5)
        self._thickness = _Field(rng, self.shape, 400.0 / um_per_pixel, 1, 0.5)
        # fields are steeper where the slide is small
        self._soft = _BORDER_UM / um_per_pixel / region * 2.5
        self._period = 256 if extent < 2048 else 512 if extent < 8192 else 1024
        self._textures = _textures(drawing, self._period, level, self._look, um_per_pixel)
        self._noise = np.random.default_rng(noise).normal(0.0, 1.0, (self._period, self._period, 3)).astype(np.float32)
        self._noise *= np.float32(self._look.stain.noise)
        stain = self._look.stain
        self._absorption = (
            np.log(np.float32(10.0))
            * stain.gamma
            * np.array(
                [
                    np.array(stain.haematoxylin) * stain.haematoxylin_amount,
                    np.array(stain.eosin) * stain.eosin_amount,
                ]
            ).astype(np.float32)
        )
        self._glass = np.rint(stain.light).astype(np.uint8)

    @property
    def picture(self) -> _Drawn:
        """The picture as `Rows`, uint8 RGB [H, W, 3]."""
        return _Drawn((*self.shape, 3), self._period, self._draw)

    @property
    def truth(self) -> _Drawn:
        """The tissues as `Rows`, uint8 [H, W]: 0 to 3 in the order of the set `bcss-wsss`, 255 on glass."""
        return _Drawn(self.shape, self._period, self._label)

    def _label(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        inside, nests, infiltrates = self._fields(top, bottom, left, right)
        found = np.where(infiltrates > 0, LYMPHOCYTES, STROMA).astype(np.uint8)
        found[nests > _TUMOUR_FROM] = TUMOUR
        found[nests > _NECROSIS_FROM] = NECROSIS
        found[inside <= 0] = IGNORE_INDEX
        return found

    def _fields(self, top: int, bottom: int, left: int, right: int) -> tuple[FloatArray, FloatArray, FloatArray]:
        """How far pixels are inside the tissue, inside nests and inside infiltrates; these are above 0 where they lie.

        Of the last the level is lower near nests.
        """
        area = (top, bottom, left, right)
        inside = _interpolated(area, lambda rows, columns: self._inside(rows, columns))
        if not (inside > -self._soft).any():
            none = np.zeros_like(inside)
            return inside, none, none
        nests = _interpolated(area, self._nests.at)
        infiltrates = _interpolated(area, self._infiltrates.at)
        beside = np.float32(0.6) * soft_step(nests, _TUMOUR_FROM - 0.45, 0.5)
        return inside, nests, infiltrates - np.float32(_LYMPHOCYTES_FROM) + beside

    def _inside(self, rows: npt.NDArray[np.integer], columns: npt.NDArray[np.integer]) -> FloatArray:
        """Above 0 in one large piece of tissue with a ragged outline, or in several where the field tears it."""
        height, width = self.shape
        y = ((rows + np.float32(0.5)) / np.float32(height) * 2 - 1).astype(np.float32)[:, None]
        x = ((columns + np.float32(0.5)) / np.float32(width) * 2 - 1).astype(np.float32)[None]
        # a rounded rectangle: nothing reaches the slide's edge
        middle = np.float32(0.72) - (np.abs(y) ** 3 + np.abs(x) ** 3)
        raised = np.minimum(middle * 3, np.float32(0.9)) + np.float32(0.45) * self._outline.at(rows, columns)
        return np.asarray(np.minimum(raised, (np.float32(0.97) - np.maximum(np.abs(y), np.abs(x))) * 8), np.float32)

    def _draw(self, top: int, bottom: int, left: int, right: int) -> npt.NDArray[np.uint8]:
        inside, nests, infiltrates = self._fields(top, bottom, left, right)
        image = np.empty((bottom - top, right - left, 3), np.uint8)
        image[:] = self._glass
        soft = self._soft
        covered = soft_step(inside, 0.0, soft)
        if not covered.any():
            return image
        tumour, necrosis = soft_step(nests, _TUMOUR_FROM, soft), soft_step(nests, _NECROSIS_FROM, soft)
        lymphocytes = soft_step(infiltrates, 0.0, soft)
        weights = {
            TUMOUR: tumour * (1 - necrosis),
            STROMA: (1 - tumour) * (1 - lymphocytes),
            LYMPHOCYTES: (1 - tumour) * lymphocytes,
            NECROSIS: necrosis,
        }
        area = (top, bottom, left, right)
        second = soft_step(_interpolated(area, self._mixture.at), 0.4, 0.4)
        h, e = np.zeros_like(inside), np.zeros_like(inside)
        y, x = top % self._period, left % self._period  # an area does not reach over the end of a texture
        place = (slice(y, y + bottom - top), slice(x, x + right - left))
        for tissue, weight in weights.items():
            weight *= covered
            if not weight.any():
                continue
            for kind, share in enumerate((weight * (1 - second), weight * second)):
                h += share * self._textures[tissue, kind, 0][place]
                e += share * self._textures[tissue, kind, 1][place]
        thickness = 1 + np.float32(0.08) * _interpolated(area, self._thickness.at)
        h *= thickness
        e *= thickness
        light = np.array(self._look.stain.light, np.float32)
        for channel in range(3):
            density = h * self._absorption[0, channel] + e * self._absorption[1, channel]
            seen = light[channel] * np.exp(-density) + covered * self._noise[place][..., channel]
            image[..., channel] = np.clip(np.rint(seen), 0, 255)
        return image


class _Drawn:
    """`Rows` that are drawn when they are read, area by area on all cores."""

    def __init__(
        self, shape: tuple[int, ...], period: int, draw: Callable[[int, int, int, int], npt.NDArray[np.uint8]]
    ) -> None:
        self.shape, self._period, self._draw = shape, period, draw

    def read(self, top: int, bottom: int) -> npt.NDArray[np.uint8]:
        """See `Rows.read`."""
        bottom, width = min(bottom, self.shape[0]), self.shape[1]
        strip = np.empty((bottom - top, *self.shape[1:]), np.uint8)
        # areas end where textures do
        ends = sorted({*range(top - top % self._period + self._period, bottom, self._period), bottom})
        areas = [
            (start, end, left, min(width, left + self._period))
            for start, end in zip([top, *ends], ends, strict=False)
            for left in range(0, width, self._period)
        ]

        def fill(area: tuple[int, int, int, int]) -> None:
            start, end, left, right = area
            strip[start - top : end - top, left:right] = self._draw(start, end, left, right)

        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(fill, areas))
        return strip


def _textures(
    seed: np.random.SeedSequence, period: int, level: Difficulty, look: SlideLook, um_per_pixel: float
) -> FloatArray:
    """Dye amounts of each tissue in two kinds, `[4, 2, 2, P, P]` float32: haematoxylin, eosin; they repeat."""
    jobs = [(tissue, kind) for tissue in range(TISSUES) for kind in range(_KINDS)]
    side = period + _WRAP

    def texture(job: tuple[tuple[int, int], np.random.SeedSequence]) -> FloatArray:
        (tissue, _), own = job
        streams = [np.random.default_rng(child) for child in own.spawn(4)]
        amounts = dye_amounts(streams, (side, side), (tissue,), level, look, um_per_pixel)[:2]
        blurred = [
            ndimage.gaussian_filter(_repeating(part, period), look.stain.blur, mode="wrap", truncate=3.0)
            for part in amounts
        ]
        return np.stack(blurred)

    with ThreadPoolExecutor(available_cores()) as pool:
        drawn = list(pool.map(texture, zip(jobs, seed.spawn(len(jobs)), strict=True)))
    return np.asarray(np.stack(drawn).reshape(TISSUES, _KINDS, 2, period, period), np.float32)


def _repeating(texture: FloatArray, period: int) -> FloatArray:
    """Lay what is beyond the period over the beginning, so that the end passes into it."""
    share = np.linspace(0, 1, _WRAP, dtype=np.float32)
    rows = texture[:period].copy()
    rows[:_WRAP] = share[:, None] * texture[:_WRAP] + (1 - share)[:, None] * texture[period:]
    whole = rows[:, :period].copy()
    whole[:, :_WRAP] = share * rows[:, :_WRAP] + (1 - share) * rows[:, period:]
    return whole


def _interpolated(
    area: tuple[int, int, int, int],
    field: Callable[[npt.NDArray[np.integer], npt.NDArray[np.integer]], FloatArray],
) -> FloatArray:
    """A field at every pixel of an area, linear between the places of the lattice."""
    top, bottom, left, right = area
    rows, columns = (np.arange(start, end) for start, end in ((top, bottom), (left, right)))
    lattice = [np.arange(places[0] // _LATTICE, places[-1] // _LATTICE + 2) * _LATTICE for places in (rows, columns)]
    low = field(lattice[0], lattice[1])
    y, x = (rows - lattice[0][0]) // _LATTICE, (columns - lattice[1][0]) // _LATTICE
    down = ((rows % _LATTICE) / np.float32(_LATTICE)).astype(np.float32)[:, None]
    across = ((columns % _LATTICE) / np.float32(_LATTICE)).astype(np.float32)
    tall = low[y] * (1 - down) + low[y + 1] * down
    return np.asarray(tall[:, x] * (1 - across) + tall[:, x + 1] * across, np.float32)
