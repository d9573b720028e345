"""Pre-training: an encoder learns from two views of each patch, and its weights are where stage 1 starts."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from patch2tissue.atomic import write_bytes
from patch2tissue.config import EncoderConfig, PretrainingConfig, RunConfig
from patch2tissue.data.datasets import TrainingPatches, training_loader
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.batch import gather_with_gradient, replicated
from patch2tissue.encoders import Encoder
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.pretraining.vicreg import vicreg_loss
from patch2tissue.pretraining.views import random_view
from patch2tissue.training import Batch, Stage, fit_stage, is_finished

WEIGHTS = "encoder.safetensors"
"""File of the encoder's weights in the folder of the pre-training."""


class ViewEncoder(nn.Module):
    """An encoder, average pooling, and an expander [published: VICReg] that is thrown away afterwards.

    The expander is smaller than the published one, three layers of 8,192, which was made for 1.3 million pictures and
    would cost more than a small encoder on a CPU [our reading].

    Args:
        config: the encoder; its output stride does not matter to the weights, so the coarsest it has is the fastest.
        dimensions: size D of the embedding.
    """

    def __init__(self, config: EncoderConfig, dimensions: int) -> None:
        super().__init__()
        self.encoder = Encoder(config)
        self.expander = nn.Sequential(
            nn.Linear(self.encoder.channels[-1], dimensions),
            nn.BatchNorm1d(dimensions),
            nn.ReLU(),
            nn.Linear(dimensions, dimensions),
        )

    def forward(self, images: Tensor) -> Tensor:
        """Embeddings [B, D] of float RGB in 0..1, [B, 3, S, S]."""
        embedding: Tensor = self.expander(self.encoder(images)[-1].mean(dim=(2, 3)))
        return embedding


class PretrainingStage(Stage):
    """VICReg on two views of each patch; labels are not looked at.

    Args:
        network: encoder with expander.
        config: settings of the stage.
    """

    title = "pre-training"
    in_parts = True

    def __init__(self, network: ViewEncoder, config: PretrainingConfig) -> None:
        self.network: ViewEncoder = network
        self.config = config

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step on two views of each patch."""
        config = self.config
        views = [
            random_view(
                images, config.crop, least_scale=config.least_scale, stain=config.stain, brightness=config.brightness
            )
            for _ in range(2)
        ]
        # one pass, so that batch normalisation sees both views alike
        one, other = self.network(torch.cat(views)).chunk(2)
        # dimensions vary over the patches of all processes
        found = vicreg_loss(gather_with_gradient(one), gather_with_gradient(other))
        losses = {"loss": found.loss, "loss_alike": found.invariance, "loss_spread": found.variance}
        return {name: replicated(value) for name, value in losses.items()}

    def finish(self, folder: Path) -> None:
        """Write the encoder's weights, under timm's names."""
        state = self.network.encoder.model.state_dict()
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.items()}
        write_bytes(folder / WEIGHTS, save(tensors))


def pretrain_encoder(config: RunConfig, patches: Sequence[Patch], folder: Path, *, side: int) -> Path:
    """Pre-train stage 1's encoder on the training patches, without their labels.

    Args:
        config: the run's configuration, with a section `pretraining`.
        patches: training patches.
        folder: stage folder; gets `encoder.safetensors` and `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.

    Returns:
        The weights file, which `craanet.encoder.weights` takes.

    Raises:
        ConfigError: if there is no section `pretraining`; and as `fit`.
        DataError: if there is only one patch; and as `fit`.
        TrainingError: see `fit`.
    """
    settings = config.pretraining
    if settings is None:
        raise ConfigError("The configuration has no section 'pretraining'.")
    if is_finished(folder):
        return folder / WEIGHTS
    if len(patches) < 2:
        raise DataError(
            f"{config.data.path}: pre-training compares patches with each other and needs at least 2. Add patches, or "
            "leave out the section pretraining."
        )
    torch.manual_seed(config.seed)
    dataset = TrainingPatches(patches, config.tissue_set(), side, seed=config.seed, cache=config.data.cache)
    network = ViewEncoder(_coarsest(config.craanet.encoder), settings.dimensions)
    loader = training_loader(dataset, settings.batch_size, config.hardware.workers, torch.cuda.is_available())
    fit_stage(config, PretrainingStage(network, settings), loader, settings, folder)
    return folder / WEIGHTS


def _coarsest(config: EncoderConfig) -> EncoderConfig:
    """The encoder at output stride 32 if it has that, which costs a fraction of a dilated one; the same weights."""
    config = config.model_copy(update={"train": "all"})  # what is frozen later is learned here
    coarse = config.model_copy(update={"output_stride": 32})
    try:
        Encoder(coarse)
    except ConfigError:
        return config
    return coarse


def start_from(config: RunConfig, weights: Path) -> RunConfig:
    """The configuration with encoders that start from a weights file.

    Args:
        config: the run's configuration.
        weights: as `pretrain_encoder` returned it.

    Returns:
        A copy; stage 2's encoder starts from the file too if it is the same network.
    """
    first = config.craanet.encoder
    update = {"weights": weights, "pretrained": False}
    changes: dict[str, object] = {
        "craanet": config.craanet.model_copy(update={"encoder": first.model_copy(update=update)})
    }
    second = config.pfscnet.encoder
    if second is not None and (second.name, second.options) == (first.name, first.options):
        changes["pfscnet"] = config.pfscnet.model_copy(update={"encoder": second.model_copy(update=update)})
    return config.model_copy(update=changes)
