"""Layers that look at a whole batch, computed over the shares of all processes: batch normalisation and dropout.

PyTorch's own `SyncBatchNorm` needs a GPU, and knows neither timm's layers that normalise and activate in one nor
dropout. So the functions behind the layers are replaced for the length of a step, and networks stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode


class WholeBatchLayers(TorchFunctionMode):
    """Inside, batch normalisation takes mean and variance of the whole batch, and dropout draws for all of it.

    Args:
        start: place of this process' first patch in the batch.
        count: its number of patches.
        total: number of patches of the whole batch.
    """

    def __init__(self, start: int, count: int, total: int) -> None:
        super().__init__()
        self.start, self.count, self.total = start, count, total

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Replace three functions; others are called as they are."""
        kwargs = kwargs or {}
        if func is F.batch_norm:
            return batch_norm(*args, **kwargs)
        if func is F.dropout:
            return self._dropout(*args, **kwargs)
        if func is torch.Tensor.bernoulli_ and args[0].ndim and len(args[0]) == self.count and len(args) == 2:
            return args[0].copy_(self._drawn(args[0], args[1]))  # dropped paths of timm
        return func(*args, **kwargs)

    def _dropout(self, x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
        if not training or p == 0:
            return F.dropout(x, p, training, inplace)
        result = x * self._drawn(x, 1 - p).div_(1 - p)
        return x.copy_(result) if inplace else result

    def _drawn(self, x: Tensor, chance: float) -> Tensor:
        """Ones and zeros for x, [b or a multiple of b, ...], as they are drawn for the whole batch in one process."""
        times = len(x) // self.count if self.count else 1
        flat = x.is_contiguous() or x.ndim != 4 or not x.is_contiguous(memory_format=torch.channels_last)
        order = torch.contiguous_format if flat else torch.channels_last
        whole = torch.empty(
            (times * self.total, *x.shape[1:]), dtype=x.dtype, device=x.device, memory_format=order
        ).bernoulli_(chance)
        own: Tensor = whole.unflatten(0, (times, self.total)).narrow(1, self.start, self.count).flatten(0, 1)
        return own.contiguous(memory_format=order)


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """`torch.nn.functional.batch_norm`, in training over the batches of all processes together.

    Args:
        input: [b, C, ...]; b may be 0.
        running_mean: [C], moved towards the mean; None: not kept.
        running_var: [C], moved towards the variance; None: not kept.
        weight: [C].
        bias: [C].
        training: otherwise the running statistics are used, as always.
        momentum: share of the batch in the running statistics.
        eps: added to the variance.

    Returns:
        Of the input's shape and type; computed in float32 or wider.
    """
    if not training:
        return F.batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps)
    result: Tensor = _BatchNorm.apply(input, weight, bias, running_mean, running_var, momentum, eps)
    return result


def _per_channel(values: Tensor, like: Tensor) -> Tensor:
    return values.reshape(1, -1, *[1] * (like.ndim - 2))


class _BatchNorm(torch.autograd.Function):
    """Statistics of the processes are joined by the formula of Chan et al. (1979), which does not cancel."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        momentum: float,
        eps: float,
    ) -> Tensor:
        """See `batch_norm`."""
        channels = x.shape[1]
        wide = x if x.dtype == torch.float64 else x.float()
        over = [0, *range(2, x.ndim)]
        number = x.numel() // channels
        own = wide.new_zeros(2 * channels + 1)
        if number:
            variance, mean = torch.var_mean(wide, over, correction=0)
            own = torch.cat([mean, variance * number, mean.new_tensor([number])])
        parts = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
        distributed.all_gather(parts, own)
        table = torch.stack(parts).double()
        counts, means, squares = table[:, -1:], table[:, :channels], table[:, channels:-1]
        total = counts.sum()
        if total.device.type == "cpu" and total <= 1:  # a GPU would be waited for
            raise ValueError(f"batch normalisation needs more than one value per channel, got {list(x.shape)}")
        mean = (counts * means).sum(dim=0) / total
        square = (squares + counts * (means - mean).square()).sum(dim=0)
        inverse = (square / total + eps).rsqrt().to(wide.dtype)
        if running_mean is not None and running_var is not None:
            running_mean.mul_(1 - momentum).add_(mean.to(running_mean.dtype), alpha=momentum)
            running_var.mul_(1 - momentum).add_((square / (total - 1)).to(running_var.dtype), alpha=momentum)
        mean = mean.to(wide.dtype)
        scale = inverse if weight is None else inverse * weight
        ctx.save_for_backward(x, mean, inverse, weight, total)
        ctx.bias = bias is not None
        result = (wide - _per_channel(mean, x)).mul_(_per_channel(scale, x))
        if bias is not None:
            result += _per_channel(bias, x)
        return result.to(x.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        """The gradients of weight and bias are this process' parts; that of the input regards all of the batch."""
        x, mean, inverse, weight, total = ctx.saved_tensors
        over = [0, *range(2, x.ndim)]
        wide = grad.to(mean.dtype)
        normalised = (x.to(mean.dtype) - _per_channel(mean, x)).mul_(_per_channel(inverse, x))
        of_bias, of_weight = wide.sum(over), (wide * normalised).sum(over)
        sums = torch.cat([of_bias, of_weight])
        distributed.all_reduce(sums)
        of_all_bias, of_all_weight = (sums / total).to(sums.dtype).chunk(2)
        scale = inverse if weight is None else inverse * weight
        of_input = wide - _per_channel(of_all_bias, x) - normalised.mul_(_per_channel(of_all_weight, x))
        of_input = of_input.mul_(_per_channel(scale, x)).to(x.dtype)
        parts = (None if weight is None else of_weight.to(weight.dtype), of_bias if ctx.bias else None)
        return of_input, *parts, None, None, None, None
