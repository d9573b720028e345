"""MLPS, first phase: a classifier with progressive dropout attention (PDA), a peer of our stage 1.

Published: Han C. et al., Multi-Layer Pseudo-Supervision for Histopathology Tissue Semantic Segmentation using
Patch-level Classification Labels, Medical Image Analysis 2022 (10.1016/j.media.2022.102487), and the authors' released
code. PDA multiplies the deepest features by a map A, so that the classifier cannot live on the most telling places:

    M_k = relu(class activation map of tissue k), M'_k(j) = M_k(j) where M_k(j) ≤ μ · max M_k, else 0
    A = mean over tissues of M'_k

The coefficient μ is 1 during the first 3 of 20 epochs, in which PDA is off; then it is multiplied by σ = 0.985 after
each epoch, down to l = 0.65 at most. It works in training alone.

Our reading: a training of another length runs through the same course of μ, stretched or squeezed, for otherwise few
epochs would hardly know PDA. A is divided by its mean, so that features keep their size: the probabilities that the
classification gate asks for come from features without PDA. A patch in which nothing is left keeps its features. The
classifier is that of our plain CAM, without dropout, and is saved as a `CRAANet` without attention term: stage 2
starts from its encoder, and `inference.gate` reads its probabilities.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MultilabelF1Score

from patch2tissue.config import RunConfig
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.craanet.residual_attention import position_scores
from patch2tissue.craanet.training import patch_label_loader
from patch2tissue.data.patches import Patch
from patch2tissue.training import Batch, Stage, fit_stage, is_finished

GATE = 0.1
"""Published threshold of the classification gate: tissues less likely than this get no pixels (`inference.gate`)."""

PUBLISHED_EPOCHS = 20
"""Length of the published training, to which the course of the dropout coefficient belongs."""

PLAIN_EPOCHS = 3
"""Published epochs before progressive dropout attention sets in."""

DECAY = 0.985
"""Published factor σ of the dropout coefficient per epoch."""

LOWEST = 0.65
"""Published lower bound l of the dropout coefficient."""


def dropout_coefficient(epoch: int, epochs: int) -> float | None:
    """Coefficient μ of an epoch.

    Args:
        epoch: epoch, from 0.
        epochs: epochs of the whole training.

    Returns:
        μ in 0.65..1, or None while progressive dropout attention is off.
    """
    published = epoch * PUBLISHED_EPOCHS / epochs
    if published < PLAIN_EPOCHS:
        return None
    return max(LOWEST, math.pow(DECAY, published - PLAIN_EPOCHS + 1))


def dropout_attention(scores: Tensor, coefficient: float) -> Tensor:
    """Attention from which each tissue's highest scores are dropped, `A` over its mean.

    Args:
        scores: class activation of every tissue at every position, [B, K, h, w], any range.
        coefficient: μ; activations above μ times a tissue's maximum are set to zero.

    Returns:
        float32 [B, 1, h, w], not negative, mean 1; all 1 where nothing is left.
    """
    maps = F.relu(scores.float())
    highest = maps.amax(dim=(2, 3), keepdim=True)
    kept = torch.where(maps > coefficient * highest, 0.0, maps).mean(dim=1, keepdim=True)
    mean = kept.mean(dim=(2, 3), keepdim=True)
    return torch.where(mean > 0, kept / mean.clamp(min=1e-6), 1.0)


class MLPSClassifierStage(Stage):
    """Multi-label classification with progressive dropout attention.

    Args:
        network: a classifier without attention term.
        tissues: number of tissues K.
        epochs: epochs of the whole training.
    """

    title = "MLPS classifier"

    def __init__(self, network: CRAANet, tissues: int, epochs: int) -> None:
        self.network: CRAANet = network
        self.epochs = epochs
        self.f1 = MultilabelF1Score(tissues, average="macro")

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step."""
        labels = batch["labels"]
        logits = self.logits(images, dropout_coefficient(epoch, self.epochs))
        self.f1.update(logits.detach().cpu(), labels.cpu().int())
        return {"loss": F.binary_cross_entropy_with_logits(logits, labels)}

    def logits(self, images: Tensor, coefficient: float | None) -> Tensor:
        """Logits [B, K], float32, with the coefficient μ, or without dropout if it is None."""
        features = self.network.encoder(images)[-1]
        if coefficient is not None:
            # float32: the threshold decides which position learns
            with torch.autocast(features.device.type, enabled=False):
                weight = cast(nn.Conv2d, self.network.heads.classifiers[0]).weight.flatten(1)
                features = features.float()
                features = features * dropout_attention(position_scores(features, weight), coefficient)
        logits, _ = self.network.heads(features)
        return cast(Tensor, logits)

    def end_of_epoch(self, epoch: int) -> dict[str, float]:
        """Classification score on the training labels."""
        score = float(self.f1.compute())
        self.f1.reset()
        return {"label_f1": score}

    def finish(self, folder: Path) -> None:
        """Write the weights."""
        save_craanet(self.network, folder)


def train_mlps_classifier(config: RunConfig, patches: Sequence[Patch], folder: Path, *, side: int) -> None:
    """Train the classifier of MLPS, with encoder, patches, augmentation, steps and optimiser of `config.craanet`.

    Args:
        config: the run's configuration.
        patches: labelled training patches.
        folder: stage folder; gets weights, to be read by `load_craanet`, and `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    if is_finished(folder):
        return
    torch.manual_seed(config.seed)
    tissues, settings = len(config.tissue_set()), config.craanet
    network = CRAANet(settings.encoder, tissues, residual_weight=0.0)
    stage = MLPSClassifierStage(network, tissues, settings.epochs)
    fit_stage(config, stage, patch_label_loader(config, patches, side), settings, folder)
