"""Image encoders from timm, as a list of feature maps at a chosen output stride, with normalisation inside."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.create_act import get_act_layer
from torch import Tensor, nn

from patch2tissue.config import EncoderConfig
from patch2tissue.errors import ConfigError, DataError

log = logging.getLogger(__name__)


class Encoder(nn.Module):
    """A timm model's feature maps.

    The input is RGB in 0..1; mean and deviation are buffers of the module, so that whoever holds the weights cannot
    normalise wrongly.

    Attributes:
        channels: channels of each feature map, shallow to deep.
        strides: input pixels per position of each feature map; the last is the output stride.

    Args:
        config: name, weights, output stride and options.

    Raises:
        ConfigError: if timm does not know the model, or it has no dilated form with that output stride.
        DataError: if the weights file cannot be read or does not fit.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.model: nn.Module = _create(config)
        info: Any = self.model.feature_info
        self.channels: list[int] = [int(c) for c in info.channels()]
        self.strides: list[int] = [int(r) for r in info.reduction()]
        # what the model was, or would have been, pretrained with; the feature wrapper holds the model itself
        known = getattr(getattr(self.model, "model", self.model), "pretrained_cfg", None) or {}
        mean = config.mean or known.get("mean") or IMAGENET_DEFAULT_MEAN
        std = config.std or known.get("std") or IMAGENET_DEFAULT_STD
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        if config.weights is not None:
            load_encoder_weights(self.model, Path(config.weights), allow_missing=config.allow_missing)

    @property
    def output_stride(self) -> int:
        """Input pixels per position of the deepest feature map."""
        return self.strides[-1]

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps, shallow to deep.

        Args:
            images: float RGB in 0..1, [B, 3, H, W].
        """
        normalised = (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)
        return list(self.model(normalised))


def _create(config: EncoderConfig) -> Any:
    options: dict[str, Any] = dict(config.options)
    if isinstance(options.get("act_layer"), str):
        options["act_layer"] = get_act_layer(options["act_layer"])
    if not timm.is_model(config.name) and "/" not in config.name and not config.name.startswith("hf"):
        similar = timm.list_models(f"*{config.name.split('_')[0]}*")[:5]
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise ConfigError(f"timm has no model '{config.name}'.{hint}")
    attempts: list[dict[str, Any]] = [
        # convolutional networks, dilated to the output stride; `getter` keeps timm's parameter names
        {"output_stride": config.output_stride, "feature_cls": "getter"},
        # families that only have their own feature class, such as MobileNetV3
        {"output_stride": config.output_stride},
        # vision transformers: their own patch grid, at any image size
        {"dynamic_img_size": True, "feature_cls": "getter"},
    ]
    errors = []
    for extra in attempts:
        try:
            model: Any = timm.create_model(
                config.name,
                pretrained=config.pretrained,
                features_only=True,
                **extra,
                **options,
            )
        except (TypeError, AssertionError, NotImplementedError, ValueError, RuntimeError, AttributeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
            continue
        strides: list[int] = model.feature_info.reduction()
        if strides[-1] == config.output_stride or ("output_stride" not in extra and len(set(strides)) == 1):
            return model
        errors.append(f"its output stride is {strides[-1]}")
    raise ConfigError(
        f"The encoder '{config.name}' cannot give feature maps at output stride {config.output_stride} with options "
        f"{config.options or '{}'} ({errors[0]}). Use a ResNet, MobileNet, EfficientNet or ConvNeXt, or a ViT."
    )


def load_encoder_weights(model: nn.Module, path: Path, *, allow_missing: bool = False) -> list[str]:
    """Load a safetensors file with timm's names into a feature model.

    Tensors the feature model does not use (a classifier) are passed over.

    Returns:
        Names of encoder tensors that the file lacks (empty unless `allow_missing`).

    Raises:
        DataError: if the file is missing, not safetensors, of other shapes, or incomplete.
    """
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path}: encoder weights must be a .safetensors file (other formats can run code when loaded)."
        )
    try:
        given: Mapping[str, Tensor] = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot read the encoder's weights: {error}.") from None
    own = model.state_dict()
    given = {name if name in own else f"model.{name}": tensor for name, tensor in given.items()}
    wrong = [n for n, t in given.items() if n in own and own[n].shape != t.shape]
    if wrong:
        raise DataError(
            f"{path}: {len(wrong)} tensors have another shape than the encoder's, first {wrong[0]} "
            f"{tuple(given[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}. Is it another model?"
        )
    fitting = {name: tensor for name, tensor in given.items() if name in own}
    missing = [n for n in own if n not in fitting and not n.endswith("num_batches_tracked")]
    if not fitting or (missing and not allow_missing):
        raise DataError(
            f"{path}: {len(missing)} of the encoder's {len(own)} tensors are not in the file, first {missing[0]}. "
            "Check encoder.name and encoder.options, or set encoder.allow_missing to start these at random."
        )
    if missing:
        log.warning("%s lacks %d of the encoder's tensors; they start at random: %s …", path, len(missing), missing[0])
    model.load_state_dict(fitting, strict=False)
    return missing
