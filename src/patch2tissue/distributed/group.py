"""The process group: joining it through Lightning, what the first process does for all, and a peer that is lost."""

from __future__ import annotations

import inspect
import json
import logging
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
from lightning.fabric import Fabric
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment
from lightning.fabric.plugins.environments.lightning import LightningEnvironment
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment
from lightning.fabric.plugins.environments.torchelastic import TorchElasticEnvironment
from lightning.fabric.strategies.ddp import DDPStrategy
from torch import distributed
from torch.nn.parallel import DistributedDataParallel

from patch2tissue.config import HardwareConfig
from patch2tissue.distributed.place import Place, is_first, joined, place_of_process, set_joined
from patch2tissue.errors import ConfigError, PeerLostError
from patch2tissue.hardware import choose_device
from patch2tissue.progress import console

Found = TypeVar("Found")

STEP_TIMEOUT = timedelta(minutes=10)
"""Longest time that processes wait for each other within an epoch."""

_PATIENCE = timedelta(days=30)
_LOST = ("closed by peer", "reset by peer", "broken pipe", "connection refused", "timed out", "socket closed")
_patient: Any = None


def backend_of(device: torch.device) -> str:
    """How processes talk: gloo on the CPU; with GPUs NCCL, and gloo for what lies in main memory."""
    return "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"


def fabric_options(place: Place, device: torch.device) -> dict[str, Any]:
    """Arguments of `Fabric` for a process among others: its environment, and distributed data parallel training."""
    # torch renamed it, and means the same here
    named = inspect.signature(DistributedDataParallel).parameters
    buffers = "forward_sync_buffers" if "forward_sync_buffers" in named else "broadcast_buffers"
    settings: dict[str, Any] = {
        # what a loss does not use in the first epochs keeps no gradient at all, as in one process
        "find_unused_parameters": True,
        # batch normalisation is synchronised, so the buffers are the same already
        buffers: False,
    }
    strategy = DDPStrategy(process_group_backend=backend_of(device), timeout=STEP_TIMEOUT, **settings)
    return {
        "devices": place.local_world,
        "num_nodes": place.nodes,
        "plugins": [_environment(place)],
        "strategy": strategy,
    }


def _environment(place: Place) -> ClusterEnvironment:
    if place.starter == "torchrun":
        return TorchElasticEnvironment()
    if place.starter == "SLURM":
        try:
            return SLURMEnvironment(auto_requeue=False)
        except RuntimeError as error:
            raise ConfigError(f"SLURM: {error}") from None
    return LightningEnvironment()


@contextmanager
def together(hardware: HardwareConfig) -> Iterator[None]:
    """Train together with the other processes that were started, if there are any.

    Inside, `of_first`, `barrier` and the functions of `distributed.batch` reach all of them; all must come to these in
    the same order.

    Raises:
        ConfigError: if the machine lacks what the processes need.
        PeerLostError: if another process ends while this one waits for it.
    """
    place = place_of_process()
    if place is None or joined() is not None:
        yield
        return
    try:
        _join(place, hardware)
        yield
        barrier()
    except RuntimeError as error:
        if not _means_lost_peer(error):
            raise
        raise PeerLostError(
            "Another process of this training ended, or cannot be reached any more. What was trained up to the last "
            "whole epoch is kept: give the same command again to go on from there."
        ) from error
    distributed.destroy_process_group()
    set_joined(None)


def _join(place: Place, hardware: HardwareConfig) -> None:
    global _patient
    device = choose_device(hardware.device)
    if device.type == "mps":
        raise ConfigError("On MPS a training has one process. Set hardware.devices to 1, or hardware.device to cpu.")
    if device.type == "cuda" and place.local_world > torch.cuda.device_count():
        raise ConfigError(
            f"{place.local_world} processes were started on this machine, and see {torch.cuda.device_count()} GPUs. "
            "Start one for each GPU; each must see all of them (SLURM: --gpus-per-node, not --gpus-per-task). Or set "
            "hardware.device to cpu."
        )
    set_joined(place)
    if not is_first():
        console.quiet = True
        logging.getLogger("patch2tissue").setLevel(logging.WARNING)
    for name in ("lightning.fabric", "lightning.pytorch"):
        logging.getLogger(name).setLevel(logging.WARNING)
    for told in ("find_unused_parameters=True was specified", "Grad strides do not match bucket view strides"):
        warnings.filterwarnings("ignore", message=told)
    Fabric(accelerator=device.type, **fabric_options(place, device)).launch()
    # the first process may be at work alone for hours, while the others wait
    _patient = distributed.new_group(backend="gloo", timeout=_PATIENCE)


def _means_lost_peer(error: RuntimeError) -> bool:
    if isinstance(error, distributed.DistError):
        return True
    return type(error) is RuntimeError and any(words in str(error).lower() for words in _LOST)


def of_first(function: Callable[[], Found]) -> Found:
    """What a function returns in the first process, for all; the others wait for it, however long, and do not call it.

    Args:
        function: its result must be made of what JSON knows.
    """
    if joined() is None:
        return function()
    content = json.dumps(function()).encode() if is_first() else b""
    length = torch.tensor([len(content)])
    distributed.broadcast(length, 0, group=_patient)
    told = torch.zeros(int(length), dtype=torch.uint8)
    if is_first():
        told = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    distributed.broadcast(told, 0, group=_patient)
    found: Found = json.loads(bytes(told.tolist()))
    return found


def barrier() -> None:
    """Wait until all processes are here, however long that takes."""
    if joined() is not None:
        distributed.all_reduce(torch.zeros(1), group=_patient)
