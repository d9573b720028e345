"""Image encoders from timm, as a list of feature maps at a chosen output stride, with normalisation inside."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import timm
import timm.layers
import torch
from timm.data.constants import IMAGENET_DEFAULT_MEAN, IMAGENET_DEFAULT_STD
from timm.layers.create_act import get_act_layer
from timm.models import load_model_config_from_hf
from timm.models._features import FeatureGetterNet
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.batchnorm import _BatchNorm

from patch2tissue.config import EncoderConfig
from patch2tissue.encoder_weights import (
    download_weights,
    explained,
    fitting_weights,
    load_encoder_weights,
    take_weights,
)
from patch2tissue.errors import ConfigError
from patch2tissue.foundation_models import FOUNDATION_MODELS, foundation_model, hub_repository
from patch2tissue.lora import adapt, load_plain_state

log = logging.getLogger(__name__)

_MLP_LAYERS = ("GluMlp", "Mlp", "SwiGLU", "SwiGLUPacked")
"""Layers of timm that `options.mlp_layer` may name."""


class Encoder(nn.Module):
    """A timm model's feature maps.

    The input is RGB in 0..1; mean and deviation are buffers of the module, so that whoever holds the weights cannot
    normalise wrongly. Vision transformers give the tokens of several blocks as maps of one grid; images whose sides are
    no multiples of their patch are enlarged to the next one, so that each map covers the whole image and nothing else.

    Attributes:
        channels: channels of each feature map, shallow to deep.
        strides: input pixels per position of each feature map; the last is the output stride.
        of_tokens: whether all feature maps have one grid, that of a vision transformer.
        config: what was built, with a foundation model's short name replaced by its architecture and options, so that
            it can be built again without the Hub.
        origin: repository and licence of the foundation model that the weights come from; None for others.

    Args:
        config: name, weights, output stride, options, and what is trained.

    Raises:
        ConfigError: if timm does not know the model, it has no dilated form with that output stride, its weights
            cannot be downloaded, or LoRA is asked for without peft.
        DataError: if the weights file cannot be read or does not fit.
    """

    def __init__(self, config: EncoderConfig) -> None:
        super().__init__()
        self.config = resolved(config)
        self.model: nn.Module = _create(self.config, config)
        info: Any = self.model.feature_info
        self.channels: list[int] = [int(c) for c in info.channels()]
        self.strides: list[int] = [int(r) for r in info.reduction()]
        self.of_tokens = hasattr(getattr(self.model, "model", None), "patch_embed") and len(set(self.strides)) == 1
        # what the model was, or would have been, pretrained with; the feature wrapper holds the model itself
        known = getattr(getattr(self.model, "model", self.model), "pretrained_cfg", None) or {}
        mean = self.config.mean or known.get("mean") or IMAGENET_DEFAULT_MEAN
        std = self.config.std or known.get("std") or IMAGENET_DEFAULT_STD
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32)[:, None, None])
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32)[:, None, None])
        self.origin = _fill(self.model, config)
        if config.gradient_checkpointing:
            if not self.of_tokens:
                raise ConfigError(
                    f"encoder.gradient_checkpointing is for vision transformers, not for '{config.name}': set it to "
                    "false, and batch_size smaller if memory is short."
                )
            cast(Any, self.model).model.set_grad_checkpointing(True)
        if config.train == "frozen":
            self.model.requires_grad_(False)
        elif config.train == "lora":
            adapt(self.model, config.lora, config.name)
        self.train(self.training)

    @property
    def output_stride(self) -> int:
        """Input pixels per position of the deepest feature map."""
        return self.strides[-1]

    def normalised(self, images: Tensor) -> Tensor:
        """Images [B, 3, H, W], RGB in 0..1, as the model expects them."""
        return (images - cast(Tensor, self.mean)) / cast(Tensor, self.std)

    def forward(self, images: Tensor) -> list[Tensor]:
        """Return feature maps, shallow to deep.

        Args:
            images: float RGB in 0..1, [B, 3, H, W]; of a vision transformer, maps are [B, C, ⌈H/stride⌉, ⌈W/stride⌉].
        """
        inputs = self.normalised(images)
        if self.of_tokens:
            # no negative numbers: ONNX divides them in another way
            stride = self.output_stride
            height, width = ((side + stride - 1) // stride * stride for side in images.shape[-2:])
            if (height, width) != tuple(images.shape[-2:]):
                inputs = F.interpolate(inputs, size=(height, width), mode="bilinear", align_corners=False)
        if self.config.train != "frozen" or inputs.requires_grad:  # gradients of the image: Grad-CAM
            return list(self.model(inputs))
        with torch.no_grad():  # nothing is kept for a backward pass
            return list(self.model(inputs))

    def train(self, mode: bool = True) -> Encoder:
        """Frozen models stay in evaluation mode; adapted ones keep the statistics of their batch normalisations."""
        super().train(mode)
        if self.config.train == "frozen":
            self.model.eval()
        elif self.config.train == "lora":
            for module in self.model.modules():
                if isinstance(module, _BatchNorm):
                    module.eval()
        return self

    def load_plain(self, state: dict[str, Tensor]) -> None:
        """Load the encoder of a saved network, see `lora.load_plain_state`."""
        load_plain_state(self, state)


def resolved(config: EncoderConfig) -> EncoderConfig:
    """The configuration with timm's own name of the architecture, all its options, and where it starts left as it is.

    Raises:
        ConfigError: if the name is in the Hub and what it stands for cannot be asked for there.
    """
    model = foundation_model(config.name)
    if model is not None:
        options = {**model.options, **config.options}
        options.setdefault("out_indices", model.out_indices(int(options.get("depth", model.depth))))
        update = {
            "name": model.architecture,
            "options": options,
            "mean": config.mean or model.mean,
            "std": config.std or model.std,
            "final_norm": True if config.final_norm is None else config.final_norm,
        }
        return config.model_copy(update=update)
    repository = hub_repository(config.name)
    if repository is None:
        return config
    with explained(config.name):
        known, name, options = load_model_config_from_hf(repository)
    update = {
        "name": name,
        "options": {**(options or {}), **config.options},
        "mean": config.mean or tuple(known.get("mean") or ()) or None,
        "std": config.std or tuple(known.get("std") or ()) or None,
    }
    return config.model_copy(update=update)


def load_config(settings: dict[str, Any]) -> EncoderConfig:
    """The encoder that a saved network was built with, to be filled with its weights: no download, nothing frozen.

    Raises:
        ConfigError: if it names a repository of the Hub, which saved networks do not and which would be asked.
    """
    if hub_repository(str(settings.get("name"))) is not None:
        raise ConfigError(f"encoder.name is '{settings['name']}', and nobody is asked what that is")
    plain = {"weights": None, "pretrained": False, "train": "all", "gradient_checkpointing": False}
    return EncoderConfig(**{**settings, **plain})


def check_weights(name: str, tensors: Mapping[str, Tensor], source: str) -> None:
    """Check that tensors are all weights of an encoder, without taking memory for the encoder.

    Args:
        name: a foundation model's or timm's name.
        tensors: under timm's names.
        source: where they come from, for messages.

    Raises:
        ConfigError: if there is no such encoder.
        DataError: if they do not fit it.
    """
    config = EncoderConfig(name=name, output_stride=32)
    with torch.device("meta"):
        model = _create(resolved(config), config)
    fitting_weights(model, tensors, source)


def _create(config: EncoderConfig, asked: EncoderConfig) -> Any:
    """Build a feature model; weights are downloaded here unless the model is a foundation model, see `_fill`."""
    options = _options(config)
    if not timm.is_model(config.name) and "/" not in config.name and not config.name.startswith("hf"):
        similar = timm.list_models(f"*{config.name.split('_')[0]}*")[:5]
        similar += [name for name in FOUNDATION_MODELS if name[:3] == config.name.lower()[:3]]
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise ConfigError(f"timm has no model '{config.name}'.{hint}")
    download = config.pretrained and foundation_model(asked.name) is None
    name = asked.name if download and hub_repository(asked.name) is not None else config.name
    if config.final_norm:
        return _tokens(name, options, pretrained=download)
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
            with explained(name):
                model: Any = timm.create_model(name, pretrained=download, features_only=True, **{**options, **extra})
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


def _options(config: EncoderConfig) -> dict[str, Any]:
    """Arguments of timm, with layers instead of their names."""
    options: dict[str, Any] = dict(config.options)
    if isinstance(options.get("act_layer"), str):
        options["act_layer"] = get_act_layer(options["act_layer"])
    layer = options.get("mlp_layer")
    if isinstance(layer, str):
        if layer not in _MLP_LAYERS:
            raise ConfigError(f"encoder.options.mlp_layer is '{layer}'. Use one of {', '.join(_MLP_LAYERS)}.")
        options["mlp_layer"] = getattr(timm.layers, layer)
    return options


def _tokens(name: str, options: dict[str, Any], *, pretrained: bool) -> Any:
    """A vision transformer whose feature maps are normalised by its last norm, as its class token would be."""
    indices = options.pop("out_indices", 3)
    try:
        with explained(name):
            model = timm.create_model(
                name, pretrained=pretrained, **{"num_classes": 0, **options, "dynamic_img_size": True}
            )
        if not hasattr(model, "blocks"):
            raise TypeError("it has no blocks")
        return FeatureGetterNet(model, out_indices=indices, norm=True)
    except (TypeError, AssertionError, ValueError, RuntimeError, AttributeError) as error:
        raise ConfigError(
            f"The encoder '{name}' cannot give normalised feature maps ({error}). encoder.final_norm is for vision "
            "transformers; leave it out for others, and check encoder.options."
        ) from None


def _fill(model: nn.Module, config: EncoderConfig) -> dict[str, str] | None:
    """Load what the configuration names: a local file, or a foundation model's weights from the Hub; see `origin`."""
    known = foundation_model(config.name)
    if config.weights is not None:
        load_encoder_weights(model, Path(config.weights), allow_missing=config.allow_missing)
    elif config.pretrained and known is not None:
        take_weights(model, download_weights(known), known.page, allow_missing=config.allow_missing)
    else:
        return None
    if known is None:
        return None
    if not known.commercial:
        log.warning(
            "the weights of %s are under the licence %s, for non-commercial use, and so is what is trained with them",
            known.name,
            known.licence,
        )
    return {"repository": known.repository, "licence": known.licence}
