"""What the two public data sets cost on a graphics card: extrapolated from operations, measured where there is one."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.harness import Options, Section, synchronise
from patch2tissue.config import EncoderConfig, RunConfig, load_config
from patch2tissue.craanet.network import CRAANet
from patch2tissue.data.augment import SYMMETRIES
from patch2tissue.hardware import autocast_dtype
from patch2tissue.pfscnet.network import PFSCNet

RECIPES = Path(__file__).resolve().parents[2] / "configs"

SIDE = 224
"""Side of a patch of both data sets in pixels."""

PATCHES = {"luad-histoseg": (16_678, 307), "bcss-wsss": (23_422, 4_986)}
"""Patches in train and test, as the data sets are published."""

PEAK, UTILISATION = 312e12, 0.2
"""Operations per second of an NVIDIA A100 in dense bfloat16 by its data sheet, and the share of it that is assumed."""


def run(options: Options) -> Section:
    """Hours of each stage for both recipes."""
    measured = options.device.type == "cuda"
    section = Section(f"Public data sets on a GPU: {'measured steps' if measured else 'EXTRAPOLATED, not measured'}")
    rate = None if measured else cpu_rate(options)
    for name, (train, test) in PATCHES.items():
        config = load_config(RECIPES / f"{name}.yaml")
        per_patch = operations(config)
        often = {
            "craanet": train * config.craanet.epochs,
            "pseudo_labels": train,
            "pfscnet": train * config.pfscnet.epochs,
            "predict": test,
        }
        total = {stage: per_patch[stage] * often[stage] for stage in often}
        details: dict[str, Any] = {
            "patches": {"train": train, "test": test},
            "epochs": {"craanet": config.craanet.epochs, "pfscnet": config.pfscnet.epochs},
            "passes": often,
            "gflop_per_patch": {stage: round(value / 1e9, 2) for stage, value in per_patch.items()},
            "pflop": {stage: round(value / 1e15, 2) for stage, value in total.items()},
        }
        if measured:
            seconds = measured_seconds(config, options)
            hours = {stage: seconds[stage] * often[stage] / 3600 for stage in often}
            said = f"{torch.cuda.get_device_name()}: measured steps on random pictures, times their number"
        else:
            hours = {stage: value / (PEAK * UTILISATION) / 3600 for stage, value in total.items()}
            said = f"operations over {UTILISATION:.0%} of the {PEAK / 1e12:.0f} TFLOP/s of an A100; not measured"
        details["gpu_hours"] = {stage: float(f"{value:.3g}") for stage, value in hours.items()}
        if rate is not None:
            details["cpu_gflop_per_second"] = round(rate / 1e9, 1)
            details["cpu_days"] = round(sum(total.values()) / rate / 86400, 1)
        section.details[name] = details
        section.add(f"data_sets.{name}.gpu_hours", sum(hours.values()), "none", None, said)
    section.details["assumed"] = None if measured else {"peak_flop_per_second": PEAK, "utilisation": UTILISATION}
    return section


def networks_of(config: RunConfig) -> tuple[CRAANet, PFSCNet]:
    """Both networks of a recipe, without pretrained weights."""
    plain = {"pretrained": False, "weights": None}
    first = config.craanet.model_copy(update={"encoder": config.craanet.encoder.model_copy(update=plain)})
    second: EncoderConfig = config.stage2_encoder().model_copy(update=plain)
    config = config.model_copy(
        update={"craanet": first, "pfscnet": config.pfscnet.model_copy(update={"encoder": second})}
    )
    tissues = len(config.tissue_set())
    return CRAANet.from_config(first, tissues), PFSCNet.from_config(config, tissues)


def _training_step(network: nn.Module) -> Callable[[Tensor], None]:
    """One pass forward and backward; what losses cost beside the networks is measured elsewhere."""
    network.train()

    def step(images: Tensor) -> None:
        outputs = network(images)
        sum(output.float().mean() for output in outputs).backward()

    return step


def _sides(config: RunConfig) -> list[int]:
    """Sides of the views that pseudo labels are made from, and of the last epoch's map."""
    views = SYMMETRIES if config.pseudo_labels.symmetries else 1
    return [SIDE, *(round(SIDE * scale) for scale in config.pseudo_labels.scales for _ in range(views))]


def operations(config: RunConfig, side: int = SIDE) -> dict[str, float]:
    """Floating-point operations per patch of each stage, in one pass; a multiplication and an addition are two.

    Args:
        config: the recipe.
        side: side of a patch in pixels.
    """

    def count(step: Callable[[Tensor], object], sides: list[int], batch: int = 1) -> float:
        total = 0.0
        for size in sorted(set(sides)):
            with FlopCounterMode(display=False) as counter:
                step(torch.zeros(batch, 3, size, size))
            total += sides.count(size) * counter.get_total_flops() / batch
        return total

    with FakeTensorMode():  # counts, and computes nothing
        classifier, segmenter = networks_of(config)
        # two at once, since batch normalisation refuses to be trained on one value
        found = {
            "craanet": count(_training_step(classifier), [side], 2),
            "pfscnet": count(_training_step(segmenter), [side], 2),
        }
        classifier.eval(), segmenter.eval()
        with torch.no_grad():
            found["pseudo_labels"] = count(classifier, [round(one * side / SIDE) for one in _sides(config)])
            found["predict"] = count(segmenter.segment, [side])
    return found


def _seconds(step: Callable[[Tensor], object], images: Tensor, options: Options) -> float:
    """Median seconds of a step per picture, after two that are not timed."""
    dtype = autocast_dtype(options.device)
    seconds = []
    for _ in range(2 + options.repeats):
        synchronise(options.device)
        started = time.perf_counter()
        with torch.autocast(options.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            step(images)
        synchronise(options.device)
        seconds.append(time.perf_counter() - started)
    return statistics.median(seconds[2:]) / len(images)


def measured_seconds(config: RunConfig, options: Options) -> dict[str, float]:
    """Seconds per patch and pass of each stage on the device."""
    classifier, segmenter = (
        network.to(options.device, memory_format=torch.channels_last) for network in networks_of(config)
    )

    def images(batch: int, side: int = SIDE) -> Tensor:
        found = torch.rand(batch, 3, side, side, device=options.device)
        return found.contiguous(memory_format=torch.channels_last)

    found = {
        "craanet": _seconds(_training_step(classifier), images(config.craanet.batch_size), options),
        "pfscnet": _seconds(_training_step(segmenter), images(config.pfscnet.batch_size), options),
    }
    classifier.eval(), segmenter.eval()
    sides = _sides(config)
    with torch.no_grad():
        found["pseudo_labels"] = sum(
            sides.count(side) * _seconds(classifier, images(32, side), options) for side in set(sides)
        )
        found["predict"] = _seconds(segmenter.segment, images(config.inference.batch_size), options)
    return found


def cpu_rate(options: Options) -> float:
    """Operations per second of this machine's training step, with the recipes' first network."""
    config = load_config(RECIPES / "luad-histoseg.yaml")
    side = 64 if options.quick else SIDE
    counted = operations(config, side)["craanet"]
    network = networks_of(config)[0].to(memory_format=torch.channels_last)
    images = torch.rand(2, 3, side, side).contiguous(memory_format=torch.channels_last)
    few = Options(torch.device("cpu"), options.threads, 1 if options.quick else 3, options.quick)
    return counted / _seconds(_training_step(network), images, few)
