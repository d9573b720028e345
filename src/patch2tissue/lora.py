"""Low-rank adaptation (Hu et al., LoRA, ICLR 2022) of an encoder, through peft, and its way back to plain weights.

A layer's weight `W` stays as it is; `W + (alpha / rank) · B·A` is used, and only `A` and `B` are trained. Once trained
the sum takes the place of `W`, so that nothing after training needs peft.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from patch2tissue.config import LoRAConfig
from patch2tissue.errors import ConfigError
from patch2tissue.optional import optional_import

_BASE = ".base_layer."


def adapt(model: nn.Module, config: LoRAConfig, name: str) -> None:
    """Add low-rank changes to a model's layers, in place; all its own parameters become frozen.

    Args:
        model: a feature model of timm.
        config: rank, scale, dropout and which layers.
        name: of the model, for messages.

    Raises:
        ConfigError: if peft is not installed, or no layer is named as `targets` says.
    """
    instead = ", or set encoder.train to 'frozen' or 'all'"
    peft: Any = optional_import("peft", "encoder.train 'lora'", "lora", otherwise=instead)
    settings = peft.LoraConfig(
        r=config.rank, lora_alpha=config.alpha, lora_dropout=config.dropout, target_modules=list(config.targets)
    )
    try:
        peft.inject_adapter_in_model(settings, model)
    except ValueError as error:
        layers = sorted({".".join(n.split(".")[-2:]) for n, m in model.named_modules() if isinstance(m, nn.Linear)})
        raise ConfigError(
            f"encoder.lora.targets {config.targets} cannot be adapted in the encoder '{name}' "
            f"({str(error).splitlines()[0]}). Its linear layers end in {', '.join(layers) or 'none'}."
        ) from None


def adapted_layers(module: nn.Module) -> dict[str, Any]:
    """Layers with a low-rank change, by name."""
    return {
        name: layer
        for name, layer in module.named_modules()
        if hasattr(layer, "base_layer") and hasattr(layer, "get_delta_weight")
    }


@torch.no_grad()
def plain_state(module: nn.Module) -> dict[str, Tensor]:
    """The module's state dict with low-rank changes added to the weights, under the names it had without them."""
    state: dict[str, Tensor] = module.state_dict()
    for name, layer in adapted_layers(module).items():
        own = {key for key in state if key.startswith(f"{name}.")}
        base = {key.removeprefix(f"{name}{_BASE}"): state[key] for key in own if key.startswith(f"{name}{_BASE}")}
        base["weight"] = base["weight"] + layer.get_delta_weight("default").to(base["weight"])
        for key in own:
            del state[key]
        state |= {f"{name}.{key}": tensor for key, tensor in base.items()}
    return state


def load_plain_state(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `plain_state` gives; low-rank changes of the module stay, on top of the weights loaded.

    Raises:
        RuntimeError: if it does not fit.
    """
    layers = adapted_layers(module)
    named = {}
    for key, tensor in state.items():
        layer, _, last = key.rpartition(".")
        named[f"{layer}{_BASE}{last}" if layer in layers else key] = tensor
    missing, unexpected = module.load_state_dict(named, strict=False)
    changes = tuple(f"{name}.lora_" for name in layers)
    missing = [name for name in missing if not name.startswith(changes or (" ",))]
    if missing or unexpected:
        raise RuntimeError(f"missing {missing[:3]}, unexpected {unexpected[:3]}")
