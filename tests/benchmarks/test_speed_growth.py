"""Start-up, scale and data sets of the benchmark of speed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
from benchmarks.speed import data_sets, scale, startup
from benchmarks.speed.children import run_measured
from benchmarks.speed.harness import Options, Section

OPTIONS = Options(torch.device("cpu"), 1, repeats=1, quick=True)


def test_patches_are_spread_over_few_pictures(tmp_path: Path) -> None:
    drawn = []
    for name in ("a[1100].png", "b[0011].png"):
        (tmp_path / name).write_text(name)
        drawn.append(tmp_path / name)
    scale.spread(drawn, tmp_path / "many", 5)
    made = sorted((tmp_path / "many").iterdir())
    assert [path.name for path in made] == [
        "a000[1100].png", "a001[1100].png", "a002[1100].png", "b000[0011].png", "b001[0011].png",
    ]  # fmt: skip
    assert made[1].read_text() == "a[1100].png"
    assert scale.slope([10, 100, 1000], [2 * 10**0.5, 2 * 100**0.5, 2 * 1000**0.5]) == pytest.approx(0.5)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_processes_are_timed_and_weighed() -> None:
    finished = run_measured(["--version"], OPTIONS)
    assert 0.02 < finished.seconds < 60 and 2**20 < finished.anonymous <= finished.resident < 2**30
    with pytest.raises(RuntimeError, match="No such command"):
        run_measured(["nonsense"], OPTIONS)


def test_the_first_bar_is_seen() -> None:
    script = (
        "import time; from patch2tissue.progress import console, track\n"
        "with console.status('Loading ...'): time.sleep({0})\n"
        "for _ in track(range(9), 'work', 9): time.sleep(60)"
    )
    seconds = startup.until_bar([sys.executable, "-c", script.format(0.3)], OPTIONS)
    assert 0.3 < seconds < 30
    with pytest.raises(RuntimeError, match="showed no bar"):
        startup.until_bar([sys.executable, "-c", "print('nothing')"], OPTIONS)


def test_operations_are_those_of_the_networks() -> None:
    config = data_sets.load_config(data_sets.RECIPES / "luad-histoseg.yaml", ["pseudo_labels.scales=[1.0]"])
    small = {"name": "resnet10t", "output_stride": 8, "options": {"channels": [8, 16, 32, 64], "stem_width": 8}}
    encoder = data_sets.EncoderConfig(**small)
    first = config.craanet.model_copy(update={"encoder": encoder})
    second = config.pfscnet.model_copy(update={"encoder": encoder, "decoder_channels": 16})
    config = config.model_copy(update={"craanet": first, "pfscnet": second})
    found = data_sets.operations(config, 32)
    # eight symmetries and the last epoch's map, forward only; a training step costs a little under three passes
    assert found["pseudo_labels"] / 9 == pytest.approx(found["craanet"] / 3, rel=0.05)
    assert found["predict"] < found["pfscnet"] / 2
    assert data_sets.operations(config, 64)["predict"] == pytest.approx(4 * found["predict"], rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize("part", [startup, scale, data_sets])
def test_quick_form(part: object) -> None:
    section: Section = part.run(OPTIONS)  # type: ignore[attr-defined]
    assert section.lines and section.details
