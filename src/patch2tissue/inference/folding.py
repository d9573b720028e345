"""Batch normalisation folded into the convolutions before it: one pass over memory less for each, in inference only.

Which pairs there are is seen by watching one small image go through: a normalisation is folded if its input is the
output of a convolution that nothing else reads. So it does not matter how a network is written. (torch.fx's own pass
needs networks without branches, and misses the normalisations of timm that hold an activation.)
"""

from __future__ import annotations

import copy
import logging
from collections import Counter
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from timm.layers.conv2d_same import Conv2dSame
from timm.layers.norm_act import BatchNormAct2d
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves

log = logging.getLogger(__name__)

Module = TypeVar("Module", bound=nn.Module)

_CONVOLUTIONS = (nn.Conv2d, Conv2dSame)
"""Exactly these: others change their weights before use."""

_NORMALISATIONS = (nn.BatchNorm2d, BatchNormAct2d)

_SIDE = 64


def folded(network: Module, forward: Callable[[Module, Tensor], object]) -> Module:
    """A copy of a network without those batch normalisations that its convolutions can take over.

    Args:
        network: in evaluation mode; it stays as it is.
        forward: sends images float [1, 3, H, W] through such a network.

    Returns:
        A copy whose float32 outputs are the same but for rounding; the network itself if nothing can be folded.
    """
    device = next((parameter.device for parameter in network.parameters()), torch.device("cpu"))
    images = torch.rand(1, 3, _SIDE, _SIDE, generator=torch.Generator().manual_seed(0)).to(device)
    if not any(type(module) in _NORMALISATIONS for module in network.modules()):
        return network
    pairs = _pairs(network, lambda: forward(network, images))
    if not pairs:
        return network
    # weights are shared, but for the convolutions that are made anew: a large encoder is in memory once
    fused = copy.deepcopy(network, {id(weight): weight for weight in (*network.parameters(), *network.buffers())})
    for convolution, normalisation in pairs:
        before, after = fused.get_submodule(convolution), fused.get_submodule(normalisation)
        assert isinstance(before, nn.Conv2d) and isinstance(after, nn.BatchNorm2d)
        with torch.no_grad():
            fused.set_submodule(convolution, _fused(before, after))
        rest = nn.Sequential(after.drop, after.act) if isinstance(after, BatchNormAct2d) else nn.Identity()
        fused.set_submodule(normalisation, rest.eval())
    fused.eval()
    log.debug("%d batch normalisations are folded", len(pairs))
    return fused


def _fused(convolution: nn.Conv2d, normalisation: nn.BatchNorm2d) -> nn.Conv2d:
    fused = fuse_conv_bn_eval(convolution, normalisation)
    last = convolution.weight.is_contiguous(memory_format=torch.channels_last)
    form = torch.channels_last if last else torch.contiguous_format
    return fused.to(memory_format=form).requires_grad_(False)


def _pairs(network: nn.Module, forward: Callable[[], object]) -> list[tuple[str, str]]:
    """Names of convolutions and the normalisations that alone read what they give, in the order of the network."""
    made: dict[int, str] = {}  # tensors by identity; `kept` keeps them, so that no other takes its place
    kept: list[Tensor] = []
    pairs: list[tuple[str, str]] = []
    calls: Counter[str] = Counter()

    def watch(name: str) -> Callable[[nn.Module, tuple[Any, ...], Any], None]:
        def after(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            calls[name] += 1
            if type(module) in _CONVOLUTIONS:
                made[id(output)] = name
                kept.append(output)
            elif len(inputs) == 1 and id(inputs[0]) in made and module.running_mean is not None:
                pairs.append((made[id(inputs[0])], name))

        return after

    watched = [
        module.register_forward_hook(watch(name))
        for name, module in network.named_modules()
        if type(module) in _CONVOLUTIONS + _NORMALISATIONS
    ]
    reads = _Reads()
    try:
        with torch.no_grad(), reads:
            given = forward()
    finally:
        for handle in watched:
            handle.remove()
    reads.note(given)  # whoever called reads these
    count = {name: reads.times[number] for number, name in made.items()}
    return [
        (convolution, normalisation)
        for convolution, normalisation in pairs
        if calls[convolution] == calls[normalisation] == 1 and count[convolution] == 1
    ]


class _Reads(TorchFunctionMode):
    """Counts how often each tensor is read by a function that makes tensors of it."""

    def __init__(self) -> None:
        super().__init__()
        self.times: Counter[int] = Counter()
        self._kept: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if any(isinstance(value, Tensor) for value in tree_leaves(made)):  # not when asked for a shape
            self.note((args, kwargs))
        return made

    def note(self, values: object) -> None:
        """Count the tensors in values."""
        for value in tree_leaves(values):
            if isinstance(value, Tensor):
                self.times[id(value)] += 1
                self._kept.append(value)
