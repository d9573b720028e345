"""Pseudo labels of other methods: the best present tissue at every pixel, without confidence.

Plain CAM and Grad-CAM here; `patch2tissue.peers` brings maps of its own.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from patch2tissue.config import HardwareConfig
from patch2tissue.craanet.attention_maps import attention_maps, enlarge, grad_cam
from patch2tissue.craanet.network import CRAANet
from patch2tissue.data.datasets import PlainPatches
from patch2tissue.data.images import image_size, write_mask
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.group import barrier
from patch2tissue.hardware import autocast_dtype, choose_device, set_threads
from patch2tissue.progress import track
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.pseudo_labels.files import BATCH, rows_to_do
from patch2tissue.pseudo_labels.generate import label_from_scores, predicted_maps
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

Network = TypeVar("Network", bound=nn.Module)
Maps = Callable[[Network, Tensor, Tensor, torch.dtype | None], Tensor]
"""Scores [B, K, S, S], at least 0, of images float RGB [B, 3, S, S] in 0..1 and labels [B, K]; the last argument is the
autocast type, None for float32."""


def write_best_tissues(
    network: Network,
    maps: dict[Path, Maps[Network]],
    patches: Sequence[Patch],
    tissues: TissueSet,
    *,
    side: int,
    hardware: HardwareConfig,
    title: str,
    ignore_white: bool = False,
) -> None:
    """Write label maps, `NAME.png` for each patch: at each pixel the present tissue with the highest score.

    A killed run goes on where it was.

    Args:
        network: a trained classifier.
        maps: for each folder to write, the scores; the last folder marks a patch as done.
        patches: training patches.
        tissues: tissue set.
        side: canvas side in pixels, see `canvas_size`.
        hardware: device, precision, threads.
        title: shown with the progress.
        ignore_white: leave out white background where the tissue set has a rule for it.

    Raises:
        DataError: if a patch cannot be read.
        ConfigError: if the device is not there.
    """
    set_threads(hardware)
    device = choose_device(hardware.device)
    dtype = autocast_dtype(device, hardware.precision)
    network = network.to(device).eval()
    white_above = tissues.background.white_above if ignore_white and tissues.background is not None else None
    todo = rows_to_do(patches, list(maps)[-1])
    loader = DataLoader(PlainPatches([patches[i] for i in todo], side), batch_size=BATCH, num_workers=hardware.workers)
    for batch in track(loader, title, len(loader)):
        labels = batch["labels"].to(device)
        images = (batch["image"].to(device).float() / 255.0).contiguous(memory_format=torch.channels_last)
        found = {
            folder: label_from_scores(scores(network, images, labels, dtype), labels).labels.cpu().numpy()
            for folder, scores in maps.items()
        }
        pictures = batch["image"].permute(0, 2, 3, 1).numpy()
        for j, i in enumerate(batch["index"].tolist()):
            patch = patches[todo[int(i)]]
            height, width = image_size(patch.path)
            for folder, masks in found.items():
                mask = masks[j][:height, :width]
                if white_above is not None:
                    mask[white_pixels(pictures[j][:height, :width], white_above)] = IGNORE_INDEX
                write_mask(folder / f"{patch.name}.png", mask, tissues)
    barrier()  # where processes share the work


def _cam(network: CRAANet, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Tensor:
    maps = predicted_maps(network, images, labels, form="rectified", dtype=dtype)
    return enlarge(maps, (images.shape[-2], images.shape[-1]))


def _grad_cam(network: CRAANet, images: Tensor, labels: Tensor, _: torch.dtype | None) -> Tensor:
    maps = attention_maps(grad_cam(network, images), labels, "rectified")
    return enlarge(maps, (images.shape[-2], images.shape[-1]))


def generate_cam_labels(
    patches: Sequence[Patch],
    tissues: TissueSet,
    network: CRAANet,
    folder: Path,
    *,
    side: int,
    hardware: HardwareConfig,
    method: Literal["cam", "grad_cam"] = "cam",
) -> None:
    """Write a baseline's pseudo labels, `variants/cam/` or `variants/grad_cam/`: rectified maps of one view.

    The arguments are those of `generate_pseudo_labels`; no pixel is ignored.
    """
    maps: Maps[CRAANet] = _cam if method == "cam" else _grad_cam
    write_best_tissues(
        network,
        {folder / "variants" / method: maps},
        patches,
        tissues,
        side=side,
        hardware=hardware,
        title=f"{method} labels",
    )
