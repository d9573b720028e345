"""The training loop that both stages share: Lightning Fabric, bfloat16, progress, curves, checkpoints, exact resume.

After every epoch the whole state is written under a temporary name and renamed. A run that is killed at any moment
goes on from the last whole epoch and ends with the same weights as one that was left alone, because everything random
in an epoch is drawn from (seed, epoch) and nothing else.

Several processes may train together (`patch2tissue.distributed`): each takes its share of every batch, and the first
one alone writes. Batches, order, random numbers and schedule are those of one process.
"""

from __future__ import annotations

import logging
import math
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from lightning.fabric import Fabric
from lightning.fabric.loggers.logger import Logger
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patch2tissue.atomic import write_text
from patch2tissue.checkpoints import resume, save_checkpoint
from patch2tissue.config import HardwareConfig, OptimiserConfig, RunConfig
from patch2tissue.cores import keep_freed_memory, release_memory
from patch2tissue.data.augment import shift_stain
from patch2tissue.data.datasets import EpochSampler
from patch2tissue.data.tables import write_table
from patch2tissue.distributed.batch import gathered_values, own_loader, shares, within
from patch2tissue.distributed.group import barrier, fabric_options, of_first
from patch2tissue.distributed.place import is_first, joined
from patch2tissue.errors import ConfigError, TrainingError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.loggers import finishing, stage_loggers, tensorboard
from patch2tissue.progress import EpochProgress
from patch2tissue.run_folder import is_finished as found_finished

log = logging.getLogger(__name__)

Batch = dict[str, Tensor]
History = list[tuple[int, str, float]]

CURVES_OF_TIME = ("loader_wait_share", "patches_per_second")
"""Curves that tell how fast a training was, and so differ from call to call."""


class Stage(ABC):
    """What is particular to one stage: its network, its losses, and what it keeps beside the weights."""

    network: nn.Module
    title: str
    in_parts = False
    """Whether `training_step` computes parts of losses as `distributed.batch` says, so that processes can share it."""

    @abstractmethod
    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """Return named losses; `loss` is the one to minimise. `images` are augmented RGB in 0..1, [B, 3, S, S]."""

    def move_to(self, device: torch.device) -> None:
        """Move what the stage keeps beside the network to the device; called once, before resuming."""

    def after_optimiser_step(self) -> None:
        """Called after every optimiser step."""

    def end_of_epoch(self, epoch: int) -> dict[str, float]:
        """Called after every epoch; returns further values for the curves, the same in all processes."""
        return {}

    def state(self) -> dict[str, Any]:
        """What must be kept in a checkpoint beside network, optimiser and schedule: tensors and plain values.

        This, `save_files` and `finish` are called in the first process alone, `restore` in all.
        """
        return {}

    def restore(self, state: dict[str, Any], checkpoint_folder: Path) -> None:
        """Take back what `state` and `save_files` gave."""

    def save_files(self, checkpoint_folder: Path) -> None:
        """Write what is too large for `state` into the checkpoint's folder."""

    @abstractmethod
    def finish(self, folder: Path) -> None:
        """Write what the stage is for: weights and the like."""


