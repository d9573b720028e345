"""A Ray cluster: joined or started on this machine, what fits on it, and its actors."""

from __future__ import annotations

import logging
import os
import secrets
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from patch2tissue.cores import available_cores
from patch2tissue.errors import ConfigError, Patch2TissueError
from patch2tissue.inference.cohort.worker import Answer, CohortWorker, WorkerSettings
from patch2tissue.optional import optional_import

logger = logging.getLogger(__name__)

_STORE_BYTES = 128 * 2**20
"""Memory that Ray keeps for what is passed between processes; maps go through the disk."""


@dataclass(frozen=True)
class ClusterOptions:
    """Where the work runs and how it is shared out.

    Attributes:
        address: of a running cluster, or `auto` for the one on this machine; None: as RAY_ADDRESS says, or else one is
            started on this machine for as long as the work takes.
        actors: processes that hold the network; None: as many as fit.
        cpus: CPU cores for each of them; None: by what there is.
        gpus: GPUs for each of them, 0.5 lets two share one; None: 1 where there are any, else 0.
        retries: how often a piece of work that a worker took along when it died is begun again.
        strip_tiles: tiles of a strip, about.
    """

    address: str | None = None
    actors: int | None = None
    cpus: int | None = None
    gpus: float | None = None
    retries: int = 3
    strip_tiles: int = 512

    def check(self) -> None:
        """Refuse what makes no sense.

        Raises:
            ConfigError: naming it.
        """
        for value, what in ((self.actors, "actors"), (self.cpus, "CPU cores of an actor")):
            if value is not None and value < 1:
                raise ConfigError(f"The number of {what} is at least 1, not {value}.")
        if self.gpus is not None and (self.gpus < 0 or (self.gpus > 1 and self.gpus != int(self.gpus))):
            raise ConfigError(f"The GPUs of an actor are a whole number or a share of one, not {self.gpus:g}.")
        if self.retries < 0:
            raise ConfigError(f"The number of retries is not negative, so not {self.retries}.")
        if self.strip_tiles < 1:
            raise ConfigError(f"A strip has at least one tile, not {self.strip_tiles}.")
        if (self.address or os.environ.get("RAY_ADDRESS", "")).startswith("ray://"):
            raise ConfigError(
                "ray:// is the address of a Ray Client, through which this does not work. Give the command on a "
                "machine of the cluster, with --address auto."
            )


@dataclass(frozen=True)
class Layout:
    """Actors on a cluster.

    Attributes:
        actors: that draw.
        cpus: cores of each.
        gpus: GPUs of each.
        helpers: actors of one core that prepare and finish slides, so that GPUs need not wait for it.
    """

    actors: int
    cpus: int
    gpus: float
    helpers: int = 0


