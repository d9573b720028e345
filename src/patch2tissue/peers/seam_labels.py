"""Pseudo labels of SEAM: the best present tissue by refined maps, averaged over scales and symmetries."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import torch
from torch import Tensor

from patch2tissue.config import HardwareConfig
from patch2tissue.craanet.attention_maps import enlarge
from patch2tissue.data.patches import Patch
from patch2tissue.inference.symmetries import average_symmetries
from patch2tissue.peers.seam import SEAMNetwork, rescale, spread
from patch2tissue.pseudo_labels.baselines import write_best_tissues
from patch2tissue.tissues import TissueSet


@torch.no_grad()
def refined_maps(
    network: SEAMNetwork,
    images: Tensor,
    labels: Tensor,
    *,
    scales: Sequence[float] = (1.0,),
    symmetries: bool = False,
    dtype: torch.dtype | None = None,
) -> Tensor:
    """Refined maps of a trained network, averaged over scales and symmetries, then stretched (`spread`; published).

    Args:
        network: in evaluation mode.
        images: float RGB in 0..1, [B, 3, S, S].
        labels: 1 for each tissue that is present, [B, K].
        scales: sizes of the image relative to S, each rounded to a multiple of the output stride.
        symmetries: average over the 8 symmetries of the square.
        dtype: autocast type, None for float32.

    Returns:
        float32 [B, K, S, S] in 0..1; zero for absent tissues.
    """
    size = (images.shape[-2], images.shape[-1])

    def one_view(view: Tensor) -> Tensor:
        view = view.contiguous(memory_format=torch.channels_last)
        with torch.autocast(view.device.type, dtype) if dtype is not None else nullcontext():
            refined = network(view, labels).refined
        return enlarge(refined, size)

    views = average_symmetries(one_view) if symmetries else one_view
    maps = [views(rescale(images, scale, network.encoder.output_stride)) for scale in scales]
    return spread(torch.stack(maps).mean(dim=0), labels)


def generate_seam_labels(
    patches: Sequence[Patch],
    tissues: TissueSet,
    network: SEAMNetwork,
    folder: Path,
    *,
    side: int,
    hardware: HardwareConfig,
    scales: Sequence[float] = (1.0,),
    symmetries: bool = False,
) -> None:
    """Write SEAM's pseudo labels, `NAME.png` for each patch, no pixel ignored; a killed run goes on where it was.

    Args:
        patches: training patches.
        tissues: tissue set.
        network: the trained network.
        folder: gets one palette PNG per patch.
        side: canvas side in pixels, see `canvas_size`.
        hardware: device, precision, threads.
        scales: see `refined_maps`; `config.pseudo_labels.scales` for a fair comparison.
        symmetries: see `refined_maps`; `config.pseudo_labels.symmetries` for a fair comparison.

    Raises:
        DataError: if a patch cannot be read.
        ConfigError: if the device is not there.
    """

    def maps(trained: SEAMNetwork, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Tensor:
        return refined_maps(trained, images, labels, scales=scales, symmetries=symmetries, dtype=dtype)

    write_best_tissues(network, {folder: maps}, patches, tissues, side=side, hardware=hardware, title="SEAM labels")