class _TrainingStep(nn.Module):
    """The whole step as a module, since distributed data parallel training looks at what a forward pass returns."""

    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self.network = stage.network
        self.stage = stage

    def forward(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        return self.stage.training_step(images, batch, epoch)


def is_finished(folder: Path) -> bool:
    """Whether a stage's folder holds a finished training; the first process looks for all."""
    return of_first(lambda: found_finished(folder))


def parameter_groups(network: nn.Module, settings: OptimiserConfig) -> list[dict[str, Any]]:
    """Parameters that are trained, with their rates: the encoder's own rate; no decay on norms and biases."""
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if not parameter.requires_grad:
            continue  # frozen
        groups.setdefault((name.startswith("encoder."), parameter.ndim > 1), []).append(parameter)
    return [
        {
            "params": parameters,
            "lr": settings.learning_rate * (settings.encoder_rate if in_encoder else 1.0),
            "weight_decay": settings.weight_decay if decays else 0.0,
        }
        for (in_encoder, decays), parameters in groups.items()
    ]


def learning_rate_factor(step: int, steps: int, warmup: float) -> float:
    """Linear warm-up, then cosine decay to 1% of the peak."""
    rising = max(1, round(warmup * steps))
    if step < rising:
        return (step + 1) / rising
    share = (step - rising) / max(1, steps - rising)
    return 0.01 + 0.99 * 0.5 * (1.0 + math.cos(math.pi * min(share, 1.0)))


def make_fabric(hardware: HardwareConfig, loggers: Sequence[Logger] = ()) -> Fabric:
    """Lightning Fabric on the configured device and precision, with loggers of Lightning."""
    device, place = choose_device(hardware.device), joined()
    dtype = autocast_dtype(device, hardware.precision)
    # Fabric announces the precision on every call; environment.json says it once
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    fabric = Fabric(
        accelerator=device.type,
        precision="32-true" if dtype is None else "bf16-mixed",
        loggers=list(loggers),
        **({"devices": 1} if place is None else fabric_options(place, device)),
    )
    if place is not None:
        fabric.launch()  # the processes are there already: it takes its place among them
    return fabric


def fit(
    stage: Stage,
    loader: DataLoader[Any],
    settings: OptimiserConfig,
    folder: Path,
    *,
    seed: int,
    hardware: HardwareConfig,
    loggers: Callable[[Path], Sequence[Logger]] = lambda folder: [tensorboard(folder)],
) -> None:
    """Train a stage to its last epoch, resuming from the last whole epoch if there is one.

    Args:
        stage: network and losses.
        loader: training patches in the order of an `EpochSampler`.
        settings: epochs, batch size and optimiser.
        folder: gets `checkpoint/`, `metrics.csv`, `tensorboard/`, what `stage.finish` writes, and `finished`.
        seed: seed of everything random.
        hardware: device, precision, threads.
        loggers: opens where curves go beside `metrics.csv`; called with the folder if there is something to train.

    Raises:
        ConfigError: if a logger cannot be opened, or several processes are to share a stage that cannot be shared.
        TrainingError: if the loss is no longer a number; the last good checkpoint stays.
        DataError: if the checkpoint cannot be read.
    """
    if is_finished(folder):
        log.info("%s: already trained, nothing to do (%s)", stage.title, folder)
        return
    place = joined()
    if place is not None and not stage.in_parts:
        raise ConfigError(f"{stage.title} can only be trained in one process. Set hardware.devices and nodes to 1.")
    folder.mkdir(parents=True, exist_ok=True)
    set_threads(hardware)
    keep_freed_memory()
    fabric = make_fabric(hardware, loggers(folder) if is_first() else ())
    stage.network.to(memory_format=torch.channels_last)
    # one pass over each parameter instead of a dozen
    optimiser = torch.optim.AdamW(parameter_groups(stage.network, settings), fused=fabric.device.type != "mps")
    network, optimiser = fabric.setup(stage.network if place is None else _TrainingStep(stage), optimiser)
    step = stage.training_step if place is None else network
    stage.move_to(fabric.device)
    sampler = cast(EpochSampler, loader.sampler)
    loader = own_loader(loader)
    steps = settings.epochs * len(loader)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser, lambda step: learning_rate_factor(step, steps, settings.warmup)
    )
    history: History = []
    first = resume(stage, optimiser, schedule, history, folder)
    barrier()
    with (
        finishing(fabric.loggers),
        EpochProgress(stage.title, settings.epochs, len(loader), done=first) as progress,
    ):
        _start_curves(fabric, history)
        for epoch in range(first, settings.epochs):
            torch.manual_seed(_epoch_seed(seed, epoch))
            sampler.set_epoch(epoch)
            network.train()
            sums: dict[str, float] = {}
            started, waited, seen = time.perf_counter(), 0.0, 0
            asked = started
            for batch, share in shares(loader):
                waited += time.perf_counter() - asked
                batch = {name: value.to(fabric.device, non_blocking=True) for name, value in batch.items()}
                images = _augmented_images(batch)
                with fabric.autocast(), within(share):
                    losses = step(images, batch, epoch)
                values = gathered_values(losses, share)
                if not math.isfinite(values["loss"]):
                    raise TrainingError(_not_a_number(stage, epoch, values, folder))
                optimiser.zero_grad(set_to_none=True)
                # the parts' gradients are to be added up, and data parallel training takes their mean
                fabric.backward(losses["loss"] if share is None else losses["loss"] * len(share.sizes))
                if settings.gradient_clip > 0:
                    fabric.clip_gradients(network, optimiser, max_norm=settings.gradient_clip, error_if_nonfinite=False)
                optimiser.step()
                schedule.step()
                stage.after_optimiser_step()
                patches = len(batch["index"]) if share is None else share.total
                seen += patches
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value * patches
                progress.step(epoch, {name: value / seen for name, value in sums.items()})
                asked = time.perf_counter()
            means = {name: value / seen for name, value in sums.items()}
            means |= stage.end_of_epoch(epoch)
            means["learning_rate"] = float(schedule.get_last_lr()[-1])
            means["patches_per_second"] = seen / (time.perf_counter() - started)
            means["loader_wait_share"] = waited / (time.perf_counter() - started)
            if _diverges(history, means):
                raise TrainingError(_diverged(stage, epoch, means, folder))
            history.extend((epoch, name, value) for name, value in means.items())
            if is_first():
                save_checkpoint(stage, optimiser, schedule, history, folder, epoch)
                write_curves(folder / "metrics.csv", history)
            # after the checkpoint: what a killed process has not logged, the next one finds in it
            fabric.log_dict(means, step=epoch + 1)
            barrier()
    release_memory()
    if is_first():
        # once more: a process that was killed after the last checkpoint has not come to it
        write_curves(folder / "metrics.csv", history)
        stage.finish(folder)
        write_text(folder / "finished", "")
        shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    barrier()


