"""Training throughput of both stages, data on disk: against a plain float32 loop of the same network.

Ours is the whole of an epoch: reading, symmetries and stain shifts, every loss, accumulation, averaged weights. What
comes once per epoch or training, checkpoint and curves, is in `whole_calls` of the details: beside the few steps of an
epoch here it would count for far more than beside the hundreds of a real one. The plain loop reads with Pillow, flips,
and takes steps with binary or plain cross-entropy and AdamW. On an accelerator the reference is the bare network on
random tensors that are there already, in the same precision.
"""

from __future__ import annotations

import csv
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset

from benchmarks.speed.harness import Options, Section, interleaved, median, ratio, synchronise
from patch2tissue.config import RunConfig, config_from_dict
from patch2tissue.craanet.network import CRAANet
from patch2tissue.craanet.training import train_craanet
from patch2tissue.data.patches import Patch
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.hardware import autocast_dtype
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.progress import console
from patch2tissue.training import CURVES_OF_TIME
from patch2tissue.training_data import training_patches

BATCH = 16
STAGES = ("craanet", "pfscnet")


class _PlainPatches(Dataset[tuple[Tensor, Tensor]]):
    """What anyone would write: open, convert, flip, to float."""

    def __init__(self, patches: Sequence[Patch], *, masks: bool) -> None:
        self.patches, self.masks = patches, masks

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        patch = self.patches[index]
        image = torch.from_numpy(np.array(Image.open(patch.path).convert("RGB"))).permute(2, 0, 1).float() / 255.0
        target = torch.tensor(patch.labels, dtype=torch.float32)
        if self.masks:
            assert patch.mask is not None
            target = torch.from_numpy(np.array(Image.open(patch.mask))).long()
        if torch.rand(()) < 0.5:
            image, target = image.flip(-1), target.flip(-1) if self.masks else target
        return image, target


def _loss(stage: str, output: Any, target: Tensor) -> Tensor:
    if stage == "craanet":
        return F.binary_cross_entropy_with_logits(output.logits, target)
    return F.cross_entropy(output.logits, target, ignore_index=255)


def _network(config: RunConfig, stage: str) -> nn.Module:
    torch.manual_seed(0)
    tissues = len(config.tissue_set())
    return CRAANet.from_config(config.craanet, tissues) if stage == "craanet" else PFSCNet.from_config(config, tissues)


def _plain(config: RunConfig, stage: str, patches: Sequence[Patch], epochs: int) -> None:
    """A float32 loop as in any tutorial."""
    network = _network(config, stage)
    loader = DataLoader(_PlainPatches(patches, masks=stage == "pfscnet"), BATCH, shuffle=True)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    for _ in range(epochs):
        for images, target in loader:
            loss = _loss(stage, network(images), target)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()


