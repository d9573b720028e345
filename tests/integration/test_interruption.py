"""A run that is killed ends, after resuming, with the same weights, memory and labels as one left alone."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from conftest import RECIPES, TINY
from killing import Killed, killed_at
from patch2tissue import training
from patch2tissue.config import RunConfig, load_config
from patch2tissue.craanet import training as craanet_training
from patch2tissue.craanet.epoch_maps import EPOCH_MAPS_FILE
from patch2tissue.pfscnet import training as pfscnet_training
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder
from patch2tissue.training import Stage


def _same(one: RunFolder, two: RunFolder) -> None:
    for first, second in ((one.craanet, two.craanet), (one.pfscnet, two.pfscnet)):
        a, b = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
        assert all(torch.equal(a[name], b[name]) for name in a)
    for name in ("maps.npy", "counts.npy"):
        a, b = (np.load(run.craanet / "attention_memory" / name) for run in (one, two))
        assert np.array_equal(a, b)
    assert (one.craanet / EPOCH_MAPS_FILE).read_bytes() == (two.craanet / EPOCH_MAPS_FILE).read_bytes()
    histories = [np.load(run.craanet / "attention_history.npz") for run in (one, two)]
    assert all(np.array_equal(histories[0][key], histories[1][key]) for key in histories[0].files)
    masks = sorted((one.pseudo_labels / "masks").iterdir())
    assert masks and all(m.read_bytes() == (two.pseudo_labels / "masks" / m.name).read_bytes() for m in masks)


def test_killed_inside_any_stage(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")

    def config(name: str) -> RunConfig:
        return load_config(RECIPES / "bcss-wsss.yaml", [f"output={tmp_path / name}", f"data.path={data}", *TINY])

    whole = run_training(config("whole"))

    def dies_at(kind: type[Stage], step: int) -> None:
        killed_at(monkeypatch, kind, step, lambda: run_training(config("broken")))

    # 12 patches in batches of 4: three steps an epoch; steps count anew in every process
    dies_at(craanet_training.CRAANetStage, 2)  # in the first epoch: nothing to resume from
    dies_at(craanet_training.CRAANetStage, 5)  # in the second, before accumulation starts
    dies_at(craanet_training.CRAANetStage, 6)  # in the last one, with half of the memory overlaid
    dies_at(pfscnet_training.PFSCNetStage, 5)
    dies_at(pfscnet_training.PFSCNetStage, 5)  # with prototypes, bank and averaged weights on their way
    _same(whole, run_training(config("broken")))


@pytest.mark.parametrize("last", ["write_curves", "finish", "rmtree"])
def test_killed_when_all_epochs_are_done(
    tmp_path: Path, trained_runs: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch, last: str
) -> None:
    data, whole, _ = trained_runs
    settings = [f"output={tmp_path / 'broken'}", f"data.path={data}", "data.layout=auto", *TINY]
    config = load_config(RECIPES / "bcss-wsss.yaml", settings)
    place = {"write_curves": training, "finish": craanet_training.CRAANetStage, "rmtree": training.shutil}[last]
    original, calls = getattr(place, last), [0]

    def die(*arguments: object, **options: object) -> object:
        calls[0] += 1
        done = last == "finish" or (tmp_path / "broken" / "craanet" / "finished").is_file()
        if done or (last == "write_curves" and calls[0] == 3):
            raise Killed
        return original(*arguments, **options)

    with monkeypatch.context() as patch, pytest.raises(Killed):
        patch.setattr(place, last, die)
        run_training(config)
    run = run_training(config)
    _same(RunFolder(whole), run)
    curves = [(folder / "craanet" / "metrics.csv").read_text(encoding="utf-8") for folder in (whole, run.path)]
    first, second = ([line.split(",")[:2] for line in text.splitlines()] for text in curves)
    assert first == second and not list(run.path.rglob("checkpoint"))


@pytest.mark.slow
def test_kill_9_at_moments_nobody_chose(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")

    def command(name: str) -> list[str]:
        overrides = [f"output={tmp_path / name}", f"data.path={data}", *TINY]
        arguments = [part for override in overrides for part in ("--set", override)]
        return [sys.executable, "-m", "patch2tissue", "train", str(RECIPES / "bcss-wsss.yaml"), *arguments]

    subprocess.run(command("whole"), check=True, capture_output=True)
    for seconds in (5.0, 7.0):
        process = subprocess.Popen(command("broken"), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(seconds)
        process.kill()
        process.wait()
    subprocess.run(command("broken"), check=True, capture_output=True)
    _same(RunFolder(tmp_path / "whole"), RunFolder(tmp_path / "broken"))
