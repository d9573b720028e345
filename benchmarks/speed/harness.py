"""Timing side by side: warm-up, interleaved repeats, medians, ratios, and the floor that each figure stands on."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch


@dataclass(frozen=True)
class Line:
    """One figure of the table.

    Attributes:
        key: its name in `speed.json`, such as `dense_energy.share_of_step`.
        value: the figure; shares are fractions of 1.
        target: what it should be, in words, such as `under 10%`.
        reached: whether it is; None where there is no target.
        floor: what bounds it (arithmetic, bytes, …) and how far we are from that.
    """

    key: str
    value: float
    target: str
    reached: bool | None
    floor: str


@dataclass
class Section:
    """What one part of the benchmark found.

    Attributes:
        title: shown above its lines.
        lines: the figures that have keys.
        details: everything else worth keeping, plain values only; goes into `speed.json` under `details`.
    """

    title: str
    lines: list[Line] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)

    def add(self, key: str, value: float, target: str, reached: bool | None, floor: str) -> None:
        """Add a figure."""
        self.lines.append(Line(key, float(f"{value:.4g}"), target, reached, floor))


@dataclass(frozen=True)
class Options:
    """What every section is told.

    Attributes:
        device: where networks run.
        threads: CPU threads of torch.
        repeats: timed repeats of each thing, interleaved.
        quick: tiny sizes, to see that the benchmark itself works; its figures mean nothing.
    """

    device: torch.device
    threads: int
    repeats: int = 5
    quick: bool = False

    def prefix(self) -> str:
        """What stands before the keys of figures of this device: `gpu.` on an accelerator."""
        return "" if self.device.type == "cpu" else "gpu."


def synchronise(device: torch.device) -> None:
    """Wait until the device has done what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def interleaved(
    things: Mapping[str, Callable[[], object]], device: torch.device, *, repeats: int, warmup: int = 1
) -> dict[str, list[float]]:
    """Seconds of each thing, `repeats` times in turn, so that what slows the machine slows all of them.

    Args:
        things: what to time, by name.
        device: where they compute.
        repeats: timed calls of each.
        warmup: calls of each that are not timed.
    """
    for thing in things.values():
        for _ in range(warmup):
            thing()
    synchronise(device)
    seconds: dict[str, list[float]] = {name: [] for name in things}
    for _ in range(repeats):
        for name, thing in things.items():
            started = time.perf_counter()
            thing()
            synchronise(device)
            seconds[name].append(time.perf_counter() - started)
    return seconds


def ratio(seconds: Mapping[str, list[float]], one: str, other: str) -> float:
    """Median over the rounds of the time of `one` over that of `other` in the same round."""
    return statistics.median(a / b for a, b in zip(seconds[one], seconds[other], strict=True))


def median(seconds: Mapping[str, list[float]], name: str) -> float:
    """Median seconds of a thing."""
    return statistics.median(seconds[name])
