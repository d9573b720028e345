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
_JOINT: dict[NameLayout, str] = {"luad-histoseg": "-", "bcss-wsss": "", "wsss4luad": "-"}
_PATTERN: dict[str, re.Pattern[str]] = {
    "luad-histoseg": re.compile(r"\[([0-9](?: [0-9])+)\]\Z"),
    "bcss-wsss": re.compile(r"\[([0-9]{2,})\]\Z"),
    "wsss4luad": re.compile(r"\[([0-9](?:, ?[0-9])+)\]\Z"),
}

# TCGA-A1-A0SK-DX1 (BCSS) and TCGA-A1-A0SK-01Z-00-DX1 (the archive's own barcodes)
_TCGA = re.compile(
    r"(TCGA-[0-9A-Z]{2}-[0-9A-Z]{4})(?![0-9A-Za-z])((?:-[0-9]{2}[A-Z]-[0-9]{2})?-(?:DX|TS|BS|MS)[0-9A-Z]+)?"
)
# our own drawn slides
_SYNTHETIC = re.compile(r"(SYN-[0-9A-Z]+-[0-9]+)(-DX[0-9]+)(?![0-9A-Za-z])")
# 1031280-2300-27920 (LUAD-HistoSeg, WSSS4LUAD): patient and place; six or seven digits, so that no date is a patient
_NUMBERED = re.compile(r"([0-9]{6,7})-[0-9]+-[0-9]+(?![0-9A-Za-z-]|\.[0-9])|([0-9]{6,7})-[0-9]+-[0-9]+-+(?=\[)")
# REGION_x000112_y000056 (patches cut by us and by many others)
_PLACED = re.compile(r"(.+?)_x[0-9]+_y[0-9]+(?![0-9A-Za-z])")


def parse_label(stem: str, layout: str, tissues: TissueSet) -> tuple[int, ...] | None:
    """Read the label at the end of a file name.

    Args:
        stem: file name without its extension.
        layout: `luad-histoseg` (`[1 0 0 1]`), `bcss-wsss` (`[1101]`) or `wsss4luad` (`[1, 0, 1]`).
        tissues: the set whose tissues the digits stand for.

    Returns:
        One 0 or 1 per tissue, or None if the name ends in no label of this layout.

    Raises:
        DataError: if the label has another number of digits than the set has tissues, or digits other than 0 and 1, or
            the layout is unknown.
    """
    if layout not in _PATTERN:
        raise DataError(f"Unknown layout '{layout}'. Known are {', '.join(NAME_LAYOUTS)} and csv.")
    match = _PATTERN[layout].search(stem)
    if match is None:
        return None
    digits = tuple(int(character) for character in match.group(1) if character not in " ,")
    if len(digits) != len(tissues):
        raise DataError(
            f"{stem}: its label has {len(digits)} digits, but the tissue set '{tissues.name}' has {len(tissues)} "
            f"tissues ({', '.join(tissues.names)}). Rename the file, or use the tissue set it was made for."
        )
    wrong = next((digit for digit in digits if digit > 1), None)
    if wrong is not None:
        raise DataError(f"{stem}: its label holds a {wrong}; a label is 0 (absent) or 1 (present) for each tissue.")
    return digits


def format_label(labels: Sequence[int], layout: NameLayout) -> str:
    """The label as it stands in a file name, for example `[1 0 0 1]`."""
    return f"[{_SEPARATOR[layout].join(str(int(label)) for label in labels)}]"


def format_name(base: str, labels: Sequence[int], layout: NameLayout = "luad-histoseg") -> str:
    """File name (without extension) of a labelled patch.

    >>> format_name("1031280-2300-27920", (1, 0, 0, 1))
    '1031280-2300-27920-[1 0 0 1]'
    """
    return f"{base}{_JOINT[layout]}{format_label(labels, layout)}"


def layout_of(stem: str) -> NameLayout | None:
    """Layout whose form of label a name ends in, or None; brackets with other digits than 0 and 1 are no label."""
    for layout in NAME_LAYOUTS:
        match = _PATTERN[layout].search(stem)
        if match is not None and set(match.group(1)) <= set("01, "):
            return layout
    return None


def patient_of(stem: str) -> str | None:
    """Patient in a file name of a known form, or None where the name does not tell.

    >>> patient_of("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]")
    'TCGA-A1-A0SK'
    >>> patient_of("train_1_x000112_y000056_mpp0.62-[1 1]") is None
    True
    """
    for pattern in (_TCGA, _SYNTHETIC, _NUMBERED):
        match = pattern.match(stem)
        if match is not None:
            return next(group for group in match.groups() if group)
    return None


def slide_of(stem: str) -> str | None:
    """Slide, or region cut into patches, in a file name of a known form; None where the name does not tell.

    >>> slide_of("TCGA-A1-A0SK-DX1_xmin45749_ymin25055_MPP-0.2500+0[1101]")
    'TCGA-A1-A0SK-DX1'
    >>> slide_of("train_1_x000112_y000056_mpp0.62-[1 1]")
    'train_1'
    """
    for pattern in (_TCGA, _SYNTHETIC):
        match = pattern.match(stem)
        if match is not None and match.group(2):
            return match.group(0)
    match = _PLACED.match(stem)
    return match.group(1) if match is not None else None
