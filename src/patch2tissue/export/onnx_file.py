"""The network as an ONNX file for images of any size, compared with PyTorch by ONNX Runtime."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patch2tissue.errors import Patch2TissueError
from patch2tissue.export.checking import compare
from patch2tissue.export.graph import INPUT, OUTPUT, tissue_probabilities
from patch2tissue.inference.engines.exporting import exported_program
from patch2tissue.optional import optional_import
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.plain_files import reason


def _package(name: str) -> ModuleType:
    return optional_import(name, "--to onnx", "onnx", otherwise=", or export to torchscript")


def need_onnx() -> None:
    """Import what the export and its check need.

    Raises:
        ConfigError: if a package is missing.
    """
    for name in ("onnx", "onnxscript", "onnxruntime"):
        _package(name)


def write_onnx(path: Path, network: PFSCNet, temperature: float, description: Mapping[str, Any]) -> dict[str, Any]:
    """Write an ONNX file and compare it with the run's network.

    Batch, height and width are dynamic. The description is in `metadata_props`: each of its entries under its name,
    texts as they are and everything else as JSON.

    Args:
        path: the file.
        network: the run's, on the CPU.
        temperature: see `TissueProbabilities`.
        description: kept in the file.

    Returns:
        See `checking.compare`, the opset, and the versions of ONNX Runtime and PyTorch.

    Raises:
        ConfigError: if a package is missing.
        Patch2TissueError: if the network cannot be exported, or the result differs from it.
    """
    onnx, runtime = _package("onnx"), _package("onnxruntime")
    _package("onnxscript")
    dimensions = {0: torch.export.Dim("batch"), 2: torch.export.Dim("height"), 3: torch.export.Dim("width")}
    try:
        model: Any = exported_program(
            tissue_probabilities(network, temperature), torch.zeros(2, 3, 97, 130), dimensions, [INPUT], [OUTPUT]
        ).model_proto
    except Exception as error:  # exporters raise every kind
        raise Patch2TissueError(
            f"The network cannot be exported to ONNX ({reason(error)[:200]}). Export to torchscript instead."
        ) from None
    # the exporter writes formulas of the padding there
    for place, name in enumerate(("batch", None, "height", "width")):
        if name is not None:
            model.graph.output[0].type.tensor_type.shape.dim[place].dim_param = name
    _strip(model.graph)
    model.producer_name, model.producer_version = "patch2tissue", str(description["patch2tissue"])
    onnx.helper.set_model_props(
        model,
        {key: value if isinstance(value, str) else json.dumps(value) for key, value in description.items()},
    )
    onnx.checker.check_model(model)
    content = model.SerializeToString()
    options = runtime.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors
    session = runtime.InferenceSession(content, options, providers=["CPUExecutionProvider"])

    def run(images: Tensor) -> np.ndarray:
        return np.asarray(session.run([OUTPUT], {INPUT: images.numpy()})[0])

    facts = compare("ONNX", run, network, temperature)
    path.write_bytes(content)
    opset = next(one.version for one in model.opset_import if one.domain in ("", "ai.onnx"))
    return {**facts, "opset": opset, "onnxruntime": runtime.__version__, "torch": torch.__version__}


def _strip(graph: Any) -> None:
    """Take away where each node came from: the exporter writes down source lines, with paths of this machine."""
    for part in (graph.node, graph.input, graph.output, graph.value_info, graph.initializer):
        for one in part:
            one.ClearField("metadata_props")
            one.ClearField("doc_string")
    graph.ClearField("metadata_props")
    graph.ClearField("doc_string")
