"""What `patch2tissue doctor` finds out: is everything here, does it fit together, what to do if not.

Each check is a function that returns one `Check`; none of them raises, since a broken installation is what they are
for. `examine` runs them all.
"""

from __future__ import annotations

import importlib
import io
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from importlib import metadata
from pathlib import Path
from typing import Any

GIB = 1024**3
REINSTALL = "Install again from requirements.lock: remove .venv and run `make`."

_IMPORT_NAMES = {
    "openslide-python": "openslide",
    "pillow": "PIL",
    "pyyaml": "yaml",
    "scikit-image": "skimage",
    "scikit-learn": "sklearn",
}
"""Module of a distribution where it is not the distribution's name with underscores."""


class Status(Enum):
    """How a check ended: WARN is worth knowing, FAIL makes patch2tissue unusable."""

    OK = "OK"
    WARN = "WARN"
    FAIL = "FAIL"


@dataclass(frozen=True)
class Check:
    """One finding.

    Attributes:
        name: what was looked at.
        status: how it is.
        found: what was found, in a few words.
        advice: what to do; empty if nothing.
        package: whether this is one of the required packages.
    """

    name: str
    status: Status
    found: str
    advice: str = ""
    package: bool = False

    def to_dict(self) -> dict[str, str]:
        """Plain form for JSON."""
        return {"name": self.name, "status": self.status.value, "found": self.found, "advice": self.advice}


def usable(checks: list[Check]) -> bool:
    """Whether no check failed."""
    return all(check.status is not Status.FAIL for check in checks)


def examine(folder: Path = Path()) -> list[Check]:
    """Run every check.

    Args:
        folder: where the user wants to work.
    """
    checks = [check_python(), *check_packages()]
    for look in (
        check_torchvision,
        check_openslide,
        check_processor,
        check_accelerator,
        check_memory,
        lambda: check_folder(folder),
        check_png,
        check_training_step,
    ):
        checks.append(_guarded(look))
    return checks


def _guarded(look: Callable[[], Check]) -> Check:
    try:
        return look()
    except Exception as error:
        name = getattr(look, "__name__", "check").removeprefix("check_").replace("_", " ")
        return Check(name, Status.FAIL, _short(error), REINSTALL)


def _short(error: BaseException) -> str:
    first = (str(error).strip() or "no message").splitlines()[0]
    return f"{type(error).__name__}: {first[:160]}"


def check_python(version: tuple[int, ...] = tuple(sys.version_info[:3])) -> Check:
    """Python is 3.11 or newer."""
    text = ".".join(map(str, version))
    if version < (3, 11):
        return Check("Python", Status.FAIL, text, "Use Python 3.11 or newer.")
    return Check("Python", Status.OK, f"{text} ({sys.executable})")


def check_packages() -> list[Check]:
    """Each required package can be imported and its version is in the range that patch2tissue declares."""
    from packaging.requirements import Requirement

    try:
        declared = metadata.requires("patch2tissue") or []
        version = metadata.version("patch2tissue")
    except metadata.PackageNotFoundError:
        advice = "Run `make`, or `pip install .` in the folder with pyproject.toml."
        return [Check("patch2tissue", Status.WARN, "used without being installed; packages were not checked", advice)]
    requirements = [Requirement(line) for line in declared]
    needed = [r for r in requirements if r.marker is None or r.marker.evaluate({"extra": ""})]
    return [Check("patch2tissue", Status.OK, version), *(_check_package(requirement) for requirement in needed)]


def _check_package(requirement: Any) -> Check:
    name = requirement.name
    try:
        version = metadata.version(name)
    except metadata.PackageNotFoundError:
        return Check(name, Status.FAIL, "missing", f"pip install '{requirement}', or: {REINSTALL}", package=True)
    if not requirement.specifier.contains(version, prereleases=True):
        advice = f"pip install '{requirement}', or: {REINSTALL}"
        return Check(name, Status.FAIL, f"{version}, but {requirement.specifier} is needed", advice, package=True)
    try:
        importlib.import_module(_IMPORT_NAMES.get(name.lower(), name.replace("-", "_")))
    except Exception as error:
        return Check(name, Status.FAIL, f"{version}, cannot be imported: {_short(error)}", REINSTALL, package=True)
    return Check(name, Status.OK, version, package=True)


def check_torchvision() -> Check:
    """Torch and torchvision are a pair: the compiled operators of the one load in the other."""
    name = "torch + torchvision"
    try:
        import torch
        import torchvision.ops

        versions = f"{torch.__version__} + {torchvision.__version__}"
        torchvision.ops.nms(torch.tensor([[0.0, 0.0, 1.0, 1.0]]), torch.tensor([1.0]), 0.5)
    except Exception as error:
        advice = "torch and torchvision come from different builds. Let one command choose both: " + REINSTALL
        return Check(name, Status.FAIL, _short(error), advice)
    return Check(name, Status.OK, f"{versions}, operators load")


def check_openslide() -> Check:
    """The OpenSlide library, which reads whole slides, loads."""
    try:
        import openslide

        version = openslide.__library_version__
    except Exception as error:
        advice = "pip install --force-reinstall openslide-bin openslide-python"
        return Check("OpenSlide", Status.FAIL, _short(error), advice)
    return Check("OpenSlide", Status.OK, f"library {version}")


