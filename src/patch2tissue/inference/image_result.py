"""What became of an image that was predicted, in a form of which a hundred thousand take little memory."""

from __future__ import annotations

import math
import os.path
import struct
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from patch2tissue.inference.areas import TissueArea
from patch2tissue.inference.familiarity import Familiarity

_HEAD, _AREA = "=3d", "I2d"


@dataclass(frozen=True, slots=True, init=False, repr=False)
class ImageResult:
    """What became of one image.

    All results of a call are kept until its tables are written, so numbers are packed and paths are texts.

    Attributes:
        image: the file.
        mask: the written mask, None if it failed.
        areas: one per tissue.
        error: why it failed, None if it did not.
        confidence: mean over its pixels with tissue, 0..1; None if it failed, holds no tissue, or is not known.
        familiarity: whether it looks like the training patches; None if that is not known.
        place: the file as text; what a result is best found by.
    """

    place: str
    error: str | None
    _mask_folder: str | None
    _mask_file: str
    _tissues: tuple[str, ...]
    _numbers: bytes

    def __init__(
        self,
        image: Path | str,
        mask: Path | None,
        areas: Sequence[TissueArea] = (),
        error: str | None = None,
        confidence: float | None = None,
        familiarity: Familiarity | None = None,
    ) -> None:
        texture, colour = familiarity or (None, None)
        numbers = [_or_nan(confidence), _or_nan(texture), _or_nan(colour)]
        for area in areas:
            numbers += [area.pixels, area.share, _or_nan(area.area_um2)]
        folder, file = (None, "") if mask is None else os.path.split(mask)
        values = {
            "place": str(image),  # a text is kept as it is, and so shared with the list that it comes from
            "error": error,
            "_mask_folder": None if folder is None else sys.intern(folder),
            "_mask_file": "" if file == _usual(Path(image).stem) else file,
            "_tissues": _shared(tuple(area.tissue for area in areas)),
            "_numbers": struct.pack(_HEAD + _AREA * len(areas), *numbers),
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)

    @property
    def image(self) -> Path:
        """The file."""
        return Path(self.place)

    @property
    def mask(self) -> Path | None:
        """The written mask, None if it failed."""
        if self._mask_folder is None:
            return None
        return Path(self._mask_folder, self._mask_file or _usual(self.image.stem))

    @property
    def areas(self) -> tuple[TissueArea, ...]:
        """One per tissue."""
        numbers = self._unpacked()[3:]
        return tuple(
            TissueArea(tissue, int(pixels), share, _or_none(area))
            for tissue, pixels, share, area in zip(
                self._tissues, numbers[::3], numbers[1::3], numbers[2::3], strict=True
            )
        )

    @property
    def confidence(self) -> float | None:
        """Mean over its pixels with tissue, 0..1."""
        return _or_none(self._unpacked()[0])

    @property
    def familiarity(self) -> Familiarity | None:
        """Whether it looks like the training patches."""
        texture, colour = self._unpacked()[1:3]
        return None if math.isnan(texture) else Familiarity(texture, colour)

    def _unpacked(self) -> tuple[float, ...]:
        return struct.unpack(_HEAD + _AREA * len(self._tissues), self._numbers)

    def __repr__(self) -> str:
        return f"ImageResult({self.place!r}, mask={self.mask!r}, error={self.error!r})"


_TISSUES: dict[tuple[str, ...], tuple[str, ...]] = {}


def _shared(tissues: tuple[str, ...]) -> tuple[str, ...]:
    """The same names as one object, since they are those of every image of a run."""
    if len(_TISSUES) > 100:
        _TISSUES.clear()
    return _TISSUES.setdefault(tissues, tissues)


def _usual(stem: str) -> str:
    return f"{stem}_mask.png"


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value


def _or_none(value: float) -> float | None:
    return None if math.isnan(value) else value
