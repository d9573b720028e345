"""Device and precision: one code path for CPU, CUDA and MPS."""

from __future__ import annotations

import torch

from patch2tissue.config import HardwareConfig
from patch2tissue.cores import available_cores
from patch2tissue.distributed.place import joined
from patch2tissue.errors import ConfigError


def choose_device(name: str = "auto") -> torch.device:
    """Return the device to compute on.

    Args:
        name: `cpu`, `cuda`, `mps`, or `auto` for CUDA if there is one, else MPS, else the CPU.

    Raises:
        ConfigError: if the named device is not on this machine.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return torch.device("cuda")
        return torch.device("mps" if torch.backends.mps.is_available() else "cpu")
    available = {
        "cpu": True,
        "cuda": torch.cuda.is_available(),
        "mps": torch.backends.mps.is_available(),
    }
    if name not in available:
        raise ConfigError(f"Unknown device '{name}'. Use auto, cpu, cuda or mps.")
    if not available[name]:
        raise ConfigError(
            f"hardware.device is '{name}', which this machine lacks. Use auto, or see `patch2tissue doctor`."
        )
    return torch.device(name)


def cpu_has_fast_bfloat16() -> bool:
    """Whether this processor multiplies bfloat16 in hardware (AVX512-BF16 or AMX)."""
    for probe in ("_is_avx512_bf16_supported", "_is_amx_tile_supported"):
        supported = getattr(torch.cpu, probe, None)
        if supported is not None and supported():
            return True
    return False


def autocast_dtype(device: torch.device, precision: str = "auto") -> torch.dtype | None:
    """Type for autocast on `device`, or None for plain float32.

    Args:
        device: where the network runs.
        precision: `float32`, `bfloat16`, or `auto`: bfloat16 where the hardware is fast at it.
    """
    if precision == "float32":
        return None
    if precision == "bfloat16":
        return torch.bfloat16
    if device.type == "cuda":
        return torch.bfloat16 if torch.cuda.is_bf16_supported() else None
    if device.type == "cpu":
        return torch.bfloat16 if cpu_has_fast_bfloat16() else None
    return None


def thread_count(hardware: HardwareConfig) -> int:
    """CPU threads to compute with: as many as configured, or as there are cores that this process may use.

    Processes that train together share the cores of their machine.
    """
    cores, place = available_cores(), joined()
    return hardware.threads or min(cores if place is None else place.cores(cores), torch.get_num_threads())


def set_threads(hardware: HardwareConfig) -> None:
    """Compute with `thread_count` threads from now on."""
    torch.set_num_threads(thread_count(hardware))
