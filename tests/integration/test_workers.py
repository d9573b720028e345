"""The number of data-loading processes changes nothing: weights, memory and pseudo labels are the same bit for bit."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.soak import contents

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue.config import RunConfig, load_config
from patch2tissue.pfscnet.training import PFSCNetStage
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder

RANDOM = [
    "craanet.epochs=2",
    "pfscnet.epochs=2",
    "pfscnet.losses_start=0",
    "pfscnet.mosaic=0.7",
    "pfscnet.consistency.weight=0.5",
]
"""Two epochs, the second with workers that are there already; parts of stage 2 that draw in the training process."""


def _config(folder: Path, data: Path, workers: int) -> RunConfig:
    settings = [f"output={folder}", f"data.path={data}", *TINY, *RANDOM, f"hardware.workers={workers}"]
    return load_config(RECIPES / "bcss-wsss.yaml", settings)


def _results(run: RunFolder) -> dict[str, bytes]:
    return {name: content for name, content in contents(run.path).items() if name != "config.yaml"}


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker")
def test_same_run_with_0_1_and_4_workers(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    alone = _results(run_training(_config(tmp_path / "alone", data, 0), progress=False))
    assert len(alone) > 60
    # and stopped with one worker: the first epoch of a process starts it, later ones find it there
    stopped = _config(tmp_path / "stopped", data, 1)
    killed_at(monkeypatch, PFSCNetStage, 4, lambda: run_training(stopped, progress=False))
    for config in (stopped, _config(tmp_path / "four", data, 4)):
        other = _results(run_training(config, progress=False))
        assert [name for name in alone.keys() | other.keys() if alone.get(name) != other.get(name)] == []