def lay_out(options: ClusterOptions, machines: Sequence[Mapping[str, float]], device: str | None) -> Layout:
    """What fits on a cluster.

    Args:
        options: what a user wants.
        machines: `CPU` and `GPU` of each machine.
        device: to compute on, if a user says.

    Raises:
        ConfigError: if nothing fits.
    """
    cores = [int(machine.get("CPU", 0)) for machine in machines]
    cards = [machine.get("GPU", 0.0) for machine in machines]
    gpus = options.gpus
    if gpus is None:
        gpus = 1.0 if sum(cards) >= 1 and device != "cpu" else 0.0
    cpus = options.cpus
    if cpus is None and gpus:
        shares = [core // max(1, int(card / gpus)) for core, card in zip(cores, cards, strict=True) if card >= gpus]
        cpus = max(1, min([8, *(share - 1 for share in shares)]))
    elif cpus is None:
        wanted = options.actors or 0
        cpus = max(1, sum(cores) // wanted) if wanted else max(1, min(4, max(cores, default=1)))
        cpus = min(cpus, max(1, *cores)) if cores else cpus
    fitting = [
        int(min(core // cpus, card / gpus if gpus else core // cpus)) for core, card in zip(cores, cards, strict=True)
    ]
    if not sum(fitting):
        of_gpus = f" and {gpus:g} GPU{'' if gpus == 1 else 's'}" if gpus else ""
        raise ConfigError(
            f"No machine of the cluster has {cpus} CPU core{'' if cpus == 1 else 's'}{of_gpus} for an actor; they have "
            f"{', '.join(f'{core} and {card:g}' for core, card in zip(cores, cards, strict=True)) or 'nothing'}. See "
            "--actor-cpus and --actor-gpus."
        )
    actors = options.actors or sum(fitting)
    helpers = 0
    if gpus:
        free = sum(core - cpus * count for core, count in zip(cores, fitting, strict=True))
        helpers = max(0, min(actors, free))
    return Layout(actors, cpus, gpus, helpers)


@contextmanager
def opened(options: ClusterOptions) -> Iterator[RayCluster]:
    """Join a cluster, or start one that ends with the block.

    Raises:
        ConfigError: if Ray is not installed, or the cluster cannot be joined.
    """
    options.check()
    address = options.address or os.environ.get("RAY_ADDRESS")
    if not address:
        _ask_for_a_token()
    ray = _ray()
    if ray.is_initialized():  # by whoever called
        yield RayCluster(ray)
        return
    with ExitStack() as stack:
        stack.callback(ray.shutdown)
        try:
            _init(ray, address, options)
        except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
            where = f"The Ray cluster at {address}" if address else "A Ray cluster on this machine"
            what = "cannot be joined" if address else "cannot be started"
            hint = "`ray status` tells whether one runs; Ray and Python must be of the same version on all machines."
            raise ConfigError(f"{where} {what}: {str(error).strip().splitlines()[0]} {hint}") from None
        yield RayCluster(ray)


def _init(ray: Any, address: str | None, options: ClusterOptions) -> None:
    """Join the cluster at an address, or start one."""
    quiet = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address:
        ray.init(address=address, **quiet)
        return
    ray.init(
        address="local",
        num_cpus=max(available_cores(), (options.actors or 1) * (options.cpus or 1)),
        include_dashboard=False,
        object_store_memory=_STORE_BYTES,
        **quiet,
    )


def _ask_for_a_token() -> None:
    """Let only processes that we start talk to a cluster that we start: whoever does may run anything.

    Ray listens on all of the machine's addresses. Left alone it asks nobody for a token before version 2.52, and later
    keeps one in the user's home. It reads the environment once, when it is imported; what a user has set stays.
    """
    if "ray" not in sys.modules and "RAY_AUTH_MODE" not in os.environ:
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _ray() -> ModuleType:
    # read when Ray is imported or its processes start
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    return optional_import("ray", "--engine ray", "cluster", otherwise=" on all machines, or use --engine local")


class RayCluster:
    """A cluster that is joined.

    Args:
        ray: the module.
    """

    def __init__(self, ray: ModuleType) -> None:
        self._ray: Any = ray
        self._actor: Any = ray.remote(CohortWorker)

    def machines(self) -> list[dict[str, float]]:
        """`CPU` and `GPU` of each machine that is up."""
        return [node["Resources"] for node in self._ray.nodes() if node["Alive"]]

    def start(self, layout: Layout, *, draws: bool) -> Any:
        """Ask for an actor; it comes when there is room."""
        # an actor that dies is replaced by us, since what it holds must be loaded again
        return self._actor.options(
            num_cpus=layout.cpus if draws else 1,
            num_gpus=layout.gpus if draws else 0,
            max_restarts=0,
            max_task_retries=0,
        ).remote()

    def set_up(self, actor: Any, settings: WorkerSettings) -> Any:
        """Let an actor load the network; returns what to wait for."""
        return actor.set_up.remote(settings)

    def take(self, actor: Any, *what: Any) -> Any:
        """Let an actor take a step; returns what to wait for."""
        return actor.take.remote(*what)

    def wait(self, running: Sequence[Any], seconds: float) -> list[Any]:
        """Those of what is under way that have come to an end within some seconds; at least one if any has."""
        ready, _ = self._ray.wait(list(running), num_returns=1, timeout=seconds)
        return list(ready)

    def answer(self, reference: Any) -> Answer | str:
        """What an actor answered, or, if it died, why.

        Raises:
            Patch2TissueError: if it cannot run our code.
        """
        errors = self._ray.exceptions
        try:
            answer = self._ray.get(reference)
            assert isinstance(answer, Answer)
            return answer
        except errors.RayTaskError as error:
            raise Patch2TissueError(
                f"A worker cannot run patch2tissue: {_last_line(error)}. Install the same version of it, of Ray and of "
                "Python on all machines of the cluster."
            ) from None
        except errors.RayError as error:
            return _cause(error)

    def end(self, actor: Any) -> None:
        """End an actor that is not needed any more; one that is gone stays so."""
        with suppress(self._ray.exceptions.RayError, ConnectionError, ValueError):
            self._ray.kill(actor, no_restart=True)


def _cause(error: Exception) -> str:
    """What Ray says of a worker's end, in short."""
    text = str(error)
    if "ModuleNotFoundError" in text or "ImportError" in text:
        return f"it cannot load patch2tissue ({_last_line(error)})"
    if "OutOfMemory" in type(error).__name__ or "memory monitor" in text.lower():
        return "it was ended for want of memory"
    if "node" in text.lower() and "died" in text.lower() and "worker process has died" not in text.lower():
        return "its machine was lost"
    return "its process was ended, by a signal or for want of memory"


def _last_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else type(error).__name__
