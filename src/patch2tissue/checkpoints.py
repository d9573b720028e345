"""Checkpoints of a training: written whole or not at all, and gone on from."""

from __future__ import annotations

import logging
import os
import shutil
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import torch

from patch2tissue.atomic import atomic_path
from patch2tissue.distributed.group import of_first
from patch2tissue.errors import DataError
from patch2tissue.weights import keep_frozen, load_trained_state, restore_frozen, trained_state

if TYPE_CHECKING:
    from patch2tissue.training import History, Stage

log = logging.getLogger("patch2tissue.training")


def save_checkpoint(stage: Stage, optimiser: Any, schedule: Any, history: History, folder: Path, epoch: int) -> None:
    """Write checkpoint `epoch-NNNN`, then remove older ones: there is a whole one at any moment."""
    target = folder / "checkpoint" / f"epoch-{epoch:04d}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    keep_frozen(stage.network, target.parent)
    stage.save_files(target)
    content = {
        "epoch": epoch,
        "network": trained_state(stage.network),
        "optimiser": optimiser.state_dict(),
        "schedule": {"last_epoch": schedule.last_epoch},
        "stage": stage.state(),
        "history": history,
    }
    with atomic_path(target / "state.pt") as temporary, temporary.open("wb") as stream:
        _write(content, stream)
        os.fsync(stream.fileno())
    for older in (folder / "checkpoint").iterdir():
        if older != target:
            shutil.rmtree(older, ignore_errors=True)


def _write(content: dict[str, Any], stream: IO[bytes]) -> None:
    """Save a state; a full disk is the system's error, which torch hides behind one of its own."""
    try:
        torch.save(content, stream)
    except RuntimeError as error:
        if isinstance(error.__context__, OSError):
            raise error.__context__ from None
        raise


def _newest_checkpoint(folder: Path) -> str | None:
    whole = sorted((folder / "checkpoint").glob("epoch-*/state.pt")) if (folder / "checkpoint").is_dir() else []
    return str(whole[-1]) if whole else None


def resume(stage: Stage, optimiser: Any, schedule: Any, history: History, folder: Path) -> int:
    """Restore the newest whole checkpoint, which the first process looks for; return the epoch to go on with."""
    newest = of_first(lambda: _newest_checkpoint(folder))
    if newest is None:
        return 0
    path = Path(newest)
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        restore_frozen(stage.network, path.parent.parent)
        load_trained_state(stage.network, content["network"])
        optimiser.load_state_dict(content["optimiser"])
        schedule.last_epoch = content["schedule"]["last_epoch"]
        for group, base, factor in zip(optimiser.param_groups, schedule.base_lrs, schedule.lr_lambdas, strict=True):
            group["lr"] = base * factor(schedule.last_epoch)
        schedule._last_lr = [group["lr"] for group in optimiser.param_groups]
        stage.restore(content["stage"], path.parent)
    except DataError:
        raise
    except Exception as error:  # a checkpoint of another version can fail in many ways; all mean the same to the user
        raise DataError(
            f"{path}: cannot be resumed from ({type(error).__name__}: {str(error).splitlines()[0]}). The configuration "
            "or the program changed since; remove the run folder, or train with --fresh."
        ) from None
    history.extend((int(e), str(n), float(v)) for e, n, v in content["history"])
    log.info("%s: resuming after epoch %d", stage.title, content["epoch"] + 1)
    return int(content["epoch"]) + 1
