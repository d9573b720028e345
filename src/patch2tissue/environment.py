"""What a run ran on: versions, machine, git commit, and what of it is another now."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any

from patch2tissue.atomic import write_text
from patch2tissue.errors import DataError

if TYPE_CHECKING:
    import torch

    from patch2tissue.config import RunConfig

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "lightning",
    "torchmetrics",
    "numpy",
    "pillow",
    "scikit-image",
    "scipy",
)
"""Packages on whose version the results of training may depend."""

_FIELDS = {
    "python": "Python",
    "platform": "operating system",
    "processor": "processor",
    "vector_instructions": "processor's vector instructions",
    "threads": "CPU threads",
    "workers": "data workers",
    "world_size": "training processes",
    "device": "device",
    "precision": "precision",
    "git_commit": "git commit",
}
"""Fields that are compared, besides versions, and what they are called."""


def describe_environment(config: RunConfig) -> dict[str, Any]:
    """Versions, processor, device, precision, threads, processes, seed and, inside a checkout, the git commit.

    Device, precision and threads are those that the run computes with, not what its configuration leaves open.
    """
    import torch

    from patch2tissue.hardware import autocast_dtype, choose_device, thread_count

    device = choose_device(config.hardware.device)
    dtype = autocast_dtype(device, config.hardware.precision)
    versions = {}
    augmentation = config.data.augmentation
    drawn_by = [name for name in ("albumentations", "monai") if getattr(augmentation, name, None) is not None]
    for name in ("patch2tissue", *_PACKAGES, *drawn_by):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "vector_instructions": torch.backends.cpu.get_cpu_capability(),
        "cores": os.cpu_count(),
        "threads": thread_count(config.hardware),
        "workers": config.hardware.workers,
        **_processes(config, device),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "precision": "float32" if dtype is None else str(dtype).removeprefix("torch."),
        "seed": config.seed,
        "git_commit": git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions,
    }


def _processes(config: RunConfig, device: torch.device) -> dict[str, Any]:
    """How many processes train together, or would, and how they talk to each other."""
    from patch2tissue.distributed.launch import processes_to_start
    from patch2tissue.distributed.place import joined

    place = joined()
    devices = max(1, processes_to_start(config.hardware)) if place is None else place.local_world
    nodes = config.hardware.nodes if place is None else place.nodes
    backend = None
    if devices * nodes > 1:
        from patch2tissue.distributed.group import backend_of

        backend = backend_of(device)
    return {"devices": devices, "nodes": nodes, "world_size": devices * nodes, "backend": backend}


def processor_name() -> str:
    """Name of the processor as the operating system tells it."""
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def git_commit() -> str | None:
    """Commit of the checkout this package lies in, with `-dirty` if files were changed; None outside a checkout."""
    here = Path(__file__).resolve().parent
    try:
        done = subprocess.run(
            ["git", "-C", str(here), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"],
            capture_output=True,
            text=True,
            timeout=10,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() or None if done.returncode == 0 else None


def write_environment(path: Path, config: RunConfig) -> None:
    """Write `environment.json`; where it is there, keep it and add, under `resumed`, an environment that differs.

    What an earlier call trained, it trained in the environment that it wrote down.
    """
    now = describe_environment(config)
    try:
        then = read_environment(path)
    except DataError:
        write_text(path, json.dumps(now, indent=2))
        return
    known = [then, *then.get("resumed", [])]
    if environment_changes(known[-1], now):
        then["resumed"] = [*known[1:], now]
        write_text(path, json.dumps(then, indent=2))


def read_environment(path: Path) -> dict[str, Any]:
    """Read `environment.json`.

    Raises:
        DataError: if it is missing or damaged.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path}: cannot be read: {error.strerror or error}.") from None
    except ValueError:
        found = None
    known = [found, *found.get("resumed", [])] if isinstance(found, dict) else [None]
    if not all(isinstance(one, dict) and isinstance(one.get("versions"), dict) for one in known):
        raise DataError(f"{path}: is damaged; it says no more what the run ran on.")
    return dict(found)


@dataclass(frozen=True)
class Change:
    """Something that is another now.

    Attributes:
        what: its name.
        then: what it was; None if that was not written down.
        now: what it is.
    """

    what: str
    then: str | None
    now: str | None

    def __str__(self) -> str:
        return f"{self.what}: {self.then or 'not known'} then, {self.now or 'not known'} now"


def environment_changes(then: Mapping[str, Any], now: Mapping[str, Any]) -> list[Change]:
    """What differs between two environments, of that on which results may depend, and the number of workers.

    Args:
        then: as `read_environment` gives it, of this or an earlier version.
        now: likewise.
    """
    pairs = {label: (then.get(field), now.get(field)) for field, label in _FIELDS.items()}
    # earlier versions called it so
    if "precision" not in then and "autocast" in then:
        autocast = re.sub(r"^torch\.", "", str(then["autocast"]))
        pairs["precision"] = ("float32" if autocast == "None" else autocast, now.get("precision"))
    pairs["training processes"] = (then.get("world_size", 1), now.get("world_size", 1))  # once there was one always
    versions = then["versions"], now["versions"]
    pairs |= {name: (versions[0].get(name), versions[1].get(name)) for name in {**versions[0], **versions[1]}}
    return [
        Change(what, *(None if value is None else str(value) for value in pair))
        for what, pair in pairs.items()
        if pair[0] != pair[1]
    ]
