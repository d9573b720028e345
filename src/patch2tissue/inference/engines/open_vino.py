"""OpenVINO on the CPU, in bfloat16 where the run computes in it."""

from __future__ import annotations

import sys
from types import ModuleType

import torch
from torch import Tensor, nn

from patch2tissue.errors import ConfigError
from patch2tissue.inference.engines.engine import OutputsEngine, optional_package
from patch2tissue.inference.engines.exporting import onnx_model


class OpenVinoEngine(OutputsEngine):
    """Computes an exported network with OpenVINO.

    Args:
        network: in evaluation mode, on the CPU.
        dtype: bfloat16, or None for float32.
        features: whether features are asked for, too.

    Raises:
        ConfigError: if a package is missing, or OpenVINO cannot read the network.
    """

    def __init__(self, network: nn.Module, *, dtype: torch.dtype | None, features: bool) -> None:
        library = _library()
        model = onnx_model(network, "openvino", "openvino", features=features)
        settings = {
            "INFERENCE_PRECISION_HINT": "bf16" if dtype is torch.bfloat16 else "f32",
            "PERFORMANCE_HINT": "LATENCY",  # one batch after the other, all threads on each
            "INFERENCE_NUM_THREADS": torch.get_num_threads(),
        }
        try:
            core = library.Core()
            self._compiled = core.compile_model(core.read_model(model), "CPU", settings)
        except RuntimeError as error:
            told = str(error).strip().splitlines()[-1]
            raise ConfigError(
                f"inference.engine is 'openvino', but OpenVINO cannot use the network ({told[:200]}). Use the engine "
                "torch."
            ) from None

    def _run(self, images: Tensor) -> list[Tensor]:
        # a request of its own for each call, so that threads do not share one
        found = self._compiled.create_infer_request().infer([images.float().contiguous().numpy()])
        return [torch.from_numpy(found[place]) for place in range(len(self._compiled.outputs))]


def _library() -> ModuleType:
    """Import OpenVINO without `openvino_telemetry`, which would tell its makers over the network that it was imported.

    OpenVINO does without that package where it cannot be imported.
    """
    if "openvino" not in sys.modules:
        known = sys.modules.get("openvino_telemetry")
        sys.modules["openvino_telemetry"] = None  # type: ignore[assignment]
        try:
            return optional_package("openvino", "openvino", "openvino")
        finally:
            del sys.modules["openvino_telemetry"]
            if known is not None:
                sys.modules["openvino_telemetry"] = known
    return optional_package("openvino", "openvino", "openvino")
