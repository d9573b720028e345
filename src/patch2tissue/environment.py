"""What a run ran on: versions, machine, git commit."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text

_PACKAGES = (
    "torch",
    "torchvision",
    "timm",
    "segmentation-models-pytorch",
    "lightning",
    "torchmetrics",
    "numpy",
    "pillow",
)


def describe_environment(seed: int) -> dict[str, Any]:
    """Versions, processor, devices, seed and, inside a checkout, the git commit."""
    import torch

    from patch2tissue.hardware import autocast_dtype, choose_device

    device = choose_device("auto")
    versions = {}
    for name in ("patch2tissue", *_PACKAGES):
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device.type == "cuda" else device.type,
        "autocast": str(autocast_dtype(device)),
        "seed": seed,
        "git_commit": git_commit(),
        "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
        "versions": versions,
    }


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


def write_environment(path: Path, seed: int) -> None:
    """Write `environment.json`."""
    write_text(path, json.dumps(describe_environment(seed), indent=2))