def _bare(config: RunConfig, stage: str, patches: Sequence[Patch], epochs: int, device: torch.device) -> None:
    """Steps of the bare network on random tensors that lie on the device."""
    network = _network(config, stage).to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    side = Image.open(patches[0].path).width
    images = torch.rand(BATCH, 3, side, side, device=device).contiguous(memory_format=torch.channels_last)
    target = torch.randint(0, 2, (BATCH, len(config.tissue_set())), device=device).float()
    if stage == "pfscnet":
        target = torch.randint(0, len(config.tissue_set()), (BATCH, side, side), device=device)
    dtype = autocast_dtype(device)
    for _ in range(epochs * -(-len(patches) // BATCH)):
        with torch.autocast(device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            loss = _loss(stage, network(images), target)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    synchronise(device)


class _Ours:
    """Trains a stage into a fresh folder at each call, and remembers how long it waited for patches."""

    def __init__(self, config: RunConfig, stage: str, patches: Sequence[Patch], folder: Path, side: int) -> None:
        self.config, self.stage, self.patches, self.folder, self.side = config, stage, patches, folder, side
        self.calls = 0
        self.wait_shares: list[float] = []
        self.epoch_seconds: list[float] = []

    def __call__(self) -> None:
        self.calls += 1
        folder = self.folder / f"{self.stage}-{self.calls}"
        if self.stage == "craanet":
            train_craanet(self.config, self.patches, folder, side=self.side)
        else:
            # any labels will do for time; these are of the right shape and compress as tissue does
            targets = [patch.mask for patch in self.patches if patch.mask is not None]
            train_pfscnet(self.config, self.patches, targets, folder, side=self.side)
        with (folder / "metrics.csv").open(encoding="utf-8", newline="") as stream:
            rows = list(csv.DictReader(stream))
        curves = {name: [float(row["value"]) for row in rows if row["name"] == name] for name in CURVES_OF_TIME}
        self.wait_shares.append(curves["loader_wait_share"][0])  # of the first epoch, which reads every file
        self.epoch_seconds.append(sum(len(self.patches) / speed for speed in curves["patches_per_second"]))


def run_config(folder: Path, options: Options, epochs: int) -> RunConfig:
    """Both stages on the patches in `folder/data`, with all losses from the first epoch on."""
    encoder = {"name": "resnet10t" if options.quick else "resnet18"}
    stage = {"epochs": epochs, "batch_size": BATCH}
    return config_from_dict(
        {
            "output": str(folder / "run"),
            "tissues": "bcss-wsss",
            "data": {"path": str(folder / "data")},
            "craanet": {**stage, "encoder": encoder},
            "pfscnet": {**stage, "encoder": {**encoder, "output_stride": 16}, "init": "encoder", "losses_start": 0.0},
            "hardware": {
                "device": options.device.type,
                "threads": options.threads,
                "workers": 0 if options.device.type == "cpu" else 8,
            },
        }
    )


def run(options: Options) -> Section:
    """Measure both stages: ResNet-18, batches of 16 patches of 224 pixels, all losses from the first epoch on."""
    on_cpu = options.device.type == "cpu"
    count, side, epochs = (16, 64, 1) if options.quick else (128 if on_cpu else 1024, 224, 1)
    section = Section(f"Training: {count} patches of {side} px, {epochs} epoch, ResNet-18, {options.device.type}")
    waits = []
    quiet, console.quiet = console.quiet, True
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_synthetic(folder / "data", train=count, test=0, size=side, difficulty="hard", seed=3)
        config = run_config(folder, options, epochs)
        patches = training_patches(config)
        for stage in STAGES:
            ours = _Ours(config, stage, patches, folder, side)
            things: dict[str, Callable[[], None]] = {"ours": ours}
            things["bare"] = partial(_bare, config, stage, patches, epochs, options.device)
            if on_cpu:
                things["plain"] = partial(_plain, config, stage, patches, epochs)
            # a training is many steps: the first of each is its own warm-up
            repeats = max(1, options.repeats // 2)
            seconds = interleaved(things, options.device, repeats=repeats, warmup=0 if on_cpu else 1)
            whole, seconds["ours"] = seconds["ours"], ours.epoch_seconds[-repeats:]
            waits.extend(ours.wait_shares)
            _add(section, stage, seconds, options)
            per_patch = {thing: median(seconds, thing) / (epochs * count) for thing in things}
            section.details[stage] = {"seconds_per_patch": per_patch, "seconds": seconds, "whole_calls": whole}
    console.quiet = quiet
    wait = max(waits)
    section.add(
        f"{options.prefix()}training.loader_wait_share", wait, "under 5%", wait < 0.05, "0: all reading is hidden"
    )
    return section


def _add(section: Section, stage: str, seconds: dict[str, list[float]], options: Options) -> None:
    of_bare = ratio(seconds, "bare", "ours")
    if options.device.type != "cpu":
        key = f"{options.prefix()}training.{stage}.share_of_bare_network"
        section.add(key, of_bare, "at least 90%", of_bare >= 0.9, "1: nothing but the network's own steps")
        return
    times = ratio(seconds, "plain", "ours")
    section.add(
        f"{options.prefix()}training.{stage}.speedup_vs_fp32_loop",
        times,
        "at least 2",
        times >= 2.0,
        f"arithmetic: {of_bare:.0%} of the bare network's steps in the same precision",
    )
