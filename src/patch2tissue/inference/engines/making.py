"""From the name of an engine to the engine."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from patch2tissue.errors import ConfigError
from patch2tissue.inference.engines.engine import ENGINES, Engine
from patch2tissue.inference.folding import folded


def make_engine(
    name: str,
    network: Any,
    *,
    device: torch.device,
    dtype: torch.dtype | None,
    features: bool,
) -> Engine:
    """Make ready to compute a network, its batch normalisations folded.

    Args:
        name: see `InferenceConfig.engine`; `auto` is torch, since it needs nothing else and draws what training drew.
        network: in evaluation mode, on the device; it stays as it is.
        device: where to compute.
        dtype: autocast type, None for float32.
        features: whether `segment_with_features` will be called; else only `segment` will be.

    Raises:
        ConfigError: if the engine is not installed, cannot use the device, or cannot compile the network.
    """
    if name not in ENGINES:
        raise ConfigError(f"Unknown engine '{name}'. Use {', '.join(ENGINES)}.")
    fused: Any = folded(network, _through)
    if name in ("auto", "torch"):
        plain: Engine = fused
        return plain
    if name == "compile":
        from patch2tissue.inference.engines.compiled import CompiledEngine

        return CompiledEngine(fused, device=device, features=features)
    if device.type != "cpu":
        raise ConfigError(
            f"inference.engine '{name}' computes on the CPU only, but the device is {device.type}. Use the engine "
            "torch or compile, or set hardware.device to cpu."
        )
    if name == "onnxruntime":
        from patch2tissue.inference.engines.onnx_runtime import OnnxRuntimeEngine

        return OnnxRuntimeEngine(fused, features=features)
    from patch2tissue.inference.engines.open_vino import OpenVinoEngine

    return OpenVinoEngine(fused, dtype=dtype, features=features)


def _through(network: Any, images: Tensor) -> object:
    """Send images through a network; those of comparisons may have no features to give."""
    return getattr(network, "segment_with_features", network.segment)(images)
