"""CRAANet: a multi-label patch classifier whose class residual attention shows where each tissue is."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from patch2tissue.config import CRAANetConfig, EncoderConfig
from patch2tissue.craanet.residual_attention import HEAD_TEMPERATURES, ResidualAttentionHeads
from patch2tissue.encoders import Encoder
from patch2tissue.weights import load_network_folder, save_network_folder


class CRAANetOutput(NamedTuple):
    """What `CRAANet` returns.

    Attributes:
        logits: one per tissue, [B, K]; sigmoid gives the probability that the tissue is in the patch.
        attention: score of each tissue at each position, [B, K, h, w], h = H / output stride, any range;
            `attention_maps` turns it into maps in 0..1.
    """

    logits: Tensor
    attention: Tensor


class CRAANet(nn.Module):
    """Class residual attention accumulation network (Han et al. 2023; residual attention: Zhu & Wu 2021).

    Args:
        encoder: a timm model name, or a full `EncoderConfig`.
        tissues: number of tissues K.
        heads: 1, 2, 4, 6 or 8 residual attention heads with the published temperatures.
        temperatures: temperatures instead of the published ones, one per head.
        residual_weight: weight λ of the attention term; 0 makes it a plain CAM classifier with average pooling.

    Raises:
        ConfigError: if the encoder cannot be built.
    """

    def __init__(
        self,
        encoder: str | EncoderConfig = "resnet50d",
        tissues: int = 4,
        *,
        heads: int = 1,
        temperatures: Sequence[float] | None = None,
        residual_weight: float = 0.3,
    ) -> None:
        super().__init__()
        config = EncoderConfig(name=encoder) if isinstance(encoder, str) else encoder
        self.encoder = Encoder(config)
        chosen = tuple(temperatures) if temperatures is not None else HEAD_TEMPERATURES[heads]
        self.heads = ResidualAttentionHeads(self.encoder.channels[-1], tissues, chosen, residual_weight)
        self.settings: dict[str, Any] = {
            "encoder": config.model_dump(mode="json"),
            "tissues": tissues,
            "temperatures": [str(t) for t in chosen],
            "residual_weight": residual_weight,
        }

    @classmethod
    def from_config(cls, config: CRAANetConfig, tissues: int) -> CRAANet:
        """Build the network that a configuration describes."""
        return cls(
            config.encoder,
            tissues,
            heads=config.heads,
            temperatures=config.temperatures,
            residual_weight=config.residual_weight,
        )

    def forward(self, images: Tensor) -> CRAANetOutput:
        """Classify patches.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
        """
        return CRAANetOutput(*self.heads(self.encoder(images)[-1]))


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
        encoder = EncoderConfig(**{**settings["encoder"], "weights": None, "pretrained": False})
        network = CRAANet(
            encoder,
            settings["tissues"],
            temperatures=[float(t) for t in settings["temperatures"]],
            residual_weight=settings["residual_weight"],
        )
        network.settings = {key: value for key, value in settings.items() if key != "kind"}
        return network

    return load_network_folder(folder, build, kind="CRAANet", device=device)
