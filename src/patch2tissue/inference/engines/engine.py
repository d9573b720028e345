"""The interface of engines, and the engine that is plain torch."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import ModuleType
from typing import Any, Protocol, get_args

from torch import Tensor, nn

from patch2tissue.config import InferenceConfig
from patch2tissue.optional import optional_import

ENGINES: tuple[str, ...] = get_args(InferenceConfig.model_fields["engine"].annotation)
"""Values of `inference.engine`."""

MULTIPLE = 32
"""Sides of images are multiples of this: `predict_batch` pads them so."""


class Engine(Protocol):
    """Computes a network for images of any size."""

    def segment(self, images: Tensor) -> Tensor:
        """Logits [B, K, H, W] of images, float RGB in 0..1, [B, 3, H, W], whose sides are multiples of 32."""
        ...

    def segment_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Logits, and the encoder's features at stride 4, see `PFSCNet.segment_with_features`."""
        ...


class OutputsEngine(ABC):
    """An engine of what computes both outputs in one call."""

    @abstractmethod
    def _run(self, images: Tensor) -> Sequence[Tensor]:
        """What `BothOutputs` gives."""

    def segment(self, images: Tensor) -> Tensor:
        """See `Engine`."""
        return self._run(images)[0]

    def segment_with_features(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """See `Engine`."""
        logits, fine = self._run(images)
        return logits, fine


class BothOutputs(nn.Module):
    """A network whose `forward` gives what an engine gives, to be handed to a compiler.

    Args:
        network: with `segment` and `segment_with_features`.
        features: give the features, too.
    """

    def __init__(self, network: nn.Module, *, features: bool) -> None:
        super().__init__()
        self.network, self.features = network, features

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Logits, and if asked for features."""
        network: Any = self.network
        if self.features:
            logits, fine = network.segment_with_features(images)
            return logits.float(), fine
        return (network.segment(images).float(),)


def optional_package(name: str, engine: str, extra: str) -> ModuleType:
    """Import a package that is not among the dependencies.

    Args:
        name: of the package.
        engine: that needs it.
        extra: of patch2tissue, which brings it.

    Raises:
        ConfigError: if it is not installed, or cannot be loaded.
    """
    return optional_import(name, f"inference.engine '{engine}'", extra, otherwise=", or use the engine torch")
