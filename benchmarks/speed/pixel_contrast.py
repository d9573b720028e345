"""Pixel clustering by contrast: its share of a training step with 2,048 anchors, the feeding of its state included."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from benchmarks.speed.example import TISSUES, likely_logits, peak_operations, segmentation_network, synthetic_patches
from benchmarks.speed.harness import Options, Section, interleaved, median, ratio
from patch2tissue.hardware import autocast_dtype
from patch2tissue.pfscnet.pixel_contrast import PixelContrastLoss, labels_on_grid

ANCHORS = 2048
DIMENSIONS = 128


def _contrast(anchors: int, images: Tensor, labels: Tensor, probabilities: Tensor) -> Callable[[], None]:
    """One loss, its gradient, and the update, on an embedding as the network gives it (channels last)."""
    loss = PixelContrastLoss(TISSUES, DIMENSIONS, anchors=anchors).to(images.device)
    size = (images.shape[-2] // 4, images.shape[-1] // 4)
    generator = torch.Generator().manual_seed(0)
    raw = torch.randn(len(images), DIMENSIONS, *size, generator=generator).to(images.device)
    embedding = F.normalize(raw.contiguous(memory_format=torch.channels_last), dim=1).requires_grad_()
    numbers = torch.arange(len(images), device=images.device)

    def step() -> None:
        embedding.grad = None
        small = labels_on_grid(labels, size, TISSUES)
        likely = F.interpolate(probabilities, size=size, mode="area")
        loss(embedding, small, likely, numbers).backward()
        loss.update(embedding, small, likely, numbers)

    return step


def _train_step(images: Tensor, labels: Tensor) -> Callable[[], None]:
    """A step of PFSCNet with cross-entropy; embedding included."""
    network = segmentation_network().to(images.device)
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-4)
    dtype = autocast_dtype(images.device)

    def step() -> None:
        with torch.autocast(images.device.type, dtype or torch.bfloat16, enabled=dtype is not None):
            output = network(images)
        # the embedding's own layers belong to the network, so they are passed backwards as well
        loss = F.cross_entropy(output.logits.float(), labels, ignore_index=255) + output.embedding.mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()

    return step


def run(options: Options) -> Section:
    """Measure; 16 images of 224 pixels, 4 tissues, PFSCNet with ResNet-18, a full memory bank."""
    count, side = (2, 64) if options.quick else (16, 224)
    section = Section(f"Pixel contrast: {count} images of {side} px, {ANCHORS} anchors, {options.device.type}")
    images, masks = synthetic_patches(count, side)
    images = images.to(options.device).contiguous(memory_format=torch.channels_last)
    labels = masks.long().to(options.device)
    likely = (3 * likely_logits(masks)).softmax(1).to(options.device)
    things = {
        "step": _train_step(images, labels),
        "contrast": _contrast(ANCHORS, images, labels, likely),
        "default": _contrast(512, images, labels, likely),
    }
    for _ in range(0 if options.quick else 20):  # until the bank is full
        things["contrast"]()
    seconds = interleaved(things, options.device, repeats=options.repeats)
    # the share of a step that has the loss, not of one without it
    share = 1.0 / (1.0 + ratio(seconds, "step", "contrast"))
    keys = ANCHORS + TISSUES * 512
    operations = 3 * 2 * ANCHORS * keys * DIMENSIONS
    ideal = operations / peak_operations(options.device)
    section.add(
        f"{options.prefix()}pixel_contrast.share_of_step",
        share,
        "under 8%",
        share < 0.08,
        f"arithmetic: three products of {operations / 1e9:.1f} Gflop take {1e3 * ideal:.0f} of its "
        f"{1e3 * median(seconds, 'contrast'):.0f} ms",
    )
    section.details = {"share_with_512_anchors": 1.0 / (1.0 + ratio(seconds, "step", "default"))}
    return section
