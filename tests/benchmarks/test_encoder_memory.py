"""The benchmark of memory by what of an encoder is trained, on two blocks."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from benchmarks.encoder_memory import main


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_frozen_encoder_takes_less(tmp_path: Path) -> None:
    options = json.dumps({"depth": 2, "out_indices": [0, 1]})
    size = ["--batch", "2", "--side", "64", "--out", str(tmp_path / "found.json")]
    main(["--encoder", "phikon", "--options", options, "--modes", "all", "frozen", *size])
    figures = json.loads((tmp_path / "found.json").read_text())["figures"]
    assert figures["all"]["trained_millions"] > 14 and figures["frozen"]["trained_millions"] < 0.01
    assert figures["frozen"]["memory_share"] < 0.8 and figures["frozen"]["checkpoint_mib"] < 1
    assert figures["all"]["checkpoint_mib"] > 150
