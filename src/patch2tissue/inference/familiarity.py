"""Whether pictures look like those a network was trained on, in numbers and in words; without torch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np


class Familiarity(NamedTuple):
    """How far pictures lie from the training patches.

    Attributes:
        texture: share of the training patches that lie nearer, 0..1.
        colour: likewise, by colour.
    """

    texture: float
    colour: float


def unlike_training(
    familiarity: Sequence[Familiarity] | np.ndarray, what: str, um_per_pixel: float | None
) -> list[str]:
    """What to warn of, in words; empty if pictures look like training patches.

    One picture may be odd; when the middle one of many is, all are. So fewer than five must be odder to be told of.

    Args:
        familiarity: of each picture; or the same as an array [n, 2].
        what: what they are, in the plural or not, such as `a.svs` or `the 12 images`.
        um_per_pixel: resolution of the training patches, None if unknown.
    """
    if not len(familiarity):
        return []
    limit = 0.85 if len(familiarity) >= 5 else 0.95
    texture, colour = np.median(np.asarray(familiarity), axis=0)
    resolution = "" if um_per_pixel is None else f" ({um_per_pixel:g} µm per pixel)"
    warnings = []
    if texture > limit:
        warnings.append(
            f"{what}: the texture is farther from that of the training patches than {_percent(texture)} of them are "
            f"from each other. Check the resolution{resolution}, the focus, and that these tissues were learned; "
            "expect less of the maps."
        )
    if colour > limit:
        warnings.append(
            f"{what}: the colours are farther from those of the training patches than {_percent(colour)} of them are "
            "from each other. Check the stain and the scanner; expect less of the maps, or train with patches such as "
            "these, or with a larger data.stain_jitter."
        )
    return warnings


def _percent(share: float) -> str:
    return f"{min(share, 0.99):.0%}" if share < 1 else "all"
