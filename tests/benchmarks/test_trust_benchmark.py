"""The documentation cites the committed figures of warnings and calibration; the benchmark's parts do their work."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from benchmarks.trust import CHANGES, RESULTS, groups_of, tables, windows_of
from PIL import Image

from patch2tissue.data.patches import Patch

ROOT = Path(__file__).resolve().parents[2]


def test_documentation_holds_the_tables() -> None:
    text = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    for table in tables(json.loads(RESULTS.read_text(encoding="utf-8"))):
        assert table in text


def test_every_change_changes_the_picture() -> None:
    picture = Image.fromarray(np.random.default_rng(0).integers(60, 220, (64, 80, 3)).astype(np.uint8))
    for title, change in CHANGES.items():
        changed = np.asarray(change(picture))
        assert changed.dtype == np.uint8 and changed.ndim == 3
        same = changed.shape == (64, 80, 3) and (changed == np.asarray(picture)).all()
        assert same == (title == "unchanged"), title


def test_windows_and_groups() -> None:
    assert [window.shape[:2] for window in windows_of(np.zeros((70, 50, 3)), 32)] == [(32, 32), (32, 32)]
    assert [window.shape[:2] for window in windows_of(np.zeros((20, 50, 3)), 32)] == [(20, 32)]
    patches = [Patch(Path("a"), "a", patient="x"), Patch(Path("b"), "b", patient="x"), Patch(Path("c"), "c")]
    assert {name: len(found) for name, found in groups_of(patches).items()} == {"x": 2, "c": 1}
