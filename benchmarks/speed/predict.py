"""Prediction of 1,000 patches of 224 px, files read and written, beside the bare network and each engine.

The reference of every ratio is the network as it was trained, in bfloat16 (float32 where the device is slow at that)
and channels_last, in a batch loop over images that are in memory already. `predict` does all that its defaults do, and
each of its calls, with its start, is counted whole: mask, confidence, overlay, areas.csv and images.csv of all patches.
"""

from __future__ import annotations

import importlib.util
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import count
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from benchmarks.speed.example import peak_operations
from benchmarks.speed.harness import Options, Section, interleaved, median, ratio
from benchmarks.speed.predict_material import make_patches, make_run
from patch2tissue.data.images import read_image
from patch2tissue.errors import ConfigError
from patch2tissue.hardware import autocast_dtype
from patch2tissue.inference.engines import Engine, make_engine
from patch2tissue.inference.predict import predict_images
from patch2tissue.inference.tiling import to_input
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet

PACKAGES = {"onnxruntime": ("onnxruntime", "onnx", "onnxscript"), "openvino": ("openvino", "onnx", "onnxscript")}
BATCH = 8
TARGET = 0.85


def run(options: Options) -> Section:
    quick = options.quick
    patches, size, encoder, channels = (32, 64, "resnet10t", 16) if quick else (1000, 224, "resnet18", 256)
    if options.device.type != "cpu" and not quick:
        patches *= 4  # a part of them would be done in no time
    section = Section(f"Prediction: {patches:,} patches of {size} px, {encoder}, on {options.device.type}")
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        files = make_patches(folder, patches, size)
        made = make_run(
            folder / "run",
            folder,
            encoder=encoder,
            channels=channels,
            steps=2 if quick else 60,
            side=32 if quick else 64,
            threads=options.threads,
            device=options.device.type,
        )
        _measure(section, options, files, made)
    return section


def _measure(section: Section, options: Options, files: list[Path], made: Path) -> None:
    device, dtype, prefix = options.device, autocast_dtype(options.device), options.prefix()
    network = load_pfscnet(made / "pfscnet", device).to(memory_format=torch.channels_last).eval()
    looked = files[: 16 if options.quick else 64]
    images = to_input(np.stack([read_image(file) for file in looked]), device)
    exact = _masks(network, images, None)
    engines, seconds_to_start = _engines(network, images, device, dtype)
    agreement = {name: _agreement(_masks(engine, images, dtype), exact) for name, engine in engines.items()}
    agreement["bare"] = _agreement(_masks(network, images, dtype), exact)

    numbers = count()

    def predict(images: list[Path] = files) -> None:
        predict_images(made, images, made.parent / f"maps-{next(numbers)}", progress=False)

    things: dict[str, Callable[[], object]] = {"bare": lambda: _pass(network, images, dtype), "predict": predict}
    things |= {name: lambda engine=engine: _pass(engine, images, dtype) for name, engine in engines.items()}
    # a call of `predict` takes a minute on two cores, so that three rounds must do
    rounds = min(options.repeats, 3)
    predict(files[: 2 * BATCH])  # what is loaded by the first call only
    seconds = interleaved(things, device, repeats=rounds, warmup=0)
    seconds = _per_image(seconds, len(looked), len(files))

    share = ratio(seconds, "bare", "predict")
    flops, peak = _flops(network, images[:1]), peak_operations(device, dtype or torch.float32)
    arithmetic = flops / median(seconds, "bare") / peak
    engine = ratio(seconds, "bare", "torch")
    section.add(
        f"{prefix}predict.share_of_bare_network",
        share,
        f"at least {TARGET:.0%}",
        share >= TARGET,
        f"the network's arithmetic: {flops / 1e9:.1f} GFLOP an image, which the bare network does at {arithmetic:.0%} "
        f"of the rate of a large matrix product; without files the folded network would reach {engine:.2f}",
    )
    half = str(dtype or torch.float32).removeprefix("torch.")
    section.details |= {
        "engines": [
            {
                "engine": name,
                "precision": "float32" if name == "onnxruntime" else half,
                "throughput": round(ratio(seconds, "bare", name), 3),
                "agreement": round(agreement[name], 5),
                "seconds_to_start": seconds_to_start.get(name, 0.0),
            }
            for name in ("bare", *engines)
        ],
        "images_per_second": {name: round(1 / median(seconds, name), 2) for name in things},
        "gigaflop_per_image": round(flops / 1e9, 2),
        "peak_gigaflops_of_a_matrix_product": round(peak / 1e9, 1),
        "batch": BATCH,
    }


def _engines(
    network: PFSCNet, images: Tensor, device: torch.device, dtype: torch.dtype | None
) -> tuple[dict[str, Engine], dict[str, float]]:
    """The engines that this machine has, after one batch each, and the seconds that this took."""
    found: dict[str, Engine] = {}
    seconds: dict[str, float] = {}
    for name in ("torch", "compile", "onnxruntime", "openvino"):
        if any(importlib.util.find_spec(package) is None for package in PACKAGES.get(name, ())):
            print(f"{name}: not installed, so not measured")
            continue
        started = time.perf_counter()
        try:
            engine = make_engine(name, network, device=device, dtype=dtype, features=False)
            _pass(engine, images[:BATCH], dtype)
        except ConfigError as error:
            print(f"{name}: not measured: {error}")
            continue
        found[name], seconds[name] = engine, round(time.perf_counter() - started, 2)
    return found, seconds


def _batches(engine: Engine, images: Tensor, dtype: torch.dtype | None) -> Iterator[Tensor]:
    """Logits, batch by batch."""
    for start in range(0, len(images), BATCH):
        with torch.inference_mode(), torch.autocast(images.device.type, dtype) if dtype else nullcontext():
            yield engine.segment(images[start : start + BATCH])


def _pass(engine: Engine, images: Tensor, dtype: torch.dtype | None) -> None:
    for _ in _batches(engine, images, dtype):
        pass


def _masks(engine: Engine, images: Tensor, dtype: torch.dtype | None) -> Tensor:
    return torch.cat([logits.argmax(dim=1) for logits in _batches(engine, images, dtype)])


def _agreement(masks: Tensor, exact: Tensor) -> float:
    return (masks == exact).double().mean().item()


def _per_image(seconds: dict[str, list[float]], passed: int, predicted: int) -> dict[str, list[float]]:
    counts = {"predict": predicted}
    return {name: [each / counts.get(name, passed) for each in times] for name, times in seconds.items()}


def _flops(network: PFSCNet, image: Tensor) -> float:
    """Floating-point operations for one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.segment(image)
    return float(counter.get_total_flops())
