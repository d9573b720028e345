"""The documentation cites the committed figures of the benchmark of pages."""

from __future__ import annotations

import json
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_documentation_cites_the_committed_figures() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "viewer.json").read_text(encoding="utf-8"))["figures"]
    text = " ".join((ROOT / "docs" / "labelling.md").read_text(encoding="utf-8").split())
    assert f"a folder of {figures['patches']:,.0f} patches" in text
    assert f"saved {figures['start_seconds']:.1f} s after the command" in text
    assert f"drawn {figures['next_ms_p50']:.0f} ms after Space" in text
    assert f"95% within {figures['next_ms_p95']:.0f} ms" in text


def test_viewer_page_cites_them_too() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "viewer.json").read_text(encoding="utf-8"))["figures"]
    text = (ROOT / "docs" / "viewer.md").read_text(encoding="utf-8")
    for kind, title in (("slide", "slide, JPEG"), ("maps", "map, PNG")):
        cells = [
            f"{figures[f'{kind}_tile_{state}_ms_{share}']:.0f}"
            for state in ("cold", "warm")
            for share in ("p50", "p95")
        ]
        assert f"| {title} | " + " | ".join(cells) + " |" in text
