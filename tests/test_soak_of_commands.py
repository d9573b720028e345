"""The soak as a test: every long command, killed fifty times, loses nothing. The benchmark writes the counts down."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from benchmarks.soak import Bench


@pytest.mark.slow
def test_fifty_kills_lose_nothing(tmp_path: Path) -> None:
    outcomes = list(Bench(tmp_path).outcomes(50, random.Random(1), None))
    assert sum(outcome.kills for outcome in outcomes) >= 50
    assert {outcome.command for outcome in outcomes} == {
        "train",
        "pseudo-labels",
        "predict",
        "slide predict",
        "label",
    }
    assert [outcome for outcome in outcomes if not outcome.good] == []
