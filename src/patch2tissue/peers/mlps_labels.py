"""Pseudo masks of MLPS: Grad-CAM at three depths of the classifier's encoder.

Published: Han C. et al., Medical Image Analysis 2022, and the authors' released code: scores are taken as they are,
neither rectified nor scaled tissue by tissue, and the highest of the tissues in the patch's label wins; white
background is left out where the data set has it. Our reading: the depths are the three deepest feature maps of any
encoder (authors: the ends of the last three stages of a ResNet-38).
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from patch2tissue.config import HardwareConfig
from patch2tissue.craanet.attention_maps import enlarge, grad_cam
from patch2tissue.craanet.network import CRAANet
from patch2tissue.data.datasets import PlainPatches
from patch2tissue.data.images import image_size, write_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import ConfigError
from patch2tissue.hardware import choose_device, set_threads
from patch2tissue.progress import track
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.pseudo_labels.files import BATCH, rows_to_do
from patch2tissue.pseudo_labels.generate import label_from_scores
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

DEPTHS = {"deep": -1, "middle": -2, "shallow": -3}
"""Folders of the pseudo masks, and the feature map that each is drawn from."""


def layer_scores(network: CRAANet, images: Tensor, stage: int) -> Tensor:
    """Grad-CAM scores in 0..1 with one scale for all tissues of a patch, so that their order at a pixel is kept.

    Args:
        network: a classifier.
        images: float RGB in 0..1, [B, 3, H, W].
        stage: which feature map of the encoder; -1 is the deepest.

    Returns:
        float32 [B, K, H, W].
    """
    scores = grad_cam(network, images, stage)
    lowest = scores.amin(dim=(1, 2, 3), keepdim=True)
    spread = scores.amax(dim=(1, 2, 3), keepdim=True) - lowest
    return enlarge((scores - lowest) / spread.clamp(min=1e-12), (images.shape[-2], images.shape[-1]))


def generate_mlps_labels(
    patches: Sequence[Patch],
    tissues: TissueSet,
    network: CRAANet,
    folder: Path,
    *,
    side: int,
    hardware: HardwareConfig,
) -> None:
    """Write the three pseudo masks of each patch; a killed run goes on where it was.

    Args:
        patches: training patches.
        tissues: tissue set; where it has a rule for white background, these pixels are ignored.
        network: the trained classifier, see `train_mlps_classifier` and `load_craanet`.
        folder: gets `deep/NAME.png`, `middle/NAME.png` and `shallow/NAME.png`.
        side: canvas side in pixels, see `canvas_size`.
        hardware: device and threads; gradients are taken in float32.

    Raises:
        DataError: if a patch cannot be read.
        ConfigError: if the device is not there, or the encoder has fewer than three feature maps.
    """
    if len(network.encoder.channels) < len(DEPTHS):
        raise ConfigError(
            f"MLPS needs an encoder with three feature maps; this one has {len(network.encoder.channels)}. Choose "
            "another craanet.encoder, or other options.out_indices."
        )
    set_threads(hardware)
    device = choose_device(hardware.device)
    network = network.to(device).eval()
    # the last folder marks a patch as done
    todo = rows_to_do(patches, folder / list(DEPTHS)[-1])
    loader = DataLoader(PlainPatches([patches[i] for i in todo], side), batch_size=BATCH, num_workers=hardware.workers)
    white_above = tissues.background.white_above if tissues.background is not None else None
    for batch in track(loader, "MLPS labels", len(loader)):
        labels = batch["labels"].to(device)
        images = (batch["image"].to(device).float() / 255.0).contiguous(memory_format=torch.channels_last)
        found = {
            name: label_from_scores(layer_scores(network, images, stage), labels).labels.cpu().numpy()
            for name, stage in DEPTHS.items()
        }
        pictures = batch["image"].permute(0, 2, 3, 1).numpy()
        for j, i in enumerate(batch["index"].tolist()):
            patch = patches[todo[int(i)]]
            height, width = image_size(patch.path)
            for name, masks in found.items():
                mask = masks[j][:height, :width]
                if white_above is not None:
                    mask[white_pixels(pictures[j][:height, :width], white_above)] = IGNORE_INDEX
                write_mask(folder / name / f"{patch.name}.png", mask, tissues)
