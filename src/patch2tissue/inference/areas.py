"""Areas of tissues in predicted masks, as CSV."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patch2tissue.data.tables import write_table
from patch2tissue.tissues import TissueSet

COLUMNS = ("image", "tissue", "pixels", "share", "area_um2", "area_mm2")


@dataclass(frozen=True, slots=True)
class TissueArea:
    """Area of one tissue in one image: pixels, share of the image, µm² (None if the resolution is unknown)."""

    tissue: str
    pixels: int
    share: float
    area_um2: float | None


def tissue_areas(mask: np.ndarray, tissues: TissueSet, um_per_pixel: float | None) -> list[TissueArea]:
    """Measure a mask [H, W] uint8; background counts only in the whole that shares refer to."""
    counts = np.bincount(mask.ravel(), minlength=256)

    def area(pixels: int) -> float | None:
        return None if um_per_pixel is None else pixels * um_per_pixel**2

    return [
        TissueArea(name, int(count), float(count / mask.size), area(int(count)))
        for name, count in zip(tissues.names, counts, strict=False)
    ]


def write_areas(path: Path, areas: Iterable[tuple[str, TissueArea]]) -> None:
    """Write `areas.csv`: one row per image and tissue; area columns stay empty where the resolution is unknown."""

    def row(image: str, area: TissueArea) -> list[object]:
        physical = ("", "") if area.area_um2 is None else (f"{area.area_um2:.2f}", f"{area.area_um2 / 1e6:.8f}")
        return [image, area.tissue, area.pixels, f"{area.share:.6f}", *physical]

    write_table(path, COLUMNS, (row(image, area) for image, area in areas))
