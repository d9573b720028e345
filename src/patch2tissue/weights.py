"""A trained network on disk: safetensors weights beside a JSON file that says how to build it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save
from torch import nn

from patch2tissue.atomic import write_bytes, write_text
from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.plain_files import read_json, reason
from patch2tissue.tissues import TissueSet

N = TypeVar("N", bound=nn.Module)


def save_network_folder(network: nn.Module, settings: dict[str, Any], folder: Path, kind: str) -> None:
    """Write `weights.safetensors` and `network.json` into `folder`, the JSON last: it marks the pair as complete."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in network.state_dict().items()}
    write_bytes(folder / "weights.safetensors", save(tensors))
    write_text(folder / "network.json", json.dumps({"kind": kind, **settings}, indent=2))


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
