"""Starting the processes of a training on this machine, and ending all of them when one is lost; without torch.

The processes are started anew and told what to do by a line on their standard input. That stays open: when the process
that started them is gone, they see its end and end too.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from patch2tissue.config import HardwareConfig, RunConfig
from patch2tissue.distributed.place import LAUNCHED, LOST
from patch2tissue.errors import ConfigError, TrainingError
from patch2tissue.progress import console

log = logging.getLogger(__name__)

_LOOK = 0.1  # seconds between two looks at the processes
_ALIKE = 1.0  # within which processes fail for the same reason
_LEAVE = 5.0  # to end by themselves
_MODULE = "patch2tissue.cli.training_process"


@dataclass(frozen=True)
class Order:
    """What a process is told to do.

    Attributes:
        config: the run's configuration as plain values.
        stages: see `run_training`.
        resume: see `run_training`.
        progress: see `run_training`.
        level: of the messages.
        quiet: whether there is no progress either.
        command: the command that the user gave, for `environment.json`.
    """

    config: dict[str, Any]
    stages: list[str]
    resume: bool
    progress: bool
    level: int
    quiet: bool
    command: list[str]

    @classmethod
    def of(cls, config: RunConfig, stages: Sequence[str], *, resume: bool, progress: bool) -> Order:
        """The order to train a run, with messages as they are shown here."""
        level = logging.getLogger("patch2tissue").getEffectiveLevel()
        plain = config.model_dump(mode="json")
        return cls(plain, list(stages), resume, progress, level, console.quiet, list(sys.argv))

    def to_line(self) -> str:
        """As one line of text."""
        return json.dumps(asdict(self)) + "\n"

    @classmethod
    def from_line(cls, line: str) -> Order:
        """Read what `to_line` gave."""
        return cls(**json.loads(line))


def processes_to_start(hardware: HardwareConfig) -> int:
    """How many processes of a training are to be started on this machine; 0: none, it has one, which is this."""
    if hardware.devices != "auto":
        number: int = hardware.devices
    else:
        number = 1
        if hardware.device not in ("cpu", "mps"):
            import torch

            number = max(1, torch.cuda.device_count())
    return 0 if number * hardware.nodes == 1 else number


_HOW_ON_MANY = (
    "hardware.nodes is above 1, but nothing tells the machines of each other. Start the command on all of them with "
    "torchrun or srun (docs/many-machines.md), or set MASTER_ADDR, MASTER_PORT and NODE_RANK on each."
)


def launch(order: Order, devices: int, nodes: int = 1) -> None:
    """Run a training in several processes on this machine, and wait for its end.

    On several machines, each is to call this; MASTER_ADDR, MASTER_PORT and NODE_RANK tell them of each other.

    Args:
        order: what to train.
        devices: number of processes on this machine.
        nodes: number of machines.

    Raises:
        ConfigError: if there are several machines and nothing tells them of each other.
        TrainingError: if a process fails or is killed; all others were ended. Its `exit_code` is that of the process.
    """
    variables = _variables(devices, nodes)
    processes: list[subprocess.Popen[str]] = []
    log.info("training in %d processes%s", devices * nodes, f" on {nodes} machines" if nodes > 1 else "")
    try:
        for number in range(devices):
            process = subprocess.Popen(
                [sys.executable, "-m", _MODULE],
                env=variables | {"LOCAL_RANK": str(number)},
                stdin=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdin is not None
            with contextlib.suppress(BrokenPipeError):  # it ended at once, which is seen below
                process.stdin.write(order.to_line())
                process.stdin.flush()
        _wait(processes, first=devices * int(variables.get("NODE_RANK", "0")))
    finally:
        _end(processes)


def _variables(devices: int, nodes: int) -> dict[str, str]:
    """Environment of the processes, but for `LOCAL_RANK`."""
    variables = dict(os.environ)
    if nodes > 1:
        if not all(variables.get(name) for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK")):
            raise ConfigError(_HOW_ON_MANY)
        if not variables["NODE_RANK"].isdecimal() or int(variables["NODE_RANK"]) >= nodes:
            raise ConfigError(f"NODE_RANK is {variables['NODE_RANK']!r}, not a number from 0 to {nodes - 1}.")
    else:
        variables |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(_free_port()), "NODE_RANK": "0"}
        if sys.platform == "linux":  # whatever the machine's name leads to
            variables.setdefault("GLOO_SOCKET_IFNAME", "lo")
    # what runs here must be what runs there, however it was found
    package = str(Path(__file__).resolve().parents[2])
    paths = [package, *filter(None, [variables.get("PYTHONPATH")])]
    return variables | {
        # else each process says that in most steps no parameter is unused
        "TORCH_CPP_LOG_LEVEL": variables.get("TORCH_CPP_LOG_LEVEL", "ERROR"),
        LAUNCHED: "1",
        "WORLD_SIZE": str(devices * nodes),
        "LOCAL_WORLD_SIZE": str(devices),
        "PYTHONPATH": os.pathsep.join(paths),
    }


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _wait(processes: Sequence[subprocess.Popen[str]], first: int) -> None:
    """Wait until all processes have ended well, or one has not.

    Args:
        processes: those of this machine.
        first: number of the first of them among those of all machines.
    """
    while True:
        codes = [process.poll() for process in processes]
        if any(codes):
            time.sleep(_ALIKE)  # others fail too, since they lost this one: which was it?
            codes = [process.poll() for process in processes]
            raise _failure(codes, first)
        if all(code == 0 for code in codes):
            return
        time.sleep(_LOOK)


def _failure(codes: Sequence[int | None], first: int) -> Exception:
    """What the exit codes of processes say; None: it was still running."""
    failed = [(number, code) for number, code in enumerate(codes) if code]
    if any(code == 130 for _, code in failed):
        return TrainingError("Interrupted.", exit_code=130)
    killed = [(number, code) for number, code in failed if code < 0]
    # of the others, those that lost another one know least, and those with a mistake of the user best
    number, code = min(killed) if killed else max(failed, key=lambda one: (one[1] != LOST, one[1]))
    kept = "What was trained up to the last whole epoch is kept: give the same command again to go on from there."
    if code == LOST:
        return TrainingError(f"Processes on another machine ended, or cannot be reached any more. {kept}")
    which = f"process {first + number} of the training"
    if not killed:
        text = f"All processes were ended, since {which} could not go on (exit code {code}); it said why. {kept}"
        return TrainingError(text, exit_code=code)
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    why = " The system does so when memory runs out: a smaller batch_size, or fewer processes, need less."
    return TrainingError(
        f"{which[0].upper()}{which[1:]} was killed ({name}), and the others were ended. {kept}"
        + (why if name == "SIGKILL" else "")
    )


def _end(processes: Sequence[subprocess.Popen[str]]) -> None:
    """End what still runs: by closing its input, which it takes for the end, then the hard way."""
    for process in processes:
        if process.stdin is not None:
            with contextlib.suppress(OSError):
                process.stdin.close()
    until = time.monotonic() + _LEAVE
    for process in processes:
        try:
            process.wait(max(0.0, until - time.monotonic()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
