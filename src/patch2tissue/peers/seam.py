"""SEAM, a peer of stage 1: a classifier whose maps shall follow the image when it is rescaled.

Published: Wang Y. et al., Self-supervised Equivariant Attention Mechanism, CVPR 2020, and the authors' released code.
Two views of a patch, one smaller, go through one network. Besides classification of both, L1 terms pull the maps of the
views together (equivariant regularisation, ER) and each view's refined maps towards the plain maps of the other
(equivariant cross regularisation, ECR, over its 20% largest differences). Refined maps come from the pixel correlation
module (PCM): an average over all positions, weighted by the rectified cosine of low-level features.

Our reading: tissues fill a patch, so there is no background channel, and no loss that pushes scores of a quarter of the
pixels down. A tissue that is not in the patch's label has no map, during training and for pseudo labels. The classifier
is that of our plain CAM, without dropout, so that rows of a table differ by the method alone. The smaller view has half
the size (authors: 0.3 of 448 px): of 112 px that is 56 px, exactly every other position at output stride 8, whereas 0.3
would leave 4 positions a side. Running statistics of batch normalisation are those of the view of full size.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torchmetrics.classification import MultilabelF1Score

from patch2tissue.config import EncoderConfig, RunConfig
from patch2tissue.craanet.attention_maps import attention_maps
from patch2tissue.craanet.network import CRAANet, save_craanet
from patch2tissue.craanet.residual_attention import ResidualAttentionHeads
from patch2tissue.craanet.training import patch_label_loader
from patch2tissue.data.patches import Patch
from patch2tissue.encoders import Encoder, load_config
from patch2tissue.errors import ConfigError
from patch2tissue.lora import plain_state
from patch2tissue.pfscnet.consistency import frozen_statistics
from patch2tissue.training import Batch, Stage, fit_stage, is_finished
from patch2tissue.weights import load_network_folder, save_network_folder

SCALE = 0.5
"""Size of the smaller view."""

HARD_SHARE = 0.2
"""Share of the differences, the largest ones, that count in the cross regularisation (published)."""

REDUCED = (64, 128)
"""Channels that each of the two feature maps below the deepest is reduced to (published)."""


class SEAMOutput(NamedTuple):
    """What `SEAMNetwork` returns.

    Attributes:
        logits: one per tissue, float32 [B, K].
        attention: score of each tissue at each position, float32 [B, K, h, w], any range.
        refined: maps after pixel correlation, float32 [B, K, h, w] in 0..1; zero for absent tissues.
    """

    logits: Tensor
    attention: Tensor
    refined: Tensor


class SEAMNetwork(nn.Module):
    """Plain CAM classifier with a pixel correlation module.

    Args:
        encoder: a timm model name, or a full `EncoderConfig`.
        tissues: number of tissues K.

    Raises:
        ConfigError: if the encoder cannot be built, or gives fewer than three feature maps.
    """

    def __init__(self, encoder: str | EncoderConfig = "resnet50d", tissues: int = 4) -> None:
        super().__init__()
        config = EncoderConfig(name=encoder) if isinstance(encoder, str) else encoder
        self.encoder = Encoder(config)
        if len(self.encoder.channels) < 3:
            raise ConfigError(
                f"SEAM cannot use the encoder '{config.name}': it needs three feature maps and has "
                f"{len(self.encoder.channels)}. Choose another encoder, or other options.out_indices."
            )
        self.heads = ResidualAttentionHeads(self.encoder.channels[-1], tissues, (1.0,), 0.0)
        self.reduce = nn.ModuleList(
            nn.Conv2d(channels, reduced, 1, bias=False)
            for channels, reduced in zip(self.encoder.channels[-3:-1], REDUCED, strict=True)
        )
        self.join = nn.Conv2d(sum(REDUCED) + 3, sum(REDUCED), 1, bias=False)
        for layer in self.reduce:
            nn.init.kaiming_normal_(cast(nn.Conv2d, layer).weight)
        nn.init.xavier_uniform_(self.join.weight)
        self.settings: dict[str, Any] = {"encoder": self.encoder.config.model_dump(mode="json"), "tissues": tissues}

    def forward(self, images: Tensor, labels: Tensor | None = None) -> SEAMOutput:
        """Classify patches and draw maps.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
            labels: 1 for each tissue that is present, [B, K]; None: any may be.
        """
        features = self.encoder(images)
        logits, scores = self.heads(features[-1])
        present = torch.ones_like(logits) if labels is None else labels
        # as in the released code, refinement learns its own layers and leaves encoder and classifier alone
        maps = winning_maps(attention_maps(scores.detach(), present, "rectified"))
        refined = pixel_correlation(maps, self._appearance(images, features))
        return SEAMOutput(logits, scores, refined)

    def _appearance(self, images: Tensor, features: list[Tensor]) -> Tensor:
        """Image and reduced feature maps, joined on the grid of the deepest map: [B, D, h, w]."""
        size = features[-1].shape[-2:]
        picture = (images - cast(Tensor, self.encoder.mean)) / cast(Tensor, self.encoder.std)
        parts = [F.interpolate(picture, size=size, mode="area")]
        for layer, feature in zip(self.reduce, features[-3:-1], strict=True):
            reduced = F.relu(layer(feature.detach()))
            parts.append(reduced if reduced.shape[-2:] == size else F.interpolate(reduced, size=size, mode="area"))
        return cast(Tensor, self.join(torch.cat(parts, dim=1)))


def pixel_correlation(maps: Tensor, features: Tensor) -> Tensor:
    """Average maps over positions that look alike: `r_k(i) = Σ_j relu(cos(f_i, f_j)) m_k(j) / Σ_j relu(cos(f_i, f_j))`.

    Published (PCM): cosine instead of an inner product, rectified, and no residual connection.

    Args:
        maps: [B, K, h, w].
        features: [B, D, h, w].

    Returns:
        float32 [B, K, h, w], within the range of each map.
    """
    # float32: sums over all positions
    with torch.autocast(maps.device.type, enabled=False):
        unit = F.normalize(features.float().flatten(2), dim=1, eps=1e-5)
        weights = F.relu(unit.transpose(1, 2) @ unit)
        # cosine is symmetric: columns sum to what rows do
        total = weights.sum(dim=1, keepdim=True)
        refined = (maps.float().flatten(2) @ weights) / total.clamp(min=1e-5)
    return refined.view(maps.shape)


def winning_maps(maps: Tensor) -> Tensor:
    """Keep the highest tissue at each position, [B, K, h, w], and set the others to zero."""
    return torch.where(maps < maps.amax(dim=1, keepdim=True), 0.0, maps)


def spread(maps: Tensor, labels: Tensor) -> Tensor:
    """Rectify maps and stretch each to 0..1, lowest to highest, as the authors' released code does.

    Dividing by the maximum alone would let two views agree by maps that are the same everywhere.

    Args:
        maps: [B, K, h, w], any range.
        labels: 1 for each tissue that is present, [B, K].

    Returns:
        float32 [B, K, h, w]; zero for absent tissues, and for maps that are the same everywhere.
    """
    positive = F.relu(maps.float())
    lowest = positive.amin(dim=(2, 3), keepdim=True)
    width = positive.amax(dim=(2, 3), keepdim=True) - lowest
    return F.relu(positive - lowest - 1e-5) / (width + 1e-5) * (labels > 0.5)[:, :, None, None]


def hardest_mean(differences: Tensor, share: float = HARD_SHARE) -> Tensor:
    """Mean over the largest `share` of each sample's values, [B, ...], at least one value of each; scalar."""
    flat = differences.flatten(1)
    return flat.topk(max(1, int(share * flat.shape[1])), dim=1).values.mean()


