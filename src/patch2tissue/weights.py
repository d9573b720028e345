"""A trained network on disk: safetensors weights beside a JSON file that says how to build it."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from patch2tissue.atomic import write_bytes, write_text
from patch2tissue.errors import DataError, Patch2TissueError

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
        settings = json.loads((folder / "network.json").read_text(encoding="utf-8"))
    except OSError:
        raise DataError(f"{folder}: holds no trained {kind} (network.json is missing). Train it first.") from None
    except ValueError:
        raise DataError(f"{folder / 'network.json'}: not readable as JSON; train again or restore the file.") from None
    if not isinstance(settings, dict) or settings.get("kind") != kind:
        raise DataError(f"{folder / 'network.json'}: describes no {kind}.")
    try:
        network = build(settings)
        network.load_state_dict(load_file(folder / "weights.safetensors"))
    except (OSError, SafetensorError, RuntimeError, KeyError, TypeError, ValueError) as error:
        if isinstance(error, Patch2TissueError):
            raise
        first = str(error).splitlines()[0]
        raise DataError(f"{folder / 'weights.safetensors'}: does not fit network.json beside it: {first}") from None
    return network.to(device).eval()
