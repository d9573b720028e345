"""How many actors fit on which machines."""

from __future__ import annotations

import os
import sys
from types import SimpleNamespace
from typing import Any

import pytest

import patch2tissue.inference.cohort.ray_cluster as cluster_module
from patch2tissue.errors import ConfigError, Patch2TissueError
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions, Layout, RayCluster, lay_out, opened


@pytest.mark.parametrize(
    ("options", "machines", "device", "expected"),
    [
        # by the cores
        (ClusterOptions(), [(8, 0)], None, Layout(2, 4, 0)),
        (ClusterOptions(), [(2, 0)], None, Layout(1, 2, 0)),
        (ClusterOptions(), [(6, 0), (4, 0)], None, Layout(2, 4, 0)),
        (ClusterOptions(actors=4), [(8, 0)], None, Layout(4, 2, 0)),
        (ClusterOptions(actors=16), [(8, 0)], None, Layout(16, 1, 0)),
        (ClusterOptions(actors=1), [(8, 0), (8, 0)], None, Layout(1, 8, 0)),
        (ClusterOptions(cpus=1), [(3, 0), (2, 0)], None, Layout(5, 1, 0)),
        # by the GPUs, with cores left for what is done beside them
        (ClusterOptions(), [(32, 4)], None, Layout(4, 7, 1.0, 4)),
        (ClusterOptions(), [(64, 2)], None, Layout(2, 8, 1.0, 2)),
        (ClusterOptions(), [(2, 2)], None, Layout(2, 1, 1.0, 0)),
        (ClusterOptions(gpus=0.5), [(16, 1)], None, Layout(2, 7, 0.5, 2)),
        (ClusterOptions(), [(16, 2), (32, 0)], None, Layout(2, 7, 1.0, 2)),
        (ClusterOptions(), [(16, 2)], "cpu", Layout(4, 4, 0)),
        (ClusterOptions(gpus=0), [(16, 2)], None, Layout(4, 4, 0)),
    ],
)
def test_layout(options: ClusterOptions, machines: list[tuple[int, int]], device: str | None, expected: Layout) -> None:
    assert lay_out(options, [{"CPU": cpu, "GPU": gpu} for cpu, gpu in machines], device) == expected


@pytest.mark.parametrize("options", [ClusterOptions(cpus=9), ClusterOptions(gpus=2)])
def test_what_fits_nowhere_is_told_of(options: ClusterOptions) -> None:
    with pytest.raises(ConfigError, match=r"No machine of the cluster has .*they have 8 and 1, 4 and 0"):
        lay_out(options, [{"CPU": 8, "GPU": 1}, {"CPU": 4}], None)


def test_without_ray_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ConfigError, match=r"pip install 'patch2tissue\[cluster\]'"), opened(ClusterOptions()):
        pass


@pytest.mark.parametrize("mode", [None, "disabled"])
def test_a_cluster_of_our_own_listens_to_us_alone(monkeypatch: pytest.MonkeyPatch, mode: str | None) -> None:
    seen: dict[str, Any] = {}

    def imported(name: str, *said: Any, **more: Any) -> Any:
        seen.update(mode=os.environ.get("RAY_AUTH_MODE"), token=os.environ.get("RAY_AUTH_TOKEN"))
        return SimpleNamespace(init=seen.update, shutdown=lambda: seen.update(ended=True),
                               is_initialized=lambda: False, remote=lambda kind: kind)  # fmt: skip

    monkeypatch.setattr(cluster_module, "optional_import", imported)
    monkeypatch.delitem(sys.modules, "ray", raising=False)
    for name in ("RAY_ADDRESS", "RAY_AUTH_MODE", "RAY_AUTH_TOKEN"):
        monkeypatch.setenv(name, "")  # so that it is put back
        monkeypatch.delenv(name)
    if mode is not None:
        monkeypatch.setenv("RAY_AUTH_MODE", mode)
    with opened(ClusterOptions(actors=50, cpus=2)):
        pass
    assert seen["ended"] and seen["num_cpus"] == 100 and not seen["include_dashboard"] and not seen["log_to_driver"]
    # before Ray is imported, since it looks no later
    assert seen["mode"] == (mode or "token")
    assert (seen["token"] is None) if mode else len(seen["token"]) == 64


def test_a_cluster_that_cannot_be_joined_is_told_of(monkeypatch: pytest.MonkeyPatch) -> None:
    def init(**settings: Any) -> None:
        raise ConnectionError("Could not find any running Ray instance.\nMore of it.")

    fake = SimpleNamespace(init=init, shutdown=lambda: None, is_initialized=lambda: False)
    monkeypatch.setitem(sys.modules, "ray", fake)
    words = r"at auto cannot be joined: Could not find any running Ray instance\. `ray status`"
    with pytest.raises(ConfigError, match=words), opened(ClusterOptions(address="auto")):
        pass


class RayError(Exception):
    """Stands for Ray's error of this name."""


class RayTaskError(RayError):
    """Likewise."""


class OutOfMemoryError(RayError):
    """Likewise."""


@pytest.mark.parametrize(
    ("error", "why"),
    [
        (RayError("The actor died unexpectedly. Its worker process has died. Node: 7"), "by a signal or for want of"),
        (RayError("The actor died because its node has died. Node Id: 7"), "its machine was lost"),
        (OutOfMemoryError("Task was killed due to the node running low on memory."), "it was ended for want of memory"),
        (
            RayError("failed to import\nModuleNotFoundError: No module named 'patch2tissue'\n"),
            "cannot load patch2tissue",
        ),
    ],
)
def test_why_a_worker_came_to_an_end(error: Exception, why: str) -> None:
    found = fake_cluster(error).answer("reference")
    assert isinstance(found, str) and why in found


def test_a_worker_that_cannot_run_our_code_ends_the_work() -> None:
    with pytest.raises(Patch2TissueError, match=r"cannot run patch2tissue: TypeError: x\. Install the same version"):
        fake_cluster(RayTaskError("Traceback ...\nTypeError: x")).answer("reference")


def test_an_actor_that_is_gone_can_be_ended_again() -> None:
    fake_cluster(RayError("The actor is dead.")).end("actor")


def fake_cluster(error: Exception) -> RayCluster:
    """A cluster on which everything goes wrong."""

    def fail(*arguments: Any, **options: Any) -> Any:
        raise error

    exceptions = SimpleNamespace(RayError=RayError, RayTaskError=RayTaskError)
    module: Any = SimpleNamespace(get=fail, kill=fail, remote=lambda kind: kind, exceptions=exceptions)
    return RayCluster(module)
