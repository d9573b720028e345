"""A trained network on disk: safetensors weights beside a JSON file that says how to build it."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from patch2tissue.atomic import atomic_path, write_text
from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.lora import plain_state
from patch2tissue.plain_files import read_json, reason
from patch2tissue.tissues import TissueSet

N = TypeVar("N", bound=nn.Module)

FROZEN_FILE = "frozen.safetensors"
"""Frozen weights beside the checkpoints of a training, which hold the others."""


def save_network_folder(network: nn.Module, settings: dict[str, Any], folder: Path, kind: str) -> None:
    """Write `weights.safetensors` and `network.json` into `folder`, the JSON last: it marks the pair as complete.

    All weights are written, those that were frozen too, and low-rank changes as part of the weights they change: the
    folder alone is enough to predict with.
    """
    write_tensors(plain_state(network), folder / "weights.safetensors")
    write_text(folder / "network.json", json.dumps({"kind": kind, **settings}, indent=2))


def write_tensors(tensors: Mapping[str, Tensor], path: Path) -> None:
    """Write tensors as safetensors, atomically, and without a copy of all of them in memory.

    Raises:
        WriteError: if the folder cannot be written to, or the disk is full.
    """
    with atomic_path(path) as temporary:
        try:
            save_file({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, temporary)
        except SafetensorError as error:  # the system's error is in its text alone
            found = re.search(r"os error (\d+)", str(error))
            if found is None:
                raise
            raise OSError(int(found[1]), os.strerror(int(found[1]))) from None


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """The state dict without what is frozen, which does not change and is kept once, by `keep_frozen`."""
    frozen = _frozen(network)
    return {name: tensor for name, tensor in network.state_dict().items() if name not in frozen}


def load_trained_state(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `trained_state` gave into a network of the same kind.

    Raises:
        RuntimeError: if it does not fit.
    """
    missing, unexpected = network.load_state_dict(state, strict=False)
    missing = sorted(set(missing) - _frozen(network).keys())
    if missing or unexpected:
        raise RuntimeError(f"missing {missing[:3]}, unexpected {list(unexpected)[:3]}")


def keep_frozen(network: nn.Module, folder: Path) -> None:
    """Write the frozen weights into a folder, unless they are there or there are none."""
    frozen = _frozen(network)
    if frozen and not (folder / FROZEN_FILE).is_file():
        write_tensors(dict(frozen), folder / FROZEN_FILE)


def restore_frozen(network: nn.Module, folder: Path) -> None:
    """Take back what `keep_frozen` wrote, wherever the weights came from then.

    Raises:
        OSError, SafetensorError, RuntimeError: if the file is missing, damaged, or of another network.
    """
    frozen = _frozen(network)
    if not frozen:
        return
    kept = load_file(folder / FROZEN_FILE)
    if {name: tensor.shape for name, tensor in kept.items()} != {name: p.shape for name, p in frozen.items()}:
        raise RuntimeError(f"{FROZEN_FILE} holds other weights than are frozen")
    with torch.no_grad():
        for name, parameter in frozen.items():
            parameter.copy_(kept[name])


def _frozen(network: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in network.named_parameters() if not parameter.requires_grad}


def weights_digest(folder: Path) -> str:
    """SHA-256 of the weights in a folder that `save_network_folder` wrote."""
    with (folder / "weights.safetensors").open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def load_network_folder(
    folder: Path, build: Callable[[dict[str, Any]], N], kind: str, device: torch.device | str = "cpu"
) -> N:
    """Build a network from `network.json` and load its weights.

    Raises:
        DataError: if a file is missing or broken, or holds another kind of network.
    """
    folder = Path(folder)
    try:
        settings = read_json(folder / "network.json")
    except OSError:
        raise DataError(f"{folder}: holds no trained {kind} (network.json is missing). Train it first.") from None
    except ValueError:
        raise DataError(f"{folder / 'network.json'}: not readable as JSON; train again or restore the file.") from None
    if not isinstance(settings, dict) or settings.get("kind") != kind:
        raise DataError(f"{folder / 'network.json'}: describes no {kind}. Restore the file, or train again.")
    try:
        network = build(settings)
    except Exception as error:  # what is not as it should be can go wrong anywhere
        told = f"{type(error).__name__}: {reason(error)}"
        if isinstance(error, Patch2TissueError):
            told = str(error)
        elif isinstance(error, ValidationError):
            told = "; ".join(f"{'.'.join(map(str, item['loc']))}: {item['msg']}" for item in error.errors())
        raise DataError(
            f"{folder / 'network.json'}: describes no {kind} of this version of patch2tissue ({told}). Restore the "
            "file, or train again."
        ) from None
    try:
        network.load_state_dict(load_file(folder / "weights.safetensors"))
    except Exception as error:
        raise DataError(
            f"{folder / 'weights.safetensors'}: does not fit network.json beside it ({reason(error)}). Restore the "
            "files, or train again."
        ) from None
    return network.to(device).eval()


def refuse_other_tissues(network: nn.Module, tissues: TissueSet, folder: Path) -> None:
    """Refuse a network that was trained on other tissues than the configuration beside it names.

    Args:
        network: as it was loaded; networks that do not tell what they were trained on are taken as they are.
        tissues: the configuration's.
        folder: where the network comes from.

    Raises:
        DataError: if they differ in number, or in their names where the folder tells them.
    """
    settings = getattr(network, "settings", {})
    count, names = settings.get("tissues", len(tissues)), settings.get("tissue_names", list(tissues.names))
    if count != len(tissues) or names != list(tissues.names):
        of = ", ".join(map(str, names)) if "tissue_names" in settings else f"{count} tissues"
        raise DataError(
            f"{folder / 'network.json'}: the network was trained on {of}, but the run's config.yaml names "
            f"{', '.join(tissues.names)}. Restore the config.yaml of its training, or the network."
        )
