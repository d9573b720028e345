"""Microns per pixel of a slide: where it may be found, and in which order the places are trusted."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from patch2tissue.errors import ConfigError, DataError

logger = logging.getLogger(__name__)

FINEST, COARSEST = 0.02, 100.0
"""µm per pixel outside which a figure is no resolution of a slide's full picture."""

_UM_PER_UNIT = {"inch": 25_400.0, "centimeter": 10_000.0, "2": 25_400.0, "3": 10_000.0}
_OBJECTIVE = 10.0


@dataclass(frozen=True)
class Resolution:
    """µm per pixel of level 0 along x and along y, and where the figure comes from."""

    x: float
    y: float
    source: str


def given_resolution(um_per_pixel: float) -> Resolution:
    """The resolution that a user states.

    Raises:
        ConfigError: if it is none.
    """
    if not (math.isfinite(um_per_pixel) and FINEST <= um_per_pixel <= COARSEST):
        raise ConfigError(
            f"{um_per_pixel:g} µm per pixel is no resolution of a slide; it is a number from {FINEST} to {COARSEST:g}, "
            "0.25 for most scans at 40x and 0.5 at 20x."
        )
    return Resolution(um_per_pixel, um_per_pixel, "given")


def resolution_of(path: Path, properties: Mapping[str, str]) -> Resolution | None:
    """Resolution by a slide's properties (named as OpenSlide names them); None if they tell nothing.

    Trusted in this order: microns per pixel, the TIFF's resolution tags, the objective's power (10 / power, with a
    warning, since cameras differ).

    Raises:
        DataError: if they tell something impossible.
    """
    for names, source, convert in (
        (("openslide.mpp-x", "openslide.mpp-y"), "slide metadata", _as_it_is),
        (("tiff.XResolution", "tiff.YResolution"), "TIFF tags", _um_of(properties)),
    ):
        values = [convert(_number(properties.get(name))) for name in names]
        x, y = (value if value is not None else other for value, other in zip(values, values[::-1], strict=True))
        if x is None or y is None:
            continue
        if source == "TIFF tags" and not all(FINEST <= value <= COARSEST for value in (x, y)):
            continue  # 72 or 96 dots per inch: a program wrote them, and not a scanner
        return checked(path, Resolution(x, y, source))
    power = _number(properties.get("openslide.objective-power"))
    if power is None or power <= 0:
        return None
    guess = _OBJECTIVE / power
    logger.warning(
        "%s: states no µm per pixel; %g is taken from its objective (%gx). Pass --mpp if you know better.",
        path,
        guess,
        power,
    )
    return checked(path, Resolution(guess, guess, "objective power"))


def missing_resolution(path: Path) -> DataError:
    """The error for a slide that does not tell its resolution."""
    return DataError(
        f"{path}: does not tell its resolution. Pass --mpp with the µm per pixel of its full size (0.25 for most scans "
        "at 40x, 0.5 at 20x), or list it in a CSV with the columns wsi,mpp."
    )


def _number(text: str | None) -> float | None:
    try:
        value = float((text or "").replace(",", "."))
    except ValueError:
        return None
    return value if math.isfinite(value) and value > 0 else None


def _as_it_is(value: float | None) -> float | None:
    return value


def _um_of(properties: Mapping[str, str]) -> Callable[[float | None], float | None]:
    unit = _UM_PER_UNIT.get(properties.get("tiff.ResolutionUnit", "").lower())

    def convert(per_unit: float | None) -> float | None:
        return None if unit is None or per_unit is None else unit / per_unit

    return convert


def checked(path: Path, resolution: Resolution) -> Resolution:
    """The resolution that a file states, with a warning if its pixels are no squares.

    Raises:
        DataError: if no slide has such a resolution.
    """
    for value in (resolution.x, resolution.y):
        if not FINEST <= value <= COARSEST:
            raise DataError(
                f"{path}: states {value:g} µm per pixel ({resolution.source}), which no slide has. Pass --mpp with the "
                "right one."
            )
    if max(resolution.x, resolution.y) / min(resolution.x, resolution.y) > 1.02:
        logger.warning(
            "%s: its pixels are %g µm wide and %g µm high; both are kept to.", path, resolution.x, resolution.y
        )
    return resolution
