"""What makes synthetic tissue easy or hard, and which tissues meet in a patch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from patch2tissue.errors import ConfigError

TUMOUR, STROMA, LYMPHOCYTES, NECROSIS = range(4)
"""Mask indices, in the order of the tissue set `bcss-wsss`."""

Composition = tuple[int, ...]


@dataclass(frozen=True)
class Difficulty:
    """Settings of one level of difficulty.

    Attributes:
        name: easy, medium or hard.
        compositions: share of the patches that hold exactly these tissues; shares add to 1.
        region_um: width of tissue regions in µm.
        ragged: how irregular the boundary of a region is, 0 to 1.
        border_um: how far drawn tissue strays over the labelled boundary, in µm (deviation).
        mixing: share of nuclei near a border that belong to the neighbour.
        stain_shift: how much slides differ in stain, light and focus.
        lookalike: share of a tissue's area that is drawn in a form that resembles another tissue.
        reaction: chance that a tissue takes on a look-alike form beside a certain other one, as stroma does around
            tumour; a sign of the neighbour that is not the neighbour.
        scattered: share of nuclei outside infiltrates that are lymphocytes.
        distractors: mean number of small unlabelled pieces of another tissue per 100 µm x 100 µm.
    """

    name: str
    compositions: Mapping[Composition, float] = field(repr=False)
    region_um: float
    ragged: float
    border_um: float
    mixing: float
    stain_shift: float
    lookalike: float
    reaction: float
    scattered: float
    distractors: float


_EASY = Difficulty(
    name="easy",
    compositions={
        (0,): 0.15, (1,): 0.15, (2,): 0.13, (3,): 0.12,
        (0, 1): 0.13, (1, 2): 0.08, (0, 3): 0.08, (0, 2): 0.05, (1, 3): 0.04, (2, 3): 0.02,
        (0, 1, 2): 0.03, (0, 1, 3): 0.02,
    },
    region_um=60.0,
    ragged=0.3,
    border_um=0.5,
    mixing=0.0,
    stain_shift=0.35,
    lookalike=0.0,
    reaction=0.0,
    scattered=0.01,
    distractors=0.0,
)  # fmt: skip
_MEDIUM = Difficulty(
    name="medium",
    compositions={
        (0,): 0.15, (1,): 0.16, (2,): 0.10, (3,): 0.09,
        (0, 1): 0.20, (1, 2): 0.08, (0, 3): 0.06, (0, 2): 0.03, (1, 3): 0.02, (2, 3): 0.01,
        (0, 1, 2): 0.06, (0, 1, 3): 0.04,
    },
    region_um=45.0,
    ragged=0.6,
    border_um=0.7,
    mixing=0.05,
    stain_shift=0.6,
    lookalike=0.15,
    reaction=0.4,
    scattered=0.03,
    distractors=0.25,
)  # fmt: skip
_HARD = Difficulty(
    name="hard",
    compositions={
        (0,): 0.02, (1,): 0.08, (2,): 0.05, (3,): 0.05,
        (0, 1): 0.40, (1, 2): 0.08, (0, 3): 0.06, (0, 2): 0.02, (1, 3): 0.02,
        (0, 1, 2): 0.11, (0, 1, 3): 0.11,
    },
    region_um=30.0,
    ragged=1.0,
    border_um=0.9,
    mixing=0.1,
    stain_shift=0.8,
    lookalike=0.2,
    reaction=0.95,
    scattered=0.05,
    distractors=0.4,
)  # fmt: skip

DIFFICULTIES: dict[str, Difficulty] = {level.name: level for level in (_EASY, _MEDIUM, _HARD)}
"""Levels by name. Hard: a fifth of the patches hold one tissue, three fifths two and a fifth three, about as in real
patches cut from tumours. Tumour is nearly never alone, so that labels say little about where it ends: what looks like
it beside it is easily taken for it."""


def difficulty_named(name: str) -> Difficulty:
    """Return a level by its name.

    Raises:
        ConfigError: if there is none.
    """
    if name not in DIFFICULTIES:
        raise ConfigError(f"difficulty '{name}' is unknown; choose {', '.join(DIFFICULTIES)}.")
    return DIFFICULTIES[name]