def rescale(images: Tensor, scale: float, multiple: int) -> Tensor:
    """Resize images [B, 3, S, S] by a factor, to sides rounded to multiples of the output stride, one at least."""
    side = max(1, round(images.shape[-1] * scale / multiple)) * multiple
    if side == images.shape[-1]:
        return images
    return F.interpolate(images, size=(side, side), mode="bilinear", antialias=True, align_corners=False)


def seam_losses(large: SEAMOutput, small: SEAMOutput, labels: Tensor) -> dict[str, Tensor]:
    """Losses of two views of the same patches; `loss` is their sum with equal weights (published).

    Args:
        large: output for the view of full size.
        small: output for the smaller view, on whose grid maps are compared.
        labels: 1 for each tissue that is present, float32 [B, K].

    Returns:
        Scalars `loss`, `loss_class`, `loss_er` and `loss_ecr`.
    """
    size = small.attention.shape[-2:]
    first, first_refined = (
        F.interpolate(spread(maps, labels), size=size, mode="area") for maps in (large.attention, large.refined)
    )
    second, second_refined = spread(small.attention, labels), spread(small.refined, labels)
    logits = (large.logits, small.logits)
    loss_class = sum(F.binary_cross_entropy_with_logits(each, labels) for each in logits) / 2
    loss_er = (first - second).abs().mean()
    crossed = ((winning_maps(second.detach()), first_refined), (winning_maps(first.detach()), second_refined))
    loss_ecr = sum(hardest_mean((plain - refined).abs()) for plain, refined in crossed)
    parts = {"loss_class": cast(Tensor, loss_class), "loss_er": loss_er, "loss_ecr": cast(Tensor, loss_ecr)}
    return {"loss": torch.stack(list(parts.values())).sum(), **parts}


