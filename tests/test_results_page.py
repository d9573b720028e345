"""The tables of docs/results.md are those of the committed benchmark file."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
FIGURES = json.loads((ROOT / "benchmarks" / "results" / "results_tables.json").read_text(encoding="utf-8"))["figures"]


@pytest.mark.parametrize("recipe", sorted(FIGURES))
def test_table_is_in_the_page(recipe: str) -> None:
    spec = importlib.util.spec_from_file_location("results_tables", ROOT / "benchmarks" / "results_tables.py")
    assert spec is not None and spec.loader is not None
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert script.markdown(FIGURES[recipe]["scores"]) in page
    assert f"## {recipe}" in page
