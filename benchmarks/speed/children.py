"""Commands as processes of their own: how long one runs, and how much memory it holds at its fullest."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.speed.harness import Options

COMMAND = (sys.executable, "-m", "patch2tissue")
"""How `patch2tissue` is called."""

_EVERY = 0.02
"""Seconds between two looks at a process."""


@dataclass(frozen=True)
class Finished:
    """What a process took.

    Attributes:
        seconds: from its start to its end.
        anonymous: most memory of its own, in bytes. Pages of files, which the system takes back when it needs the room,
            are not in it.
        resident: most memory with those pages, in bytes.
    """

    seconds: float
    anonymous: int
    resident: int


def environment(options: Options) -> dict[str, str]:
    """The environment of child processes: threads as in this process, the same package, no colours."""
    paths = [entry for entry in (os.environ.get("PYTHONPATH", ""),) if entry]
    return {**os.environ, "OMP_NUM_THREADS": str(options.threads), "PYTHONPATH": os.pathsep.join(paths)}


def run_measured(arguments: Sequence[str | Path], options: Options) -> Finished:
    """Run a command to its end.

    Args:
        arguments: what follows `patch2tissue`.
        options: of the benchmark.

    Raises:
        RuntimeError: if it fails, with what it said.
    """
    with tempfile.TemporaryFile() as said:
        started = time.perf_counter()
        process = subprocess.Popen([*COMMAND, *map(str, arguments)], stdout=said, stderr=said, env=environment(options))
        status = Path(f"/proc/{process.pid}/status")
        anonymous = resident = 0
        try:
            while process.poll() is None:
                held = memory_fields(status)
                anonymous, resident = max(anonymous, held.get("RssAnon", 0)), max(resident, held.get("VmHWM", 0))
                time.sleep(_EVERY)
        finally:
            process.kill()  # if we are interrupted
        seconds = time.perf_counter() - started
        if process.returncode != 0:
            said.seek(0)
            raise RuntimeError(f"patch2tissue {arguments[0]} failed:\n{said.read().decode(errors='replace')[-4000:]}")
    return Finished(seconds, anonymous, resident)


def memory_fields(status: Path) -> dict[str, int]:
    """Fields of `/proc/PID/status` that are sizes, in bytes; empty where there is no such file."""
    try:
        lines = status.read_text().splitlines()
    except OSError:
        return {}
    fields = (line.split() for line in lines if line.endswith(" kB"))
    return {name.rstrip(":"): int(kib) * 1024 for name, kib, _ in fields}
