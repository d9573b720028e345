from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest

from patch2tissue.inference.areas import COLUMNS, tissue_areas, write_areas
from patch2tissue.tissues import load_tissue_set

LUAD = load_tissue_set("luad-histoseg")


def mask() -> np.ndarray:
    values = np.zeros((10, 20), dtype=np.uint8)
    values[:, 10:15] = 3
    values[:, 15:18] = 4  # background
    values[:, 18:] = 255
    return values


def test_pixels_shares_and_areas() -> None:
    areas = tissue_areas(mask(), LUAD, 0.5)
    assert [area.tissue for area in areas] == list(LUAD.names)
    assert [area.pixels for area in areas] == [100, 0, 0, 50]
    assert [area.share for area in areas] == [0.5, 0.0, 0.0, 0.25]
    assert [area.area_um2 for area in areas] == [25.0, 0.0, 0.0, 12.5]


def test_area_is_unknown_without_a_resolution() -> None:
    assert all(area.area_um2 is None for area in tissue_areas(mask(), LUAD, None))


def test_table(tmp_path: Path) -> None:
    rows = [("a, b.png", area) for area in tissue_areas(mask(), LUAD, 2.0)]
    rows += [("c.png", area) for area in tissue_areas(mask(), LUAD, None)]
    write_areas(tmp_path / "areas.csv", rows)
    with (tmp_path / "areas.csv").open(encoding="utf-8", newline="") as stream:
        table = list(csv.DictReader(stream))
    assert tuple(table[0]) == COLUMNS
    assert len(table) == 8
    assert table[0]["image"] == "a, b.png"
    assert int(table[0]["pixels"]) == 100
    assert float(table[0]["area_um2"]) == pytest.approx(400.0)
    assert float(table[0]["area_mm2"]) == pytest.approx(400.0 / 1e6)
    assert table[4]["area_um2"] == table[4]["area_mm2"] == ""
    assert [path.name for path in tmp_path.iterdir()] == ["areas.csv"]
