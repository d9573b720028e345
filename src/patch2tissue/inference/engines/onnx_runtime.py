"""ONNX Runtime on the CPU, always in float32: its convolutions know no bfloat16 there."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from patch2tissue.inference.engines.engine import OutputsEngine, optional_package
from patch2tissue.inference.engines.exporting import onnx_model


class OnnxRuntimeEngine(OutputsEngine):
    """Computes an exported network with ONNX Runtime.

    Args:
        network: in evaluation mode, on the CPU.
        features: whether features are asked for, too.

    Raises:
        ConfigError: if a package is missing, or the network cannot be exported.
    """

    def __init__(self, network: nn.Module, *, features: bool) -> None:
        runtime = optional_package("onnxruntime", "onnxruntime", "onnx")
        options = runtime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        options.log_severity_level = 3  # errors
        model = onnx_model(network, "onnxruntime", "onnx", features=features)
        self._session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
        self._input = self._session.get_inputs()[0].name

    def _run(self, images: Tensor) -> list[Tensor]:
        found = self._session.run(None, {self._input: images.float().contiguous().numpy()})
        return [torch.from_numpy(values) for values in found]
