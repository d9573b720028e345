"""What the parts measure on: synthetic tissue, what a network may say of it, and networks in their default form."""

from __future__ import annotations

import tempfile
import time
from functools import cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.harness import synchronise
from patch2tissue.config import EncoderConfig
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.tissues import load_tissue_set

TISSUES = 4


@cache
def synthetic_patches(count: int, side: int) -> tuple[Tensor, Tensor]:
    """Hard synthetic patches: RGB in 0..1, [count, 3, side, side], and their masks, uint8 [count, side, side]."""
    tissues = load_tissue_set("bcss-wsss")
    with tempfile.TemporaryDirectory() as folder:
        make_synthetic(Path(folder) / "data", train=count, test=0, size=side, difficulty="hard", seed=3)
        files = sorted((Path(folder) / "data" / "train").glob("*.png"))
        images = np.stack([read_image(file) for file in files])
        masks = np.stack([read_mask(file.parent / "mask" / file.name, tissues) for file in files])
    return torch.from_numpy(images).permute(0, 3, 1, 2).float() / 255.0, torch.from_numpy(masks)


def likely_logits(masks: Tensor, seed: int = 0) -> Tensor:
    """Logits as a network in the middle of training gives: soft at edges, right for the most part, in places not."""
    generator = torch.Generator().manual_seed(seed)
    side = masks.shape[-1]
    known = torch.where(masks >= TISSUES, 0, masks.long())
    truth = F.one_hot(known, TISSUES).movedim(-1, 1).float()
    soft = F.interpolate(F.avg_pool2d(truth, 8), size=(side, side), mode="bilinear")
    doubt = F.interpolate(
        torch.randn(len(masks), TISSUES, 7, 7, generator=generator), size=(side, side), mode="bicubic"
    )
    return 4.0 * soft + 1.5 * doubt


def segmentation_network(encoder: str = "resnet18", tissues: int = TISSUES) -> PFSCNet:
    """PFSCNet in its default form over a random encoder, in training mode and channels last."""
    torch.manual_seed(0)
    network = PFSCNet(EncoderConfig(name=encoder, output_stride=16), tissues)
    return network.to(memory_format=torch.channels_last).train()  # type: ignore[call-overload,no-any-return]


def peak_operations(device: torch.device, dtype: torch.dtype = torch.float32) -> float:
    """Operations per second of a large matrix product on a device, the best of four."""
    side = 2048 if device.type == "cpu" else 8192
    one = torch.randn(side, side, device=device, dtype=dtype)
    best = 0.0
    for _ in range(4):
        synchronise(device)
        started = time.perf_counter()
        one @ one
        synchronise(device)
        best = max(best, 2 * side**3 / (time.perf_counter() - started))
    return best