def fit_stage(
    config: RunConfig,
    stage: Stage,
    loader: DataLoader[Any],
    settings: OptimiserConfig,
    folder: Path,
    *,
    seed: int | None = None,
) -> None:
    """Train a stage of a run with the run's seed (None: `config.seed`), hardware and loggers; otherwise see `fit`."""
    fit(
        stage,
        loader,
        settings,
        folder,
        seed=config.seed if seed is None else seed,
        hardware=config.hardware,
        loggers=partial(stage_loggers, config),
    )


def _augmented_images(batch: Batch) -> Tensor:
    images = batch["image"].float().div_(255.0)
    images = shift_stain(images, batch["stain_matrix"], batch["stain_offset"])
    return images.contiguous(memory_format=torch.channels_last)


def _epoch_seed(seed: int, epoch: int) -> int:
    return int(np.random.SeedSequence((seed, epoch)).generate_state(1)[0])


def _not_a_number(stage: Stage, epoch: int, values: dict[str, float], folder: Path) -> str:
    parts = ", ".join(f"{name} {value:.4g}" for name, value in values.items())
    return (
        f"{stage.title}: the loss is no longer a number in epoch {epoch + 1} ({parts}). The state before this epoch is "
        f"kept in {folder / 'checkpoint'}. Lower learning_rate, or set hardware.precision to float32, and train again."
    )


_DIVERGED = 5.0


def _diverges(history: History, means: dict[str, float]) -> bool:
    """Whether the classification loss of an epoch is so many times that of the first one, which no learning does."""
    name = "loss_ce" if "loss_ce" in means else "loss"  # the sum grows by itself when further losses join
    first = next((value for epoch, of, value in history if epoch == 0 and of == name), None)
    return first is not None and means[name] > _DIVERGED * first


def _diverged(stage: Stage, epoch: int, values: dict[str, float], folder: Path) -> str:
    value = values.get("loss_ce", values["loss"])
    return (
        f"{stage.title}: training diverges; in epoch {epoch + 1} the loss is {value:.4g}, more than {_DIVERGED:g} "
        f"times that of the first one. The state before this epoch is kept in {folder / 'checkpoint'}. Lower "
        "learning_rate and train again."
    )


def _start_curves(fabric: Fabric, history: History) -> None:
    """Log what earlier processes came to; steps count epochs from 1, as `metrics.csv` does."""
    for epoch in sorted({epoch for epoch, _, _ in history}):
        fabric.log_dict({name: value for e, name, value in history if e == epoch}, step=epoch + 1)


def write_curves(path: Path, history: History) -> None:
    """Write curves as CSV with the columns epoch, name, value (epochs from 1)."""
    write_table(path, ["epoch", "name", "value"], ([epoch + 1, name, f"{value:.8g}"] for epoch, name, value in history))
