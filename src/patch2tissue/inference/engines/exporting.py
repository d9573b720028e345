"""A network as an ONNX model in memory, for images of any size."""

from __future__ import annotations

import copy
import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

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
    shapes = {0: torch.export.Dim("batch"), 2: height, 3: width}
    try:
        program = exported_program(BothOutputs(plain, features=features).eval(), example, shapes)
        content: bytes = program.model_proto.SerializeToString()
    except Exception as error:  # exporters raise every kind
        told_first = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise ConfigError(
            f"inference.engine is '{engine}', but the network cannot be exported to ONNX ({told_first[:200]}). Use the "
            "engine torch."
        ) from None
    return content


def exported_program(
    module: nn.Module,
    example: Tensor,
    shapes: dict[int, Any],
    inputs: Sequence[str] | None = None,
    outputs: Sequence[str] | None = None,
) -> torch.onnx.ONNXProgram:
    """Export a module of one input quietly; errors are those of the exporter, of every kind.

    Args:
        module: in evaluation mode, on the CPU.
        example: of its input.
        shapes: the input's dynamic dimensions.
        inputs: name of the input.
        outputs: names of the outputs.
    """
    told = logging.getLogger("torch.onnx")
    level = told.level
    try:
        told.setLevel(logging.ERROR)
        with warnings.catch_warnings(), torch.no_grad():
            warnings.simplefilter("ignore")
            program = torch.onnx.export(
                module,
                (example,),
                dynamo=True,
                dynamic_shapes=(shapes,),
                input_names=inputs,
                output_names=outputs,
                verbose=False,
            )
    finally:
        told.setLevel(level)
    assert program is not None
    return program
