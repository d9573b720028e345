"""Attention accumulation: its share of a CRAANet epoch, and its bytes on disk per map cell.

Timed inside the training itself: the maps of each batch, undoing their symmetries, the memory, the maps of every epoch,
and the snapshot that each checkpoint holds. The epochs of the same training without it are timed in turn with it.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.speed.harness import Options, Section, interleaved, ratio, synchronise
from benchmarks.speed.training import run_config
from patch2tissue.config import AccumulationConfig, RunConfig
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.network import CRAANet
from patch2tissue.craanet.training import CRAANetStage, patch_label_loader
from patch2tissue.data.patches import Patch
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.progress import console
from patch2tissue.training import Batch, fit
from patch2tissue.training_data import training_patches


class _Timed(CRAANetStage):
    """Counts the seconds that accumulation takes."""

    seconds = 0.0

    def _overlay(self, attention: Tensor, batch: Batch, epoch: int) -> None:
        synchronise(attention.device)
        started = time.perf_counter()
        super()._overlay(attention, batch, epoch)
        self.seconds += time.perf_counter() - started

    def save_files(self, checkpoint_folder: Path) -> None:
        started = time.perf_counter()
        super().save_files(checkpoint_folder)
        self.seconds += time.perf_counter() - started


class _Training:
    """Trains CRAANet into a fresh folder at each call, with or without accumulation."""

    def __init__(self, config: RunConfig, patches: list[Patch], folder: Path, side: int, *, accumulates: bool) -> None:
        self.config, self.patches, self.folder, self.side = config, patches, folder, side
        self.accumulates = accumulates
        self.calls = 0
        self.shares: list[float] = []

    def __call__(self) -> None:
        self.calls += 1
        folder = self.folder / f"{self.accumulates}-{self.calls}"
        torch.manual_seed(0)
        network = CRAANet.from_config(self.config.craanet, len(self.config.tissue_set()))
        memory = folder / "attention_memory" if self.accumulates else None
        beside = {"float16": AccumulationConfig(dtype="float16")} if self.accumulates and self.calls == 1 else None
        stage = _Timed(network, self.config.craanet, self.patches, self.side, memory, beside)
        loader = patch_label_loader(self.config, self.patches, self.side)
        started = time.perf_counter()
        fit(stage, loader, self.config.craanet, folder, seed=0, hardware=self.config.hardware)
        self.shares.append(stage.seconds / (time.perf_counter() - started))
        self.last = folder


def _agreement(folder: Path) -> float:
    """Share of map positions whose likeliest tissue is the same in a memory of bytes and one of 16-bit floats."""
    bytes_, floats = (AttentionMemory(folder / name).read().argmax(dim=1) for name in ("attention_memory", "float16"))
    return float((bytes_ == floats).float().mean())


def run(options: Options) -> Section:
    """Measure: ResNet-18, batches of 16 patches of 224 pixels, accumulating from the first epoch on."""
    count, side, epochs = (16, 64, 2) if options.quick else (48 if options.device.type == "cpu" else 1024, 224, 2)
    section = Section(f"Attention accumulation: {count} patches of {side} px, {epochs} epochs, {options.device.type}")
    quiet, console.quiet = console.quiet, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synthetic(folder / "data", train=count, test=0, size=side, difficulty="hard", seed=3)
        config = run_config(folder, options, epochs)
        config.craanet.accumulation.start = 0.0
        patches = training_patches(config)
        ours, without = (
            _Training(config, patches, folder, side, accumulates=accumulates) for accumulates in (True, False)
        )
        things: dict[str, Any] = {"with": ours, "without": without}
        seconds = interleaved(things, options.device, repeats=max(1, options.repeats // 2))
        maps = AttentionMemory(ours.last / "attention_memory").maps
        per_cell = (ours.last / "attention_memory" / "maps.npy").stat().st_size / maps.size
        section.details = {
            "epoch_with_over_without": ratio(seconds, "with", "without"),
            "likeliest_tissue_as_with_float16": _agreement(folder / "True-1"),
            "bytes_per_cell": round(per_cell, 3),
        }
    console.quiet = quiet
    share = sorted(ours.shares[1:])[len(ours.shares[1:]) // 2]  # the first fills two memories
    section.add(
        f"{options.prefix()}accumulation.overhead_share",
        share,
        "under 2%",
        share < 0.02,
        f"bytes: {maps.nbytes / len(maps):.0f} per patch and epoch are read and written, twice with the maps by epoch",
    )
    section.add(
        f"{options.prefix()}accumulation.bytes_per_cell", round(per_cell, 2), "at most 1", round(per_cell, 2) <= 1, "1"
    )
    return section
