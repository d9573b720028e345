"""Where this process stands among those that train together, as who started it says; without torch."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from patch2tissue.errors import ConfigError

LAUNCHED = "PATCH2TISSUE_LAUNCHED"
"""Environment variable that `distributed.launch` sets in the processes that it starts."""

LOST = 75
"""Exit code by which a process tells `distributed.launch`, which started it, that it lost another one."""

Starter = Literal["patch2tissue", "torchrun", "SLURM"]


@dataclass(frozen=True)
class Place:
    """A process among others.

    Attributes:
        rank: its number among all, from 0; the first one writes files and talks to the user.
        world: how many there are.
        local_rank: its number on this machine.
        local_world: how many there are on this machine, the same on each.
        node: number of this machine.
        starter: who started the processes.
    """

    rank: int
    world: int
    local_rank: int
    local_world: int
    node: int
    starter: Starter

    @property
    def nodes(self) -> int:
        """Number of machines."""
        return self.world // self.local_world

    def cores(self, available: int) -> int:
        """This process' share of the cores that it may run on."""
        of_slurm = os.environ.get("SLURM_CPUS_PER_TASK", "")
        if self.starter == "SLURM" and of_slurm.isdecimal():  # which may have confined the process to them already
            return max(1, min(available, int(of_slurm)))
        return max(1, available // self.local_world)


def place_of_process(environment: Mapping[str, str] | None = None) -> Place | None:
    """Where this process stands, or None if it is alone.

    Processes of torchrun, of SLURM's srun (not of a batch script without srun) and of our own launcher are known.

    Args:
        environment: variables to look at; None: those of this process.

    Raises:
        ConfigError: if SLURM's tasks are not spread evenly over its machines.
    """
    variables = os.environ if environment is None else environment

    def number(name: str, otherwise: int | None = None) -> int:
        value = variables.get(name)
        if value is None and otherwise is not None:
            return otherwise
        if value is None or not value.isdecimal():
            raise ConfigError(f"The environment variable {name} is {value!r}, not the number that it should be.")
        return int(value)

    place: Place | None = None
    if LAUNCHED in variables or "TORCHELASTIC_RUN_ID" in variables:
        ours = LAUNCHED in variables
        local_world, local_rank = number("LOCAL_WORLD_SIZE"), number("LOCAL_RANK")
        node = number("NODE_RANK", 0) if ours else number("GROUP_RANK", 0)
        rank = node * local_world + local_rank if ours else number("RANK")
        starter: Starter = "patch2tissue" if ours else "torchrun"
        place = Place(rank, number("WORLD_SIZE"), local_rank, local_world, node, starter)
    elif "SLURM_STEP_ID" in variables and variables.get("SLURM_JOB_NAME") not in ("bash", "interactive"):
        world, nodes = number("SLURM_NTASKS", 1), number("SLURM_NNODES", 1)
        if world > 1:
            local_rank, node = number("SLURM_LOCALID"), number("SLURM_NODEID")
            place = Place(number("SLURM_PROCID"), world, local_rank, world // nodes, node, "SLURM")
    if place is None or place.world == 1:
        return None
    if place.local_world * place.nodes != place.world:
        raise ConfigError(
            f"{place.starter} started {place.world} processes that are not spread evenly over the machines. Start as "
            "many on each, for example with --ntasks-per-node."
        )
    return place


_joined: Place | None = None


def joined() -> Place | None:
    """Place of this process while it trains together with others, else None; see `distributed.group.together`."""
    return _joined


def set_joined(place: Place | None) -> None:
    """For `distributed.group` alone."""
    global _joined
    _joined = place


def is_first() -> bool:
    """Whether this process is alone, or the first of those that train together."""
    return _joined is None or _joined.rank == 0
