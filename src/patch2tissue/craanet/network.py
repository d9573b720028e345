"""CRAANet: a multi-label patch classifier whose class residual attention shows where each tissue is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from patch2tissue.config import CRAANetConfig, EncoderConfig
from patch2tissue.craanet.multi_stage import check_stages, finest_stride, join_stages
from patch2tissue.craanet.residual_attention import HEAD_TEMPERATURES, ResidualAttentionHeads
from patch2tissue.encoders import Encoder, load_config
from patch2tissue.weights import load_network_folder, save_network_folder


class CRAANetOutput(NamedTuple):
    """What `CRAANet` returns.

    Attributes:
        logits: one per tissue, [B, K]; sigmoid gives the probability that the tissue is in the patch.
        attention: score of each tissue at each position, [B, K, h, w], h = H / `CRAANet.attention_stride`, any range;
            `attention_maps` turns it into maps in 0..1.
    """

    logits: Tensor
    attention: Tensor


class CRAANet(nn.Module):
    """Class residual attention accumulation network (Han et al. 2023; residual attention: Zhu & Wu 2021).

    Attributes:
        encoder: gives the feature maps.
        heads: classifiers of the deepest feature map.
        earlier_heads: classifiers of the feature maps before it, shallow to deep; empty for one attention stage.

    Args:
        encoder: a timm model name, or a full `EncoderConfig`.
        tissues: number of tissues K.
        heads: 1, 2, 4, 6 or 8 residual attention heads with the published temperatures.
        temperatures: temperatures instead of the published ones, one per head.
        residual_weight: weight λ of the attention term; 0 makes it a plain CAM classifier with average pooling.
        attention_stages: how many feature maps, counted from the deepest, have classifiers; logits and attention are
            means over them, see `multi_stage.join_stages`.

    Raises:
        ConfigError: if the encoder cannot be built or has fewer feature maps.
    """

    def __init__(
        self,
        encoder: str | EncoderConfig = "resnet50d",
        tissues: int = 4,
        *,
        heads: int = 1,
        temperatures: Sequence[float] | None = None,
        residual_weight: float = 0.3,
        attention_stages: int = 1,
    ) -> None:
        super().__init__()
        config = EncoderConfig(name=encoder) if isinstance(encoder, str) else encoder
        self.encoder = Encoder(config)
        check_stages(attention_stages, self.encoder.strides, config.name)
        chosen = tuple(temperatures) if temperatures is not None else HEAD_TEMPERATURES[heads]
        self.heads = ResidualAttentionHeads(self.encoder.channels[-1], tissues, chosen, residual_weight)
        # after the deepest one's, so that these are drawn alike however many there are; none adds no tensor to the file
        self.earlier_heads = nn.ModuleList(
            ResidualAttentionHeads(channels, tissues, chosen, residual_weight)
            for channels in self.encoder.channels[-attention_stages:-1]
        )
        self.settings: dict[str, Any] = {
            "encoder": self.encoder.config.model_dump(mode="json"),
            "tissues": tissues,
            "temperatures": [str(t) for t in chosen],
            "residual_weight": residual_weight,
            "attention_stages": attention_stages,
        }
        if self.encoder.origin is not None:
            self.settings["encoder_origin"] = self.encoder.origin

    @property
    def attention_stride(self) -> int:
        """Input pixels per position of `CRAANetOutput.attention`."""
        return finest_stride(self.encoder.strides, 1 + len(self.earlier_heads))

    @classmethod
    def from_config(cls, config: CRAANetConfig, tissues: int) -> CRAANet:
        """Build the network that a configuration describes."""
        return cls(
            config.encoder,
            tissues,
            heads=config.heads,
            temperatures=config.temperatures,
            residual_weight=config.residual_weight,
            attention_stages=config.attention_stages,
        )

    def forward(self, images: Tensor) -> CRAANetOutput:
        """Classify patches.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
        """
        features = self.encoder(images)
        heads = (*self.earlier_heads, self.heads)
        used = features[-len(heads) :]
        return CRAANetOutput(*join_stages([head(stage) for head, stage in zip(heads, used, strict=True)]))


def save_craanet(network: CRAANet, folder: Path) -> None:
    """Write `weights.safetensors` and `network.json`."""
    save_network_folder(network, network.settings, folder, kind="CRAANet")


def load_craanet(folder: Path, device: torch.device | str = "cpu") -> CRAANet:
    """Read a network that `save_craanet` wrote, ready for inference.

    Raises:
        DataError: if the folder holds no CRAANet or its files do not fit each other.
    """

    def build(settings: dict[str, Any]) -> CRAANet:
        # the weights come from the folder, not from where the encoder once started
        encoder = load_config(settings["encoder"])
        network = CRAANet(
            encoder,
            settings["tissues"],
            temperatures=[float(t) for t in settings["temperatures"]],
            residual_weight=settings["residual_weight"],
            # folders written before there was a choice have one
            attention_stages=settings.get("attention_stages", 1),
        )
        network.settings = {key: value for key, value in settings.items() if key != "kind"}
        return network

    return load_network_folder(folder, build, kind="CRAANet", device=device)
