"""What tests of the quality benchmark share: recipes of one tiny set, in a folder of their own."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from benchmarks.quality import recipes
from benchmarks.quality.cells import Places, apart
from benchmarks.quality.recipes import merged

TINY: dict[str, Any] = {
    "title": "tiny",
    "headline": "random",
    "tissues": "bcss-wsss",
    "train_patches": 8,
    "test_images": 2,
    "data": {"source": {"kind": "synthetic", "train": 8, "val": 0, "test": 2, "size": 32, "seed": 3}},
    "craanet": {"epochs": 2, "batch_size": 4},
    "pseudo_labels": {"scales": [1.0], "symmetries": False},
    "pfscnet": {"epochs": 1, "batch_size": 4, "decoder_channels": 8, "atrous_rates": [1, 2, 3]},
    "hardware": {"threads": 1},
}
"""Recipe of `synthetic_hard` here."""


def write_recipe(changes: dict[str, Any]) -> None:
    """Write `TINY` with changes into the folder of recipes in use."""
    recipes._text.cache_clear()
    plain = merged(TINY, changes)
    (recipes.FOLDER / "synthetic_hard.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")


def tiny_places(
    folder: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any] | None = None, *, rows: bool = True
) -> Places:
    """Use tiny recipes, and a work folder for their results.

    Args:
        folder: gets both.
        monkeypatch: undoes it.
        changes: to `TINY`.
        rows: keep the recipes of single rows.
    """
    home = folder / "recipes"
    home.mkdir()
    shutil.copy(recipes.FOLDER / "encoder-random.yaml", home)
    if rows:
        shutil.copy(recipes.FOLDER / "rows.yaml", home)
    else:
        (home / "rows.yaml").write_text("{}", encoding="utf-8")
    monkeypatch.setattr(recipes, "FOLDER", home)
    write_recipe(changes or {})
    return apart(folder / "work")