class SEAMStage(Stage):
    """Training of `SEAMNetwork`.

    Args:
        network: the network.
        tissues: number of tissues K.
    """

    title = "SEAM"

    def __init__(self, network: SEAMNetwork, tissues: int) -> None:
        self.network: SEAMNetwork = network
        self.f1 = MultilabelF1Score(tissues, average="macro")

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step on both views."""
        labels = batch["labels"]
        large = self.network(images, labels)
        view = rescale(images, SCALE, self.network.encoder.output_stride)
        # inference sees full size most of all; the authors keep all statistics as they were pretrained
        with frozen_statistics(self.network):
            small = self.network(view.contiguous(memory_format=torch.channels_last), labels)
        self.f1.update(large.logits.detach().cpu(), labels.cpu().int())
        return seam_losses(large, small, labels)

    def end_of_epoch(self, epoch: int) -> dict[str, float]:
        """Classification score on the training labels."""
        score = float(self.f1.compute())
        self.f1.reset()
        return {"label_f1": score}

    def finish(self, folder: Path) -> None:
        """Write the network, and its classifier as a CRAANet from whose encoder stage 2 can start."""
        save_seam(self.network, folder)
        save_craanet(plain_classifier(self.network), folder / "classifier")


def plain_classifier(network: SEAMNetwork) -> CRAANet:
    """Encoder and classifier of a SEAM network as a CRAANet without attention term; shares no tensors with it."""
    classifier = CRAANet(load_config(network.settings["encoder"]), network.settings["tissues"], residual_weight=0.0)
    classifier.encoder.load_state_dict(plain_state(network.encoder))
    classifier.heads.load_state_dict(network.heads.state_dict())
    return classifier


def save_seam(network: SEAMNetwork, folder: Path) -> None:
    """Write `weights.safetensors` and `network.json`."""
    save_network_folder(network, network.settings, folder, kind="SEAM")


def load_seam(folder: Path, device: torch.device | str = "cpu") -> SEAMNetwork:
    """Read a network that `save_seam` wrote, ready for inference.

    Raises:
        DataError: if the folder holds no SEAM network or its files do not fit each other.
    """

    def build(settings: dict[str, Any]) -> SEAMNetwork:
        # the weights come from the folder, not from where the encoder once started
        encoder = load_config(settings["encoder"])
        network = SEAMNetwork(encoder, settings["tissues"])
        network.settings = {key: value for key, value in settings.items() if key != "kind"}
        return network

    return load_network_folder(folder, build, kind="SEAM", device=device)


def train_seam(config: RunConfig, patches: Sequence[Patch], folder: Path, *, side: int) -> None:
    """Train SEAM on patch labels, with encoder, patches, augmentation, steps and optimiser of `config.craanet`.

    Args:
        config: the run's configuration.
        patches: labelled training patches.
        folder: stage folder; gets weights, `metrics.csv` and `classifier/`, a CRAANet folder for `train_pfscnet`.
        side: canvas side in pixels, see `canvas_size`.

    Raises:
        ConfigError, DataError, TrainingError: see `fit`.
    """
    if is_finished(folder):
        return
    torch.manual_seed(config.seed)
    tissues, settings = len(config.tissue_set()), config.craanet
    stage = SEAMStage(SEAMNetwork(settings.encoder, tissues), tissues)
    fit_stage(config, stage, patch_label_loader(config, patches, side), settings, folder)
