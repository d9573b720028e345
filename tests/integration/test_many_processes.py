"""A run in several processes is the run of one; a lost process ends it, and the same command goes on."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from conftest import RECIPES, TINY
from patch2tissue.config import load_config
from patch2tissue.distributed.launch import _free_port
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder

ALL_PARTS = [
    "hardware.precision=float32",
    "craanet.epochs=2",
    "craanet.batch_size=5",
    "craanet.accumulation.start=0",
    "pfscnet.epochs=2",
    "pfscnet.batch_size=5",
    "pfscnet.losses_start=0.5",
    "pfscnet.contrast.confidence=0.1",
    "pfscnet.contrast.prototypes=2",
    "pfscnet.correction.start=0.5",
    "pfscnet.correction.confidence=1.0",
    "pfscnet.correction.margin=0",
    "pfscnet.mosaic=0.7",
    "pfscnet.mosaic_of=any",
    "pfscnet.consistency.weight=0.5",
    "pfscnet.consistency.confidence=0.2",
]
"""Whatever looks at a whole batch. 12 patches in batches of 5, 5 and 2: two of four processes have none of the last.

Few steps, and hardly a threshold to cross: what rounding changes grows until another pixel is drawn. Then runs part,
those of one process with one thread and with two as much as any.
"""

CURVES_OF_TIME = ("patches_per_second", "loader_wait_share")


def settings(folder: Path, data: Path, *changes: str) -> list[str]:
    return [f"output={folder}", f"data.path={data}", *TINY, *ALL_PARTS, *changes]


def arguments(folder: Path, data: Path, *changes: str) -> list[str]:
    overrides = [part for change in settings(folder, data, *changes) for part in ("--set", change)]
    return ["-m", "patch2tissue", "train", str(RECIPES / "bcss-wsss.yaml"), *overrides]


def environment(**variables: object) -> dict[str, str]:
    """As the system gives it, without what another starter of processes may have left."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("SLURM_")}
    return inherited | {"OMP_NUM_THREADS": "1"} | {name: str(value) for name, value in variables.items()}


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory, fabricate: Callable[..., Path]) -> Path:
    return fabricate(tmp_path_factory.mktemp("many") / "data", "bcss-wsss")


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory, data: Path) -> RunFolder:
    """The run of one process."""
    folder = tmp_path_factory.mktemp("alone") / "run"
    run = run_training(load_config(RECIPES / "bcss-wsss.yaml", settings(folder, data)), progress=False)
    score_run(run, progress=False)
    return run


def curves(run: RunFolder) -> Iterator[tuple[str, str, str, float]]:
    with run.metrics_file.open(encoding="utf-8", newline="") as stream:
        for stage, epoch, name, value in list(csv.reader(stream))[1:]:
            if name not in CURVES_OF_TIME:
                yield stage, epoch, name, float(value)


def scores(run: RunFolder) -> dict[str, float]:
    """Every number of `scores.json` between 0 and 1, by where it stands."""
    found: dict[str, float] = {}

    def walk(node: object, name: str) -> None:
        if isinstance(node, dict):
            for key, value in node.items():
                walk(value, f"{name}.{key}")
        elif isinstance(node, float):
            found[name] = node

    walk(json.loads(run.scores_file.read_text(encoding="utf-8")), "")
    return found


def assert_near(one: Path, other: Path) -> None:
    """Weights are the same, up to rounding: by the mean, since of a gradient of 1e-9 Adam may make a whole step."""
    a, b = load_file(one), load_file(other)
    assert a.keys() == b.keys()
    far = torch.cat([(a[name].double() - b[name].double()).abs().flatten() for name in a])
    assert far.mean() < 1e-6 and far.max() < 1e-3, (other, far.mean(), far.max())


