"""torch.compile: the network's operations fused by torch's own compiler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from patch2tissue.errors import ConfigError
from patch2tissue.inference.engines.engine import BothOutputs, OutputsEngine


class CompiledEngine(OutputsEngine):
    """Compiles when images of a new height and width come, which takes some 10 seconds.

    A batch of one image, and sizes beyond those that torch compiles (8), go through plain torch.

    Args:
        network: in evaluation mode.
        device: where it is.
        features: whether features are asked for, too.

    Raises:
        ConfigError: if there is no compiler, or it fails; also from the methods.
    """

    def __init__(self, network: nn.Module, *, device: torch.device, features: bool) -> None:
        self._plain = BothOutputs(network, features=features).eval()
        self._compiled = torch.compile(self._plain)
        _guarded(torch.compile(_small), torch.zeros(8, device=device))  # so that a missing compiler is told of now

    def _run(self, images: Tensor) -> Sequence[Tensor]:
        if len(images) == 1:  # torch would compile the network once more for it
            plain: tuple[Tensor, ...] = self._plain(images)
            return plain
        torch._dynamo.mark_dynamic(images, 0)
        # symbolic sides do not compile: torch lacks the remainder of a symbolic number by a stride
        torch._dynamo.mark_static(images, 2)
        torch._dynamo.mark_static(images, 3)
        compiled: tuple[Tensor, ...] = _guarded(self._compiled, images)
        return compiled


def _small(values: Tensor) -> Tensor:
    return values.relu() + 1


def _guarded(function: Callable[[Tensor], Any], values: Tensor) -> Any:
    """Call what was compiled; what goes wrong in compiling is an error of the configuration."""
    from torch._dynamo.exc import TorchDynamoException  # slow to import
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        return function(values)
    except (TorchDynamoException, InvalidCxxCompiler) as error:
        lines = [line.strip() for line in str(error).splitlines() if line.strip() and "TORCHDYNAMO" not in line]
        told = " ".join(lines[:2]) or type(error).__name__
        raise ConfigError(
            f"inference.engine is 'compile', but this cannot be compiled here ({told[:200]}). It needs a C++ compiler "
            "such as g++, on a GPU also Triton. Install what is missing, or use the engine torch."
        ) from None