def check_processor() -> Check:
    """Cores this process may use, torch's threads, and whether bfloat16 is fast."""
    import torch

    from patch2tissue.cores import available_cores
    from patch2tissue.hardware import cpu_has_fast_bfloat16

    cores = available_cores()
    fast = cpu_has_fast_bfloat16()
    found = f"{cores} cores, {torch.get_num_threads()} threads, {'fast' if fast else 'no fast'} bfloat16"
    if cores == 1:
        return Check("processor", Status.WARN, found, "Training on one core is slow; give this process more.")
    return Check("processor", Status.OK, found)


def check_accelerator() -> Check:
    """CUDA or MPS device, or none; one that does not compute is worse than none."""
    import torch

    if torch.cuda.is_available():
        properties = torch.cuda.get_device_properties(0)
        found = f"CUDA: {properties.name}, {properties.total_memory / GIB:.0f} GiB"
        device = "cuda"
    elif torch.backends.mps.is_available():
        found, device = "MPS (Apple)", "mps"
    else:
        return Check("accelerator", Status.OK, "none; training uses the processor")
    try:
        torch.ones(8, 8, device=device).matmul(torch.ones(8, 8, device=device)).sum().item()
    except Exception as error:
        advice = "Update the graphics driver, or use --set hardware.device=cpu."
        return Check("accelerator", Status.WARN, f"{found}, but it does not compute: {_short(error)}", advice)
    if device == "cuda" and torch.cuda.device_count() > 1:
        found += f" (and {torch.cuda.device_count() - 1} more)"
    return Check("accelerator", Status.OK, found)


def memory() -> tuple[int | None, int | None]:
    """Bytes of memory in total and free, within the limit of a container; None where the system does not tell."""
    total = free = None
    if hasattr(os, "sysconf") and "SC_PHYS_PAGES" in os.sysconf_names:
        total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    meminfo = Path("/proc/meminfo")
    if meminfo.is_file():
        fields = dict(line.split(":", 1) for line in meminfo.read_text().splitlines() if ":" in line)
        if "MemAvailable" in fields:
            free = int(fields["MemAvailable"].split()[0]) * 1024
    group = Path("/sys/fs/cgroup")
    limit, used = group / "memory.max", group / "memory.current"
    if total is not None and limit.is_file() and limit.read_text().strip().isdigit():
        allowed = int(limit.read_text())
        total = min(total, allowed)
        if free is not None and used.is_file():
            free = min(free, max(allowed - int(used.read_text()), 0))
    return total, free


def check_memory() -> Check:
    """At least 4 GiB in total and 2 GiB free."""
    total, free = memory()
    if total is None:
        return Check("memory", Status.OK, "this system does not tell")
    found = f"{total / GIB:.1f} GiB" + ("" if free is None else f", {free / GIB:.1f} GiB free")
    if total < 4 * GIB or (free is not None and free < 2 * GIB):
        advice = "Close other programs, or train with a smaller batch_size and --set data.cache=false."
        return Check("memory", Status.WARN, found, advice)
    return Check("memory", Status.OK, found)


def check_folder(folder: Path) -> Check:
    """The folder (or the nearest one above it that exists) can be written to and has room."""
    there = Path(folder).resolve()
    while not there.exists():
        there = there.parent
    name = "working folder"
    try:
        with tempfile.NamedTemporaryFile(dir=there, prefix=".patch2tissue-") as file:
            file.write(b"x")
    except OSError as error:
        advice = "Work in a folder you may write to (--folder, or cd there)."
        return Check(name, Status.FAIL, f"{there}: cannot write: {error.strerror or error}", advice)
    free = shutil.disk_usage(there).free
    found = f"{there}: writable, {free / GIB:.1f} GiB free"
    if free < GIB // 4:
        return Check(name, Status.FAIL, found, "Free at least 1 GiB: a run with its pictures needs it.")
    if free < 5 * GIB:
        return Check(name, Status.WARN, found, "Little room: training on a large data set may fill the disk.")
    return Check(name, Status.OK, found)


def check_png() -> Check:
    """A palette mask comes back from PNG as it was written."""
    import numpy as np
    from PIL import Image

    mask = np.arange(256, dtype=np.uint8).reshape(16, 16)
    image = Image.fromarray(mask).convert("P")
    image.putdata(mask.ravel().tolist())
    image.putpalette([value // 3 for value in range(768)])
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    with Image.open(io.BytesIO(buffer.getvalue())) as again:
        same = again.mode == "P" and np.array_equal(np.asarray(again), mask)
    if not same:
        return Check("palette PNG", Status.FAIL, "values change on the way", f"Pillow is broken. {REINSTALL}")
    return Check("palette PNG", Status.OK, "written and read")


def check_training_step() -> Check:
    """A small convolution goes forward and backward, and its gradient is finite."""
    import torch

    begin = time.perf_counter()
    layer = torch.nn.Conv2d(3, 8, 3, padding=1)
    loss = layer(torch.rand(2, 3, 32, 32)).square().mean()
    loss.backward()
    gradient = layer.weight.grad
    if gradient is None or not torch.isfinite(gradient).all() or not gradient.abs().sum() > 0:
        return Check("training step", Status.FAIL, "no usable gradient", f"torch is broken. {REINSTALL}")
    return Check("training step", Status.OK, f"forward and backward in {(time.perf_counter() - begin) * 1e3:.0f} ms")
