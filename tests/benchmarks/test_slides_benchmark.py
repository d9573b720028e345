"""The arithmetic of the slide benchmark, and that its committed figures are those of its committed runs."""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from benchmarks.slides import OURS, Repeated, figures, memory_of

from patch2tissue.cores import release_memory

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "slides.json"


def test_ratios_are_taken_turn_by_turn() -> None:
    def runs(rates: list[float], peak: float) -> list[dict[str, float]]:
        return [{"tiles_per_second": rate, "peak_mib": peak, "waiting_share": 0.1} for rate in rates]

    speed = {"systems": {OURS: runs([10, 12], 100), "plain loop, float32": runs([5, 4], 50)}}
    memory = [{"size": 10_000, "peak_own_mib": 100.0}, {"size": 20_000, "peak_own_mib": 104.0}]
    found = figures(speed, memory)
    assert found["speedup_vs_plain_loop"] == pytest.approx((10 / 5 + 12 / 4) / 2)
    assert found["speedup_vs_plain_loop_least"] == 2.0
    assert found["peak_memory_ratio"] == pytest.approx(1.04)
    assert found["patch2tissue.tiles_per_second"] == 11.0 and found["waiting_share"] == pytest.approx(0.1)
    assert figures(None, None) == {}


def test_committed_figures_are_those_of_the_committed_runs() -> None:
    plain = json.loads(RESULTS.read_text(encoding="utf-8"))
    runs = {name: plain["parts"].get(name, {}).get("runs") for name in ("speed", "memory")}
    assert plain["figures"] == figures(runs["speed"], runs["memory"])


def test_copies_lie_along_two_edges() -> None:
    picture = np.random.default_rng(0).integers(0, 255, (4, 5, 3), dtype=np.uint8)
    slide = Repeated(picture, 3)
    whole = slide.read(0, 12)
    assert whole.shape == slide.shape == (12, 15, 3)
    np.testing.assert_array_equal(whole[:4, 10:], picture)
    np.testing.assert_array_equal(whole[8:, :5], picture)
    assert (whole[4:, 5:] == picture[0, 0]).all()
    np.testing.assert_array_equal(slide.read(3, 9), whole[3:9])


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_memory_of_this_process_is_seen() -> None:
    release_memory()  # what earlier tests freed would be used again
    before = memory_of(os.getpid())
    held = np.ones(2**26, np.uint8)  # 64 MiB
    after = memory_of(os.getpid())
    assert held.sum() == 2**26
    assert 60 < after[1] - before[1] < 100 and after[0] > after[1]
