"""Dense energy loss: its share of a training step, its gradient's error and bias, its memory, and a lattice beside it.

Errors are `‖g − exact‖ / ‖exact‖` of the gradient by the logits, with the soft filter as in training; *exact* is the
whole 56 × 56 kernel. The bias is that of the mean gradient over many draws. The lattice is a permutohedral one in C++
(`lattice.cpp`); it counts the pair of a pixel with itself, so its reference does, too, and a wrong scale does not count
against it, since the loss is normalised by the same lattice.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.children import memory_fields
from benchmarks.speed.example import likely_logits, peak_operations, segmentation_network, synthetic_patches
from benchmarks.speed.harness import Options, Section, interleaved, median, ratio
from benchmarks.speed.lattice import compiler, lattice_filter
from patch2tissue.cores import release_memory
from patch2tissue.gaussian_kernel import PixelFeatures, filter_all
from patch2tissue.hardware import autocast_dtype
from patch2tissue.pfscnet.dense_energy import DISPLACEMENTS_ON_CPU, dense_energy, soft_filter

GRID = 56
CURVE: list[dict[str, int]] = [
    *({"displacements": count} for count in (16, 32, 64, 96, 128, 256)),
    *({"rows": count} for count in (64, 256, 784)),
    *({"displacements": 64, "grid": grid} for grid in (28, 40)),
    {"grid": 28},
    {"grid": 40},
]
"""Forms of the loss on the curve of time and error; the last two are exact on a coarser grid."""


class _Batch:
    """Images, and what a network says of them."""

    def __init__(self, count: int, side: int, device: torch.device, *, rough: bool = False) -> None:
        images, masks = synthetic_patches(count, side)
        self.images = images.to(device)
        self.labels = masks.long().to(device)
        logits = likely_logits(masks)
        if rough:  # nothing to do with the image: as hard as it gets
            noise = 2.0 * torch.randn(count, logits.shape[1], 7, 7, generator=torch.Generator().manual_seed(1))
            logits = F.interpolate(noise, size=(side, side), mode="bicubic")
        self.logits = logits.to(device).requires_grad_()
        self.inside = torch.ones_like(self.labels, dtype=torch.bool)

    def gradient(self, **form: Any) -> Tensor:
        """Gradient of the loss by the logits, softmax and soft filter included."""
        self.logits.grad = None
        probabilities = self.logits.softmax(1)
        weights = soft_filter(probabilities, self.labels)
        dense_energy(self.images, probabilities, self.inside, weights=weights, **{"grid": GRID, **form}).backward()
        assert self.logits.grad is not None
        return self.logits.grad


def _error(one: Tensor, reference: Tensor) -> float:
    return float((one - reference).norm() / reference.norm())


def _with_itself(features: PixelFeatures, values: Tensor, block: int | None = None) -> Tensor:
    """The exact sums with the pair of a pixel with itself."""
    return filter_all(features, values, block) + values


@contextmanager
def _kernel(function: Callable[..., Tensor]) -> Iterator[None]:
    """Let the exact form compute its sums by another function."""
    with patch("patch2tissue.pfscnet.dense_energy.filter_all", function):
        yield


def _lattice_gradient(batch: _Batch) -> Tensor:
    with _kernel(lattice_filter):
        return batch.gradient()


def _train_step(batch: _Batch, device: torch.device) -> Callable[[], None]:
    """A step of PFSCNet with cross-entropy and the dense energy in its default form."""
    network = segmentation_network().to(device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    dtype = autocast_dtype(device)
    images = batch.images.contiguous(memory_format=torch.channels_last)

    def step() -> None:
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            logits = network(images).logits.float()
        probabilities = logits.softmax(1)
        weights = soft_filter(probabilities, batch.labels)
        energy = dense_energy(images, probabilities, batch.inside, weights=weights, rows="auto")
        optimiser.zero_grad()
        (F.cross_entropy(logits, batch.labels, ignore_index=255) + energy).backward()
        optimiser.step()

    return step


def _memory_mb(action: Callable[[], object], device: torch.device) -> float | None:
    """Most memory that an action takes beside what was there, in MB; None where the system does not tell."""
    action()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        action()
        return (torch.cuda.max_memory_allocated(device) - before) / 1e6
    release_memory()
    status = Path("/proc/self/status")
    try:
        before = memory_fields(status)["VmRSS"]
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")  # peak := now
        action()
        return max(0, memory_fields(status)["VmHWM"] - before) / 1e6
    except (OSError, KeyError):
        return None


def _curve(batch: _Batch, exact: Tensor, options: Options) -> list[dict[str, Any]]:
    """Time and error of each form, and of the lattice."""
    draws = 2 if options.quick else 5
    forms = CURVE[:2] if options.quick else CURVE
    things: dict[str, Callable[[], Tensor]] = {"exact": batch.gradient}
    for form in forms:
        things[" ".join(f"{key} {value}" for key, value in form.items())] = partial(batch.gradient, **form)
    if compiler() is not None:
        things["lattice"] = partial(_lattice_gradient, batch)
    seconds = interleaved(things, batch.images.device, repeats=max(2, options.repeats // 2))
    with _kernel(_with_itself):
        with_itself = batch.gradient().clone()
    rows = []
    for name, thing in things.items():
        reference = with_itself if name == "lattice" else exact
        errors = [0.0 if name == "exact" else _error(thing(), reference) for _ in range(draws)]
        rows.append(
            {
                "form": name,
                "ms_per_image": round(1e3 * median(seconds, name) / len(batch.images), 3),
                "time_to_exact": round(ratio(seconds, name, "exact"), 4),
                "gradient_error": round(sum(errors) / draws, 4),
            }
        )
    return rows


def _time_at(error: float, curve: list[dict[str, Any]]) -> float | None:
    """Milliseconds per image at which displacements reach an error, between two points of the curve; None beyond it."""
    rows = [row for row in curve if row["form"].startswith("displacements") and "grid" not in row["form"]]
    points = sorted((row["gradient_error"], row["ms_per_image"]) for row in rows)
    for (low, slow), (high, fast) in itertools.pairwise(points):
        if low <= error <= high:
            place = (math.log(error) - math.log(low)) / (math.log(high) - math.log(low))
            return math.exp(math.log(slow) + place * (math.log(fast) - math.log(slow)))
    return None


def run(options: Options) -> Section:
    """Measure; 16 images of 224 pixels, 4 tissues, PFSCNet with ResNet-18."""
    count, side = (2, 64) if options.quick else (16, 224)
    device, prefix = options.device, options.prefix()
    batch = _Batch(count, side, device)
    section = Section(f"Dense energy loss: {count} images of {side} px, {device.type}")
    torch.manual_seed(0)
    form: dict[str, Any] = {"rows": "auto"}
    step = _train_step(batch, device)
    seconds = interleaved({"step": step, "energy": partial(batch.gradient, **form)}, device, repeats=options.repeats)
    share = ratio(seconds, "energy", "step")
    exact = batch.gradient().clone()
    draws = [batch.gradient(**form).clone() for _ in range(4 if options.quick else 100)]
    mean_error = sum(_error(draw, exact) for draw in draws) / len(draws)
    bias = _error(torch.stack(draws).mean(0), exact)
    rough = _Batch(count, side, device, rough=True)
    rough_exact = rough.gradient().clone()
    rough_error = sum(_error(rough.gradient(**form), rough_exact) for _ in range(5)) / 5
    extra = _memory_mb(partial(batch.gradient, **form), device)
    curve = _curve(batch, exact, options)
    default = f"displacements {DISPLACEMENTS_ON_CPU}" if device.type == "cpu" else "exact"
    ours = next((row for row in curve if row["form"] == default), curve[0])
    # three differences and squares, an exponential and two products for each tissue and the two masses, per pair
    pairs = count * min(GRID, side) ** 2 * DISPLACEMENTS_ON_CPU
    operations = pairs * (6 + 12 + 4 * (batch.logits.shape[1] + 2))
    ideal = operations / peak_operations(device)
    on_cpu = device.type == "cpu"
    section.add(
        f"{prefix}dense_energy.share_of_step",
        share,
        "under 10%" if on_cpu else "under 2%",
        share < (0.10 if on_cpu else 0.02),
        f"arithmetic: {operations / 1e9:.2f} Gflop would take {1e3 * ideal:.0f} ms, it takes "
        f"{1e3 * median(seconds, 'energy'):.0f} ms (passes through the cache bound it)",
    )
    section.add(f"{prefix}dense_energy.gradient_error", mean_error, "under 15%", mean_error < 0.15, "0: exact kernel")
    section.add(
        f"{prefix}dense_energy.gradient_bias",
        bias,
        "under 1%",
        bias < 0.01,
        f"0: unbiased; noise left after {len(draws)} draws is {mean_error / len(draws) ** 0.5:.2%}",
    )
    if extra is not None:
        inputs = 4 * batch.images.numel() + 12 * batch.logits.numel()
        floor = f"{inputs / 1e6:.0f} MB are the images and probabilities themselves"
        section.add(f"{prefix}dense_energy.extra_mb", extra, "under 300 MB", extra < 300, floor)
    lattice = next((row for row in curve if row["form"] == "lattice"), None)
    if lattice is not None:
        equal = _time_at(lattice["gradient_error"], curve)
        section.add(
            f"{prefix}dense_energy.time_vs_lattice",
            ours["ms_per_image"] / lattice["ms_per_image"],
            "ahead somewhere" if on_cpu else "at most 0.1",
            None if on_cpu else ours["ms_per_image"] <= 0.1 * lattice["ms_per_image"],
            "at the lattice's error, " + (f"{equal / lattice['ms_per_image']:.2f}" if equal else "off the curve"),
        )
        section.add(
            f"{prefix}dense_energy.lattice_gradient_error", lattice["gradient_error"], "", None, "cannot be chosen"
        )
    section.details = {"curve": curve, "step_seconds": median(seconds, "step"), "gradient_error_of_noise": rough_error}
    return section