def assert_same_run(one: RunFolder, other: RunFolder) -> None:
    """Everything within what rounding leaves; attention differs by a step of its storage at a few places at most."""
    counts = [np.load(run.craanet / "attention_memory" / "counts.npy") for run in (one, other)]
    assert counts[0].min() == 2 and np.array_equal(*counts)
    for name in ("attention_memory/maps.npy", "attention_epochs.npy"):
        a, b = (np.load(run.craanet / name).astype(int) for run in (one, other))
        assert a.any() and abs(a - b).max() <= 1 and (a != b).mean() < 0.02, name
    histories = [np.load(run.craanet / "attention_history.npz") for run in (one, other)]
    for key, step in (("current", 0.0), ("accumulated", 1 / 255)):
        np.testing.assert_allclose(*(found[key].astype(np.float32) for found in histories), atol=step + 2e-3)
    folders = [run.pseudo_labels / "masks" for run in (one, other)]
    names = sorted(path.name for path in folders[0].iterdir())
    pairs = [[np.asarray(Image.open(folder / name)) for folder in folders] for name in names]
    assert len(names) == 12 and np.mean([(a != b).mean() for a, b in pairs]) < 1e-3
    for file in ("craanet/weights", "pfscnet/weights"):
        assert_near(one.path / f"{file}.safetensors", other.path / f"{file}.safetensors")
    mine, theirs = list(curves(one)), list(curves(other))
    assert [row[:3] for row in mine] == [row[:3] for row in theirs]
    kinds = {row[2] for row in mine}
    assert {"label_f1", "labels_changed", "loss_contrast", "loss_consistency", "loss_energy"} <= kinds
    for (*where, a), (*_, b) in zip(mine, theirs, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5), where
    score_run(other, progress=False)
    a, b = scores(one), scores(other)
    assert len(a) > 10 and b == pytest.approx(a, abs=2e-3)


def assert_done(process: subprocess.CompletedProcess[str]) -> None:
    assert process.returncode == 0, process.stderr


@pytest.mark.slow
@pytest.mark.parametrize("devices", [2, 4])
def test_processes_give_the_run_of_one(tmp_path: Path, data: Path, alone: RunFolder, devices: int) -> None:
    run = RunFolder(tmp_path / "run")
    command = [sys.executable, *arguments(run.path, data), "--devices", str(devices), "--json"]
    done = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert_done(done)
    assert json.loads(done.stdout) == {"run": str(run.path), "stages": ["craanet", "pseudo", "pfscnet"]}
    assert done.stderr.count("epoch 1/2") == 2  # each stage said once, by one process
    found = json.loads(run.environment_file.read_text(encoding="utf-8"))
    told = [found[name] for name in ("devices", "nodes", "world_size", "backend")]
    assert told == [devices, 1, devices, "gloo"] and found["command"][1] == "train"
    assert_same_run(alone, run)
    assert not list(run.path.rglob("checkpoint"))


@pytest.mark.slow
def test_pre_training_of_processes_is_that_of_one(tmp_path: Path, data: Path) -> None:
    changes = ["pretraining={epochs: 2, batch_size: 5, crop: 32, dimensions: 16}", "craanet.epochs=1"]
    for name, devices in (("one", 1), ("four", 4)):
        command = [sys.executable, *arguments(tmp_path / name, data, *changes), "--stage", "craanet"]
        command += ["--devices", str(devices)]
        assert_done(subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300))
    one, four = (RunFolder(tmp_path / name) for name in ("one", "four"))
    assert_near(one.pretraining / "encoder.safetensors", four.pretraining / "encoder.safetensors")
    mine, theirs = list(curves(one)), list(curves(four))
    assert {row[0] for row in mine} == {"pretraining", "craanet"}
    for (*where, a), (*_, b) in zip(mine, theirs, strict=True):
        assert b == pytest.approx(a, rel=1e-3, abs=1e-5), where


@pytest.mark.slow
@pytest.mark.parametrize("starter", ["torchrun", "SLURM", "two machines"])
def test_started_by_others(tmp_path: Path, data: Path, alone: RunFolder, starter: str) -> None:
    """Two processes that something else started; SLURM and the second machine by what their variables say."""
    run, port = RunFolder(tmp_path / "run"), _free_port()
    command = [sys.executable, *arguments(run.path, data)]
    if starter == "torchrun":
        python = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port", str(port)]
        assert_done(
            subprocess.run(
                [sys.executable, *python, *command[1:]],
                capture_output=True,
                text=True,
                env=environment(),
                timeout=300,
            )
        )
    else:
        lasting = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
        if starter == "SLURM":
            lasting |= {"SLURM_JOB_ID": 4711, "SLURM_STEP_ID": 0, "SLURM_JOB_NAME": "train", "SLURM_NTASKS": 2}
            lasting |= {"SLURM_NNODES": 1, "SLURM_NTASKS_PER_NODE": 2, "SLURM_NODEID": 0}
            own = [{"SLURM_PROCID": rank, "SLURM_LOCALID": rank} for rank in range(2)]
        else:
            command += ["--nodes", "2"]
            own = [{"NODE_RANK": rank} for rank in range(2)]
        processes = [
            subprocess.Popen(command, env=environment(**lasting, **of_one), stderr=subprocess.PIPE, text=True)
            for of_one in own
        ]
        told = [process.communicate(timeout=300)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0], told
    assert_same_run(alone, run)


