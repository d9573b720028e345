"""What computes a trained network in inference: torch, torch.compile, ONNX Runtime or OpenVINO, one interface."""

from patch2tissue.inference.engines.engine import ENGINES, Engine
from patch2tissue.inference.engines.making import make_engine

__all__ = ["ENGINES", "Engine", "make_engine"]
