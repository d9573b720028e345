"""A run folder may come from somebody else: no file in it can make a command run code or unpickle."""

from __future__ import annotations

import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch


class _Evil:
    """Makes a folder when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path: Path) -> Path:
    """A folder that is there once something was unpickled."""
    path = tmp_path / "unpickled"
    pickle.loads(pickle.dumps(_Evil(path)))
    assert path.is_dir(), "the trap itself must work"
    path.rmdir()
    return path


@pytest.fixture
def run(tmp_path: Path, trained_runs: tuple[Path, Path, Path]) -> Path:
    """A copy of a trained run."""
    return Path(shutil.copytree(trained_runs[1], tmp_path / "run"))


def _checkpoint(run: Path, evil: _Evil) -> None:
    """Training goes on from a checkpoint with an object in it."""
    (run / "craanet" / "finished").unlink()
    folder = run / "craanet" / "checkpoint" / "epoch-0000"
    folder.mkdir(parents=True)
    torch.save({"epoch": 0, "network": evil}, folder / "state.pt")


def _weights(run: Path, evil: _Evil) -> None:
    torch.save({"weight": evil}, run / "pfscnet" / "weights.safetensors")


def _memory(run: Path, evil: _Evil) -> None:
    np.save(run / "craanet" / "attention_memory" / "maps.npy", np.array([evil]), allow_pickle=True)
    shutil.rmtree(run / "pseudo_labels")


def _history(run: Path, evil: _Evil) -> None:
    np.savez(run / "craanet" / "attention_history.npz", names=np.array([evil]))


def _configuration(run: Path, evil: _Evil) -> None:
    file = run / "config.yaml"
    attack = f'!!python/object/apply:os.mkdir ["{evil.mark}"]'
    file.write_text(file.read_text(encoding="utf-8").replace("seed: 0", f"seed: {attack}"), encoding="utf-8")


def _encoder(run: Path, evil: _Evil) -> None:
    """timm would load this file, in old versions by unpickling it."""
    torch.save(evil, run / "evil.pth")
    file = run / "pfscnet" / "network.json"
    text = file.read_text(encoding="utf-8")
    changed = text.replace('"options": {}', f'"options": {{"checkpoint_path": "{run / "evil.pth"}"}}')
    assert changed != text
    file.write_text(changed, encoding="utf-8")


@pytest.mark.parametrize(
    ("attack", "command", "code", "message"),
    [
        (_checkpoint, "train", 2, "state.pt: cannot be resumed from"),
        (_weights, "predict", 2, "weights.safetensors: does not fit"),
        (_memory, "pseudo-labels", 2, "maps.npy: cannot be read"),
        (_history, "report", 2, "attention_history.npz: "),
        (_configuration, "predict", 2, "not readable as YAML"),
        (_encoder, "predict", 2, "'checkpoint_path' is not taken here"),
    ],
    ids=["checkpoint", "weights", "memory", "history", "configuration", "encoder"],
)
def test_nothing_is_unpickled_or_run(
    run: Path,
    tmp_path: Path,
    mark: Path,
    trained_runs: tuple[Path, Path, Path],
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    attack: Callable[[Path, _Evil], None],
    command: str,
    code: int,
    message: str,
) -> None:
    attack(run, _Evil(mark))
    arguments = {
        "train": ["train", run / "config.yaml", "--set", f"output={run}"],
        "predict": ["predict", run, trained_runs[0] / "test", "--out", tmp_path / "maps", "--device", "cpu"],
        "pseudo-labels": ["pseudo-labels", run],
        "report": ["report", run],
    }[command]
    assert run_command(*arguments) == code
    assert message in capsys.readouterr().err.replace("\n", " ")
    assert not mark.exists()
