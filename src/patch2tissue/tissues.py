"""Tissue sets: which tissues there are, in which order, in which colours, and what counts as background.

The order of a set is the order of the digits in a patch's label and of the indices in a mask. A mask index that
stands for background (white glass, or a region nobody annotated) is never scored and never trained on.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from patch2tissue.errors import ConfigError
from patch2tissue.plain_yaml import read_yaml

IGNORE_INDEX = 255
"""Mask value of a pixel that is neither trained on nor scored."""

Color = tuple[int, int, int]


@dataclass(frozen=True)
class Tissue:
    """One tissue: `name` as a pathologist says it, `abbreviation` for tables, `color` as RGB in 0..255."""

    name: str
    abbreviation: str
    color: Color


@dataclass(frozen=True)
class Background:
    """What a mask holds besides tissue, and whether white pixels of an image are taken for it.

    Attributes:
        index: mask value that means background or exclude (never scored); it follows the last tissue.
        color: RGB in 0..255.
        white_above: pixels whose R, G and B all exceed this value (0..255) are background, so that a pseudo label
            ignores them; None where white belongs to a tissue (fat in BCSS-WSSS).
    """

    index: int
    color: Color = (255, 255, 255)
    white_above: int | None = None


@dataclass(frozen=True)
class TissueSet:
    """An ordered set of tissues with its palette.

    Attributes:
        name: identifier used in configs and on the command line.
        tissues: in label order; mask index k is `tissues[k]`.
        background: background rule, or None if every mask pixel is a tissue.
        um_per_pixel: resolution of the patches in µm per pixel, None if unknown.
    """

    name: str
    tissues: tuple[Tissue, ...]
    background: Background | None = None
    um_per_pixel: float | None = None

    def __len__(self) -> int:
        return len(self.tissues)

    @property
    def names(self) -> tuple[str, ...]:
        """Tissue names in label order."""
        return tuple(tissue.name for tissue in self.tissues)

    @property
    def abbreviations(self) -> tuple[str, ...]:
        """Tissue abbreviations in label order."""
        return tuple(tissue.abbreviation for tissue in self.tissues)

    @property
    def colors(self) -> tuple[Color, ...]:
        """Tissue colours (RGB, 0..255) in label order."""
        return tuple(tissue.color for tissue in self.tissues)

    def palette(self) -> list[int]:
        """Flat palette of 256 RGB triples for a `P` mode PNG; 255 (ignored) is white."""
        flat = [0] * 768
        entries: dict[int, Color] = dict(enumerate(self.colors))
        if self.background is not None:
            entries[self.background.index] = self.background.color
        entries[IGNORE_INDEX] = (255, 255, 255)
        for index, color in entries.items():
            flat[3 * index : 3 * index + 3] = color
        return flat

    def mask_values(self) -> frozenset[int]:
        """Values a mask of this set may hold."""
        values = set(range(len(self))) | {IGNORE_INDEX}
        if self.background is not None:
            values.add(self.background.index)
        return frozenset(values)

    def to_dict(self) -> dict[str, Any]:
        """Plain form, as a user writes it in YAML; `tissue_set_from_dict` reads it back."""
        plain: dict[str, Any] = {
            "name": self.name,
            "tissues": [{"name": t.name, "abbreviation": t.abbreviation, "color": list(t.color)} for t in self.tissues],
            "um_per_pixel": self.um_per_pixel,
        }
        if self.background is not None:
            plain["background"] = {
                "index": self.background.index,
                "color": list(self.background.color),
                "white_above": self.background.white_above,
            }
        return plain


_WHITE: Color = (255, 255, 255)

_RESERVED = {"path": "in a table of labels it is the column of files", "none": "in annotations it means 'not scored'"}

BUILT_IN: dict[str, TissueSet] = {
    tissue_set.name: tissue_set
    for tissue_set in (
        TissueSet(
            "luad-histoseg",
            (
                Tissue("tumour epithelium", "TE", (205, 51, 51)),
                Tissue("necrosis", "NEC", (0, 255, 0)),
                Tissue("lymphocyte", "LYM", (65, 105, 225)),
                Tissue("tumour-associated stroma", "TAS", (255, 165, 0)),
            ),
            Background(4, _WHITE, white_above=215),
            um_per_pixel=1.0,
        ),
        TissueSet(
            "bcss-wsss",
            (
                Tissue("tumour", "TUM", (255, 0, 0)),
                Tissue("stroma", "STR", (0, 255, 0)),
                Tissue("lymphocytic infiltrate", "LYM", (0, 0, 255)),
                Tissue("necrosis", "NEC", (153, 0, 255)),
            ),
            Background(4, _WHITE, white_above=None),
            um_per_pixel=0.25,
        ),
        TissueSet(
            "wsss4luad",
            (
                Tissue("tumour epithelium", "TE", (0, 64, 128)),
                Tissue("tumour-associated stroma", "TAS", (64, 128, 0)),
                Tissue("normal tissue", "NOR", (243, 152, 0)),
            ),
            Background(3, _WHITE, white_above=215),
            um_per_pixel=1.0,
        ),
        TissueSet(
            "glas",
            (
                Tissue("gland", "GLA", (205, 51, 51)),
                Tissue("surrounding tissue", "SUR", (255, 165, 0)),
            ),
            None,
            um_per_pixel=0.62,
        ),
    )
}
"""Tissue sets that are known by name."""


class _TissueModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    abbreviation: str | None = None
    color: tuple[int, int, int]

    @model_validator(mode="after")
    def _names_can_be_columns(self) -> _TissueModel:
        for name in (self.name, self.abbreviation or self.name):
            if name != name.strip() or not name.isprintable():
                raise ValueError(f"{name!r} is not a name: it has spaces around it, line ends or control characters")
            if name.casefold() in _RESERVED:
                raise ValueError(f"'{name}' cannot be a tissue's name: {_RESERVED[name.casefold()]}")
        return self

    @model_validator(mode="after")
    def _color_in_range(self) -> _TissueModel:
        if any(not 0 <= value <= 255 for value in self.color):
            raise ValueError(f"color {list(self.color)} is not three integers in 0..255")
        return self


class _BackgroundModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    index: int
    color: tuple[int, int, int] = _WHITE
    white_above: int | None = Field(default=None, ge=0, le=255)


class _TissueSetModel(BaseModel):
    model_config = ConfigDict(extra="forbid")
    name: str = Field(min_length=1)
    tissues: list[_TissueModel] = Field(min_length=2, max_length=64)
    background: _BackgroundModel | None = None
    um_per_pixel: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @model_validator(mode="after")
    def _consistent(self) -> _TissueSetModel:
        names = [tissue.name for tissue in self.tissues]
        # tables and annotations name tissues in any case
        if len({name.casefold() for name in names}) != len(names):
            raise ValueError("two tissues have the same name")
        colors = [tissue.color for tissue in self.tissues]
        if self.background is not None:
            colors.append(self.background.color)
            if not len(names) <= self.background.index < IGNORE_INDEX:
                raise ValueError(f"background index {self.background.index} must be in {len(names)}..254")
        if len(set(colors)) != len(colors):
            raise ValueError("two entries have the same colour, so coloured masks could not be read")
        return self


def tissue_set_from_dict(plain: dict[str, Any], source: str = "tissue set") -> TissueSet:
    """Build a tissue set from its plain form.

    Args:
        plain: keys `name`, `tissues` (a list of `name`, `color`, optional `abbreviation`), optional `background`
            (`index`, `color`, `white_above`) and `um_per_pixel`.
        source: file or field it came from, for the message.

    Raises:
        ConfigError: if a key is missing, unknown or wrong.
    """
    try:
        model = _TissueSetModel.model_validate(plain)
    except ValidationError as error:
        details = "; ".join(f"{'.'.join(map(str, e['loc'])) or 'set'}: {e['msg']}" for e in error.errors())
        raise ConfigError(f"{source}: not a valid tissue set: {details}.") from None
    return TissueSet(
        model.name,
        tuple(Tissue(t.name, t.abbreviation or t.name[:3].upper(), t.color) for t in model.tissues),
        None
        if model.background is None
        else Background(model.background.index, model.background.color, model.background.white_above),
        model.um_per_pixel,
    )


def load_tissue_set(name_or_path: str | Path) -> TissueSet:
    """Return a built-in tissue set by name, or read one from a YAML file.

    Raises:
        ConfigError: if the name is unknown, or the file is missing or not a valid tissue set.
    """
    text = str(name_or_path)
    if text in BUILT_IN:
        return BUILT_IN[text]
    path = Path(text)
    if path.suffix.lower() not in {".yaml", ".yml"}:
        raise ConfigError(
            f"Unknown tissue set '{text}'. Built in are {', '.join(BUILT_IN)}; or give a YAML file that "
            "describes yours."
        )
    plain = read_yaml(path, "a tissue set", "name and tissues")
    return tissue_set_from_dict(plain, str(path))
