"""What PFSCNet puts in the place of fine feature maps where the encoder is a vision transformer, which has none.

Our reading throughout. A transformer's maps all have the grid of its patches, 14 or 16 pixels wide, and edges of tissue
are finer. That a few convolutions of the image beside a plain transformer bring detail back is known (Yao et al.,
ViTMatte, Information Fusion 2024); here they are joined with the shallowest map of tokens, enlarged.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from segmentation_models_pytorch.decoders.deeplabv3.decoder import DeepLabV3PlusDecoder
from torch import Tensor, nn
from torch.nn import functional as F


class FineFeatures(nn.Module):
    """Features at stride 4: two strided convolutions of the image, and tokens projected and enlarged.

    Args:
        token_channels: channels of the map of tokens.
        channels: channels of each of the two halves.
    """

    def __init__(self, token_channels: int, channels: int = 64) -> None:
        super().__init__()
        self.detail = nn.Sequential(*_halved(3, channels // 2), *_halved(channels // 2, channels))
        self.tokens = nn.Conv2d(token_channels, channels, 1)
        self.channels = 2 * channels

    def forward(self, images: Tensor, tokens: Tensor) -> Tensor:
        """Return features [B, 2·channels, ⌈H/4⌉, ⌈W/4⌉].

        Args:
            images: normalised as the encoder takes them, [B, 3, H, W].
            tokens: a map of tokens of the whole image, [B, C, h, w].
        """
        detail = self.detail(images)
        return torch.cat([detail, _enlarged(self.tokens(tokens), detail)], dim=1)


class TokenDecoder(DeepLabV3PlusDecoder):  # type: ignore[misc]
    """The DeepLabv3+ decoder for a deepest map of any stride: it is enlarged to the grid of the fine features.

    Pixel centres are aligned, so that a position of the one grid lies where it lies in the other.
    """

    def forward(self, features: Sequence[Tensor]) -> Tensor:
        """Return decoded features on the grid of `features[2]`; see the base class."""
        fine = self.block1(features[2])
        decoded: Tensor = self.block2(torch.cat([_enlarged(self.aspp(features[-1]), fine), fine], dim=1))
        return decoded


def _halved(inputs: int, outputs: int) -> list[nn.Module]:
    return [nn.Conv2d(inputs, outputs, 3, stride=2, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()]


def _enlarged(maps: Tensor, like: Tensor) -> Tensor:
    return F.interpolate(maps, size=like.shape[-2:], mode="bilinear", align_corners=False)
