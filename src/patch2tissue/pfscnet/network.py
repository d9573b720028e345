"""PFSCNet: a dilated residual encoder, an atrous multi-scale module, a decoder, and a pixel feature space.

Published: dilated residual network with a multi-scale feature-aware module (Han et al. 2023). Our reading: a
DeepLabv3+ decoder with its atrous spatial pyramid (Chen et al. 2018), from segmentation-models-pytorch.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor, nn
from torch.nn import functional as F

from patch2tissue.config import EncoderConfig, RunConfig
from patch2tissue.encoders import Encoder, load_config
from patch2tissue.errors import ConfigError
from patch2tissue.pfscnet.token_decoder import FineFeatures, TokenDecoder
from patch2tissue.weights import load_network_folder, save_network_folder


class PFSCNetOutput(NamedTuple):
    """What `PFSCNet` returns.

    Attributes:
        logits: [B, K, H, W]; softmax over tissues gives probabilities.
        embedding: unit vectors of the pixel feature space, [B, D, H/4, W/4].
    """

    logits: Tensor
    embedding: Tensor


class _WholeGradient(nn.Module):
    """Passes features on; their gradient is laid out anew, since it comes as a part of a larger one.

    The gradient of the upsampling takes ten times as long on such a part.
    """

    def forward(self, features: Tensor) -> Tensor:
        if features.requires_grad:
            features.register_hook(lambda gradient: gradient.contiguous(memory_format=torch.channels_last))
        return features


class PFSCNet(nn.Module):
    """Pixel feature space construction network.

    Args:
        encoder: a timm model name, or a full `EncoderConfig`: a convolutional network (output stride 8 or 16), or a
            vision transformer, whose fine features `token_decoder` makes.
        tissues: number of tissues K.
        decoder_channels: channels of the decoder.
        embedding_dimensions: size D of the pixel embedding.
        atrous_rates: dilations of the multi-scale module's three atrous branches.

    Raises:
        ConfigError: if a convolutional encoder has no feature map at stride 4, or another output stride than 8 or 16.
    """

    def __init__(
        self,
        encoder: str | EncoderConfig = "resnet50d",
        tissues: int = 4,
        *,
        decoder_channels: int = 256,
        embedding_dimensions: int = 128,
        atrous_rates: Sequence[int] = (6, 12, 18),
    ) -> None:
        super().__init__()
        config = EncoderConfig(name=encoder) if isinstance(encoder, str) else encoder
        self.encoder = Encoder(config)
        stride = self.encoder.output_stride
        self.detail: FineFeatures | None = None
        if self.encoder.of_tokens:
            self.fine = 0
            self.detail = FineFeatures(self.encoder.channels[0])
            fine_channels = self.detail.channels
        elif stride in (8, 16) and 4 in self.encoder.strides:
            self.fine = self.encoder.strides.index(4)
            fine_channels = self.encoder.channels[self.fine]
        else:
            raise ConfigError(
                f"PFSCNet cannot use the encoder '{config.name}': it needs feature maps at strides 4 and 8 or 16, and "
                f"has {self.encoder.strides}. Give pfscnet.encoder a convolutional network with output_stride 8 or 16, "
                "or a vision transformer."
            )
        channels = [0, 0, fine_channels, 0, self.encoder.channels[-1]]
        self.decoder = (TokenDecoder if self.encoder.of_tokens else DeepLabV3PlusDecoder)(
            encoder_channels=channels,
            encoder_depth=4,
            out_channels=decoder_channels,
            atrous_rates=tuple(atrous_rates),
            output_stride=16 if self.encoder.of_tokens else stride,
            # dense atrous convolutions: as in DeepLabv3, and faster in bfloat16 on a CPU than separable ones
            aspp_separable=False,
            aspp_dropout=0.1,
        )
        self.decoder.up = nn.Sequential(self.decoder.up, _WholeGradient())
        self.classifier = nn.Conv2d(decoder_channels, tissues, 1)
        self.embedding_head = nn.Sequential(
            nn.Conv2d(decoder_channels, decoder_channels, 1),
            nn.ReLU(),
            nn.Conv2d(decoder_channels, embedding_dimensions, 1),
        )
        self.settings: dict[str, Any] = {
            "encoder": self.encoder.config.model_dump(mode="json"),
            "tissues": tissues,
            "decoder_channels": decoder_channels,
            "embedding_dimensions": embedding_dimensions,
            "atrous_rates": list(atrous_rates),
        }
        if self.encoder.origin is not None:
            self.settings["encoder_origin"] = self.encoder.origin

    @classmethod
    def from_config(cls, config: RunConfig, tissues: int) -> PFSCNet:
        """Build the network that a run's configuration describes."""
        return cls(
            config.stage2_encoder(),
            tissues,
            decoder_channels=config.pfscnet.decoder_channels,
            embedding_dimensions=config.pfscnet.contrast.dimensions,
            atrous_rates=config.pfscnet.atrous_rates,
        )

    def forward(self, images: Tensor) -> PFSCNetOutput:
        """Segment images of any size.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
        """
        decoded = self._decoded(self._features(images))
        embedding = F.normalize(self.embedding_head(decoded).float(), dim=1)
        return PFSCNetOutput(self._logits(decoded, images), embedding)

    def segment(self, images: Tensor) -> Tensor:
        """The logits of `forward` without the embedding, which only training needs."""
        return self.segment_with_features(images)[0]

    def segment_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits [B, K, H, W], and the encoder's features at stride 4 that they come from, see `fine_features`."""
        features = self._features(images)
        return self._logits(self._decoded(features), images), features[self.fine]

    def fine_features(self, images: Tensor) -> Tensor:
        """The encoder's features at stride 4: [B, C, h, w] where h is ⌈H/4⌉ or, by padding, a little more."""
        return self._features(images)[self.fine]

    def _features(self, images: Tensor) -> list[Tensor]:
        """Features of images that are padded to a multiple of the output stride; a transformer enlarges them itself."""
        if self.detail is not None:
            tokens = self.encoder(images)
            return [self.detail(self.encoder.normalised(images), tokens[0]), *tokens]
        stride = self.encoder.output_stride
        below, right = -images.shape[-2] % stride, -images.shape[-1] % stride
        padded = F.pad(images, (0, right, 0, below), mode="replicate") if below or right else images
        features: list[Tensor] = self.encoder(padded)
        return features

    def _decoded(self, features: list[Tensor]) -> Tensor:
        decoded: Tensor = self.decoder([None, None, features[self.fine], features[-1]])
        return decoded

    def _logits(self, decoded: Tensor, images: Tensor) -> Tensor:
        height, width = images.shape[-2:]
        stride = 1 if self.encoder.of_tokens else self.encoder.output_stride
        size = (height + -height % stride, width + -width % stride)
        logits = F.interpolate(self.classifier(decoded).float(), size=size, mode="bilinear", align_corners=False)
        return logits[..., :height, :width]


def save_pfscnet(network: PFSCNet, folder: Path) -> None:
    """Write `weights.safetensors` and `network.json`."""
    save_network_folder(network, network.settings, folder, kind="PFSCNet")


def load_pfscnet(folder: Path, device: torch.device | str = "cpu") -> PFSCNet:
    """Read a network that `save_pfscnet` wrote, ready for inference.

    Raises:
        DataError: if the folder holds no PFSCNet or its files do not fit each other.
    """

    def build(settings: dict[str, Any]) -> PFSCNet:
        # the weights come from the folder, not from where the encoder once started
        encoder = load_config(settings["encoder"])
        network = PFSCNet(
            encoder,
            settings["tissues"],
            decoder_channels=settings["decoder_channels"],
            embedding_dimensions=settings["embedding_dimensions"],
            atrous_rates=settings["atrous_rates"],
        )
        network.settings = {key: value for key, value in settings.items() if key != "kind"}
        return network

    return load_network_folder(folder, build, kind="PFSCNet", device=device)
