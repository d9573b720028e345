"""From accumulated attention to pseudo labels: palette PNGs, confidence PNGs and a manifest."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from patch2tissue.config import HardwareConfig, PseudoLabelConfig
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.attention_maps import MapForm, attention_maps, enlarge
from patch2tissue.craanet.network import CRAANet
from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, invert_symmetry
from patch2tissue.data.datasets import PlainPatches
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.progress import track
from patch2tissue.pseudo_labels.files import BATCH, rows_to_do, write_manifest, write_patch
from patch2tissue.pseudo_labels.mean_field import refine
from patch2tissue.tissues import TissueSet


@dataclass(frozen=True)
class PseudoLabels:
    """Pseudo labels of a batch.

    Attributes:
        labels: most likely present tissue of every pixel, uint8 [B, S, S], no pixel left out.
        confidence: lead of the best over the second tissue, float32 [B, S, S] in 0..1; 1 where one tissue is present.
    """

    labels: Tensor
    confidence: Tensor


def label_from_scores(scores: Tensor, present: Tensor) -> PseudoLabels:
    """Take the best of the tissues that are present.

    Args:
        scores: non-negative scores [B, K, H, W].
        present: 1 for each tissue in the patch's label, [B, K].
    """
    allowed = (present > 0.5)[:, :, None, None]
    scores = scores.clamp(min=0) * allowed + 1e-6 * allowed
    shares = scores / scores.sum(dim=1, keepdim=True).clamp(min=1e-12)
    # an absent tissue must lose even against a present one with no score
    ranked = shares.masked_fill(~allowed, -1.0)
    best, labels = ranked.max(dim=1)
    if scores.shape[1] == 1:
        return PseudoLabels(labels.to(torch.uint8), torch.ones_like(best))
    second = ranked.topk(2, dim=1).values[:, 1].clamp(min=0.0)
    return PseudoLabels(labels.to(torch.uint8), (best - second).clamp(0.0, 1.0))


@torch.no_grad()
def predicted_maps(
    network: CRAANet,
    images: Tensor,
    labels: Tensor,
    *,
    form: MapForm,
    scales: Sequence[float] = (1.0,),
    symmetries: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Attention maps of a trained network, averaged over scales and symmetries.

    Args:
        network: in evaluation mode.
        images: float RGB in 0..1, [B, 3, S, S].
        labels: [B, K].
        form: see `attention_maps`.
        scales: sizes of the image relative to S.
        symmetries: average over the 8 symmetries of the square.
        dtype: autocast type, None for float32.

    Returns:
        float32 [B, K, S // 2, S // 2] in 0..1.
    """
    side = images.shape[-1]
    size = (max(1, side // 2), max(1, side // 2))
    total: Tensor | None = None
    for scale in scales:
        scaled = images
        if scale != 1.0:
            target = max(network.encoder.output_stride, round(side * scale))
            scaled = torch.nn.functional.interpolate(images, size=(target, target), mode="bilinear", antialias=True)
        for operation in range(SYMMETRIES if symmetries else 1):
            view = apply_symmetry(scaled, operation).contiguous(memory_format=torch.channels_last)
            with torch.autocast(images.device.type, dtype) if dtype is not None else nullcontext():
                scores = network(view).attention
            maps = enlarge(invert_symmetry(attention_maps(scores, labels, form), operation), size)
            total = maps if total is None else total + maps
    assert total is not None
    return total / (len(scales) * (SYMMETRIES if symmetries else 1))


def generate_pseudo_labels(
    patches: Sequence[Patch],
    tissues: TissueSet,
    network: CRAANet,
    memory: AttentionMemory,
    folder: Path,
    *,
    side: int,
    config: PseudoLabelConfig,
    form: MapForm,
    hardware: HardwareConfig,
) -> None:
    """Write pseudo labels for all training patches; a killed run goes on where it was.

    Args:
        patches: training patches in the order of the memory.
        tissues: tissue set.
        network: the trained classifier.
        memory: its accumulated attention.
        folder: gets `masks/`, `confidence/`, `variants/{last_epoch,accumulated,refined}/` and, last, `manifest.csv`.
        side: canvas side in pixels.
        config: scales, weights, thresholds, refinement.
        form: form of the accumulated maps.
        hardware: device, precision, threads.

    Raises:
        DataError: if memory and patches do not belong together.
    """
    if len(memory) != len(patches):
        raise DataError(
            f"{memory.folder}: holds attention of {len(memory)} patches, but the data set has {len(patches)}. The data "
            "changed after training; train stage craanet again."
        )
    set_threads(hardware)
    device = choose_device(hardware.device)
    dtype = autocast_dtype(device, hardware.precision)
    network = network.to(device).eval()
    todo = rows_to_do(patches, folder / "confidence")
    loader = DataLoader(PlainPatches([patches[i] for i in todo], side), batch_size=BATCH, num_workers=hardware.workers)
    with ThreadPoolExecutor(4) as writers:
        for batch in track(loader, "pseudo labels", len(loader)):
            rows = [todo[int(i)] for i in batch["index"]]
            images = batch["image"].to(device).float() / 255.0
            labels = batch["labels"].to(device)
            accumulated = enlarge(memory.read(np.asarray(rows)).to(device), (side, side)) * labels[:, :, None, None]
            last = enlarge(predicted_maps(network, images, labels, form=form, dtype=dtype), (side, side))
            final = config.memory_weight * accumulated
            if config.memory_weight < 1.0:
                views = predicted_maps(
                    network,
                    images,
                    labels,
                    form=form,
                    scales=config.scales,
                    symmetries=config.symmetries,
                    dtype=dtype,
                )
                final = final + (1.0 - config.memory_weight) * enlarge(views, (side, side))
            refinement = config.refinement
            if refinement.iterations > 0:
                final = refine(
                    images,
                    final,
                    labels,
                    iterations=refinement.iterations,
                    weight=refinement.weight,
                    sigma_rgb=refinement.sigma_rgb,
                    sigma_xy=refinement.sigma_xy,
                    grid=refinement.grid,
                )
            variants = {
                "last_epoch": label_from_scores(last, labels).labels.cpu().numpy(),
                "accumulated": label_from_scores(accumulated, labels).labels.cpu().numpy(),
            }
            result = label_from_scores(final, labels)
            variants["refined"] = result.labels.cpu().numpy()
            confidence = result.confidence.cpu().numpy()
            pictures = batch["image"].permute(0, 2, 3, 1).numpy()
            jobs = [
                writers.submit(
                    write_patch,
                    patches[row],
                    tissues,
                    folder,
                    pictures[j],
                    {name: maps[j] for name, maps in variants.items()},
                    variants["refined"][j],
                    confidence[j],
                    config,
                )
                for j, row in enumerate(rows)
            ]
            for job in jobs:
                job.result()
    write_manifest(patches, tissues, folder)
