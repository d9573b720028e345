"""Pseudo masks of MLPS: Grad-CAM at three depths of the classifier's encoder.

Published: Han C. et al., Medical Image Analysis 2022, and the authors' released code: scores are taken as they are,
neither rectified nor scaled tissue by tissue, and the highest of the tissues in the patch's label wins; white
background is left out where the data set has it. Our reading: the depths are the three deepest feature maps of any
encoder (authors: the ends of the last three stages of a ResNet-38).
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from patch2tissue.config import HardwareConfig
from patch2tissue.craanet.attention_maps import enlarge, grad_cam
from patch2tissue.craanet.network import CRAANet
from patch2tissue.data.patches import Patch
from patch2tissue.errors import ConfigError
from patch2tissue.pseudo_labels.baselines import Maps, write_best_tissues
from patch2tissue.tissues import TissueSet

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
        ConfigError: if the device is not there, or the encoder has fewer than three feature maps, or
            is a vision transformer.
    """
    if network.encoder.of_tokens:
        raise ConfigError(
            "MLPS reads gradients at three depths of a convolutional encoder, and this one is a vision transformer. "
            "Choose another craanet.encoder."
        )
    if len(network.encoder.channels) < len(DEPTHS):
        raise ConfigError(
            f"MLPS needs an encoder with three feature maps; this one has {len(network.encoder.channels)}. Choose "
            "another craanet.encoder, or other options.out_indices."
        )
    maps: dict[Path, Maps[CRAANet]] = {folder / name: partial(_scores, stage) for name, stage in DEPTHS.items()}
    write_best_tissues(
        network, maps, patches, tissues, side=side, hardware=hardware, title="MLPS labels", ignore_white=True
    )


def _scores(stage: int, network: CRAANet, images: Tensor, labels: Tensor, dtype: torch.dtype | None) -> Tensor:
    return layer_scores(network, images, stage)
