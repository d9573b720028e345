"""A network as an ONNX model in memory, for images of any size."""

from __future__ import annotations

import copy
import logging
import warnings

import torch
from torch import nn

from patch2tissue.errors import ConfigError
from patch2tissue.inference.engines.engine import MULTIPLE, BothOutputs, optional_package


def onnx_model(network: nn.Module, engine: str, extra: str, *, features: bool) -> bytes:
    """Export a network in float32.

    Args:
        network: in evaluation mode, on the CPU.
        engine: that the model is for; messages name it.
        extra: of patch2tissue that brings what the export needs.
        features: the second output is the encoder's features at stride 4; else logits are the only one.

    Returns:
        The model: one input [B, 3, H, W] with sides that are multiples of 32.

    Raises:
        ConfigError: if a package is missing, or the network cannot be exported.
    """
    for package in ("onnx", "onnxscript"):
        optional_package(package, engine, extra)
    # in torch's usual layout: the exporter need not know of another one
    plain = copy.deepcopy(network).to(memory_format=torch.contiguous_format)
    example = torch.zeros(2, 3, 4 * MULTIPLE, 3 * MULTIPLE)
    height, width = (MULTIPLE * torch.export.Dim(name) for name in ("rows", "columns"))
    told = logging.getLogger("torch.onnx")
    level = told.level
    try:
        told.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                BothOutputs(plain, features=features).eval(),
                (example,),
                dynamo=True,
                dynamic_shapes=({0: torch.export.Dim("batch"), 2: height, 3: width},),
                verbose=False,
            )
        assert program is not None
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # exporters raise every kind
        told_first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"inference.engine is '{engine}', but the network cannot be exported to ONNX ({told_first[:200]}). Use the "
            "engine torch."
        ) from None
    finally:
        told.setLevel(level)
    return content
