"""The network as a TorchScript file, which QuPath (through Deep Java Library), MONAI and TIAToolbox load.

torch.jit is deprecated in PyTorch 2.15, but these programs have no other way in yet, and files of today load with the
older runtimes that they bring.
"""

from __future__ import annotations

import io
import json
import struct
import warnings
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.jit._trace import TracerWarning

from patch2tissue.errors import Patch2TissueError
from patch2tissue.export.checking import compare
from patch2tissue.export.graph import MULTIPLE, TissueProbabilities, logits_module
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.plain_files import reason

DESCRIPTION = "export.json"
"""Name of the description inside the file, see `_extra_files` of `torch.jit.load`."""


def _without_notice() -> None:
    """Say nothing of torch.jit's deprecation (a DeprecationWarning at first, a FutureWarning now), within a block."""
    for kind in (DeprecationWarning, FutureWarning):
        warnings.filterwarnings("ignore", r".*torch\.jit.*is deprecated", kind)


def scripted(logits: nn.Module, temperature: float) -> torch.jit.ScriptModule:
    """The exported graph in TorchScript.

    The network is traced; what is around it is scripted, so that padding follows the image's size and device.
    """
    with warnings.catch_warnings(), torch.no_grad():
        _without_notice()
        # the network asks whether to pad, which it never must; that other sizes work is checked after
        warnings.simplefilter("ignore", TracerWarning)
        example = torch.zeros(2, 3, 4 * MULTIPLE, 3 * MULTIPLE)
        traced = torch.jit.trace(logits, (example,), check_trace=False)
        made: torch.jit.ScriptModule = torch.jit.script(TissueProbabilities(traced, temperature).eval())
    return made


def write_torchscript(
    path: Path, network: PFSCNet, temperature: float, description: Mapping[str, Any]
) -> dict[str, Any]:
    """Write a TorchScript file and compare it with the run's network.

    Args:
        path: the file.
        network: the run's, on the CPU.
        temperature: see `TissueProbabilities`.
        description: kept in the file.

    Returns:
        See `checking.compare`, and the version of PyTorch that wrote it.

    Raises:
        Patch2TissueError: if the network cannot be traced, or the result differs from it.
    """
    try:
        made = scripted(logits_module(network), temperature)
    except (RuntimeError, TypeError, ValueError) as error:
        raise Patch2TissueError(
            f"The network cannot be traced for TorchScript ({reason(error)[:200]}). Export to ONNX instead."
        ) from None

    def run(images: Tensor) -> np.ndarray:
        with torch.inference_mode():
            found: np.ndarray = made(images).numpy()
        return found

    facts = compare("TorchScript", run, network, temperature)
    with warnings.catch_warnings():
        _without_notice()
        whole = io.BytesIO()  # not the file: PyTorch does not say that a disk is full
        torch.jit.save(made, whole, _extra_files={DESCRIPTION: json.dumps(description)})
    _write_stripped(whole, path)
    return {**facts, "torch": torch.__version__}


def _write_stripped(whole: io.BytesIO, path: Path) -> None:
    """Write a TorchScript archive without the source lines, and their paths, that PyTorch keeps for its messages.

    Loading does without. Tensors stay where PyTorch puts them, at multiples of 64 bytes, so that they can be mapped.
    """
    with zipfile.ZipFile(whole) as given, path.open("wb") as file, zipfile.ZipFile(file, "w") as kept:
        for entry in given.infolist():
            if entry.filename.endswith(".debug_pkl"):
                continue
            plain = zipfile.ZipInfo(entry.filename, entry.date_time)
            plain.compress_type = entry.compress_type
            header = 30 + len(entry.filename.encode()) + 4
            padding = -(file.tell() + header) % 64
            plain.extra = struct.pack("<2sH", b"FB", padding) + b"Z" * padding
            kept.writestr(plain, given.read(entry))
