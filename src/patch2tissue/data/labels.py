"""Labels, patients and slides in file names."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

NameLayout = Literal["luad-histoseg", "bcss-wsss", "wsss4luad"]

NAME_LAYOUTS: tuple[NameLayout, ...] = ("luad-histoseg", "bcss-wsss", "wsss4luad")
"""Layouts that carry the label in the file name, by the data set that introduced them."""

_SEPARATOR: dict[NameLayout, str] = {"luad-histoseg": " ", "bcss-wsss": "", "wsss4luad": ", "}
_PATTERN: dict[NameLayout, re.Pattern[str]] = {
    "luad-histoseg": re.compile(r"\[([01](?: [01])+)\]$"),
    "bcss-wsss": re.compile(r"\[([01]{2,})\]$"),
    "wsss4luad": re.compile(r"\[([01](?:, ?[01])+)\]$"),
}
_TCGA = re.compile(r"^(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(-[0-9A-Z]{3}-[0-9]{2})?-?([DTB]S?X?[0-9A-Z]*)?")
_SYNTHETIC = re.compile(r"^(SYN-[0-9A-Z]+-[0-9]+)-(DX[0-9]+)(?=_|$)")
_NUMBERED = re.compile(r"^(\d{4,})-\d+-\d+(?=-|$)")
_REGION = re.compile(r"^(.+?)_x\d+_y\d+(?=_|-|$)")


def parse_label(stem: str, layout: str, tissues: TissueSet) -> tuple[int, ...] | None:
    """Read the label at the end of a file name.

    Args:
        stem: file name without its extension.
        layout: `luad-histoseg` (`[1 0 0 1]`), `bcss-wsss` (`[1101]`) or `wsss4luad` (`[1, 0, 1]`).
        tissues: the set whose tissues the digits stand for.

    Returns:
        One 0 or 1 per tissue, or None if the name ends in no label of this layout.

    Raises:
        DataError: if the label has another number of digits than the set has tissues.
    """
    pattern = _PATTERN.get(layout)  # type: ignore[call-overload]
    if pattern is None:
        raise DataError(f"Unknown layout '{layout}'. Known are {', '.join(NAME_LAYOUTS)} and csv.")
    match = pattern.search(stem)
    if match is None:
        return None
    digits = tuple(int(character) for character in match.group(1) if character in "01")
    if len(digits) != len(tissues):
        raise DataError(
            f"{stem}: its label has {len(digits)} digits, but the tissue set '{tissues.name}' has {len(tissues)} tissues "
            f"({', '.join(tissues.names)}). Rename the file, or use the tissue set it was made for."
        )
    return digits


def format_label(labels: Sequence[int], layout: NameLayout) -> str:
    """The label as it stands in a file name, for example `[1 0 0 1]`."""
    return f"[{_SEPARATOR[layout].join(str(int(label)) for label in labels)}]"


def layout_of(stem: str) -> NameLayout | None:
    """Layout whose form of label a name ends in, or None."""
    for layout in NAME_LAYOUTS:
        if _PATTERN[layout].search(stem):
            return layout
    return None


def patient_of(stem: str) -> str | None:
    """Patient in a file name of a known form, or None where the name does not tell."""
    for pattern in (_TCGA, _SYNTHETIC, _NUMBERED, _REGION):
        match = pattern.match(stem)
        if match:
            return match.group(1)
    return None


def slide_of(stem: str) -> str | None:
    """Slide (or region) in a file name of a known form, or None where the name does not tell."""
    match = _TCGA.match(stem)
    if match:
        return match.group(0).rstrip("-")
    match = _SYNTHETIC.match(stem)
    if match:
        return match.group(0)
    match = _NUMBERED.match(stem) or _REGION.match(stem)
    return match.group(1) if match else None