def children(process: int) -> list[int]:
    return [int(text) for text in Path(f"/proc/{process}/task/{process}/children").read_text(encoding="utf-8").split()]


def started(folder: Path, data: Path, *changes: str) -> tuple[subprocess.Popen[str], list[int]]:
    """A training in two processes that is in its second epoch or later, and the processes' numbers in order."""
    command = [sys.executable, *arguments(folder, data, *changes), "--devices", "2"]
    process = subprocess.Popen(command, env=environment(), stderr=subprocess.PIPE, text=True)
    until = time.monotonic() + 120
    while not list(folder.glob("craanet/checkpoint/epoch-*/state.pt")):
        assert time.monotonic() < until and process.poll() is None
        time.sleep(0.05)
    return process, children(process.pid)


def gone(process: int) -> bool:
    """Whether a process has ended; one that nobody asked how it ended has, too."""
    try:
        status = Path(f"/proc/{process}/stat").read_text(encoding="utf-8")
    except OSError:
        return True
    return status.rpartition(")")[2].split()[0] == "Z"


def wait_until_gone(processes: list[int]) -> None:
    until = time.monotonic() + 20
    while not all(map(gone, processes)):
        assert time.monotonic() < until, "processes were left behind"
        time.sleep(0.05)


needs_proc = pytest.mark.skipif(sys.platform != "linux", reason="looks for processes in /proc")


@pytest.mark.slow
@needs_proc
@pytest.mark.parametrize("victim", [0, 1])
def test_a_killed_process_ends_all_and_the_run_goes_on(
    tmp_path: Path, data: Path, alone: RunFolder, victim: int
) -> None:
    run = RunFolder(tmp_path / "run")
    process, ours = started(run.path, data)
    assert len(ours) == 2
    os.kill(ours[victim], signal.SIGKILL)
    killed = time.monotonic()
    told = process.communicate(timeout=60)[1]
    assert time.monotonic() - killed < 30 and process.returncode == 1
    message = " ".join(told[told.index("Error:") :].split())
    assert f"Process {victim} of the training was killed (SIGKILL)" in message
    assert "give the same command again" in message and "Traceback" not in told and told.count("Error:") == 1
    wait_until_gone(ours)
    # with one process now: hardware is no part of what a run is
    assert_done(
        subprocess.run(
            [sys.executable, *arguments(run.path, data)],
            capture_output=True,
            text=True,
            env=environment(),
            timeout=300,
        )
    )
    assert_same_run(alone, run)


@pytest.mark.slow
@needs_proc
def test_interrupted_or_orphaned_processes_end(tmp_path: Path, data: Path) -> None:
    process, ours = started(tmp_path / "run", data, "craanet.epochs=500")
    process.send_signal(signal.SIGINT)
    told = process.communicate(timeout=60)[1]
    assert process.returncode == 130 and "Traceback" not in told
    wait_until_gone(ours)
    # and when the one that started them is killed
    process, ours = started(tmp_path / "run", data, "craanet.epochs=500")
    process.kill()
    process.communicate(timeout=60)
    wait_until_gone(ours)


@pytest.mark.slow
def test_what_goes_wrong_is_said_once(tmp_path: Path, data: Path) -> None:
    # far too high a learning rate, without anything that holds it back
    changes = ["craanet.learning_rate=1e30", "craanet.gradient_clip=0"]
    command = [sys.executable, *arguments(tmp_path / "run", data, *changes), "--devices", "2"]
    failed = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert failed.returncode == 1
    assert failed.stderr.count("no longer a number") + failed.stderr.count("training diverges") == 1
    assert "process 0 of the training could not go on" in " ".join(failed.stderr.split())
    (data.parent / "empty" / "train").mkdir(parents=True)
    command = [sys.executable, *arguments(tmp_path / "other", data.parent / "empty"), "--devices", "2"]
    refused = subprocess.run(command, capture_output=True, text=True, env=environment(), timeout=300)
    assert refused.returncode == 2 and refused.stderr.count("holds no patches to train on") == 1
