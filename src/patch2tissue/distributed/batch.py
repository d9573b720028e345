"""One batch in many processes: each has its share of the patches, and what concerns all of them is put together.

The functions below do nothing in a process that is alone, and outside a step of the training. Inside a step, every
process must call them equally often and in the same order.

A loss is shared out by this rule: what each process computes is its *part*, and the parts of all add up to the loss of
the whole batch, as do their gradients. A loss that every process computes for the whole batch counts by `replicated`.
Everything random is drawn for the whole batch, the same in every process, and each takes its share (`whole_batch`,
`of_share`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any
from zlib import crc32

import torch
from torch import Tensor, distributed
from torch.autograd.function import once_differentiable
from torch.utils.data import BatchSampler, DataLoader, Sampler

from patch2tissue.data.datasets import read_ahead
from patch2tissue.distributed.layers import WholeBatchLayers
from patch2tissue.distributed.place import Place, joined
from patch2tissue.errors import TrainingError


@dataclass(frozen=True)
class Share:
    """A process' share of a batch: patches that lie next to each other in it.

    Attributes:
        sizes: number of patches of each process; they differ by one at most, and may be 0.
        rank: whose share it is.
    """

    sizes: tuple[int, ...]
    rank: int

    @classmethod
    def of(cls, total: int, place: Place) -> Share:
        """The share of a process in a batch of `total` patches."""
        least, over = divmod(total, place.world)
        return cls(tuple(least + (rank < over) for rank in range(place.world)), place.rank)

    @property
    def total(self) -> int:
        """Patches of the whole batch."""
        return sum(self.sizes)

    @property
    def start(self) -> int:
        """Place of the first patch in the batch."""
        return sum(self.sizes[: self.rank])

    @property
    def count(self) -> int:
        """Number of patches."""
        return self.sizes[self.rank]


_current: Share | None = None


@contextmanager
def within(share: Share | None) -> Iterator[None]:
    """A step on this share of a batch; batch normalisation and dropout are those of the whole batch."""
    global _current
    if share is None:
        yield
        return
    _current = share
    try:
        with WholeBatchLayers(share.start, share.count, share.total):
            yield
    finally:
        _current = None


def whole_batch(count: int) -> int:
    """Number of patches in the whole batch, of which this process has `count`."""
    return count if _current is None else _current.total


def of_share(x: Tensor, dim: int = 0) -> Tensor:
    """This process' share of what is there for the whole batch, along a dimension."""
    return x if _current is None else x.narrow(dim, _current.start, _current.count)


def gather_batch(x: Tensor) -> Tensor:
    """Put shares together: [b, ...] of each process → [B, ...] in all of them, without gradient."""
    if _current is None:
        return x
    most = max(_current.sizes)
    own = x.new_zeros(most, *x.shape[1:]).contiguous()
    own[: len(x)] = x.detach()
    parts = [torch.empty_like(own) for _ in _current.sizes]
    distributed.all_gather(parts, own)
    return torch.cat([part[:size] for part, size in zip(parts, _current.sizes, strict=True)])


def rows_of_batch(x: Tensor, index: Tensor) -> Tensor:
    """Chosen rows of the whole batch, in all processes, with gradient.

    Args:
        x: [n, D] of this process' patches, equally many rows for each.
        index: [m] long, the same in all processes, into the rows of the whole batch.

    Returns:
        [m, D].
    """
    if _current is None:
        return x[index]
    each = len(x) // _current.count if _current.count else 0
    inside = index - _current.start * each
    own = (inside >= 0) & (inside < len(x))
    rows = x.new_zeros(len(index), x.shape[1]).index_put((own.nonzero().flatten(),), x[inside[own]])
    summed: Tensor = _SumOfProcesses.apply(rows)
    return summed


def gather_with_gradient(x: Tensor) -> Tensor:
    """As `gather_batch`, for [b, D], with gradient."""
    return rows_of_batch(x, torch.arange(whole_batch(len(x)), device=x.device))


class _SumOfProcesses(torch.autograd.Function):
    """Sum over processes; so is the gradient, since the sum is used in each of them."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Sum."""
        result = x.detach().clone()
        distributed.all_reduce(result)
        return result

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        """Sum."""
        result = grad.contiguous().clone()
        distributed.all_reduce(result)
        return result


def sum_over_batch(x: Tensor) -> Tensor:
    """Sum of the shares' values, without gradient."""
    if _current is None:
        return x
    result = x.detach().clone()
    distributed.all_reduce(result)
    return result


def replicated(loss: Tensor) -> Tensor:
    """This process' part of a loss that every process computes for the whole batch."""
    return loss if _current is None else loss / len(_current.sizes)


def gathered_values(losses: Mapping[str, Tensor], share: Share | None) -> dict[str, float]:
    """Losses of the whole batch as numbers, from the parts of all processes.

    Raises:
        TrainingError: if a layer drew random numbers of its own, so that the processes would draw different ones.
    """
    values = {name: float(value.detach()) for name, value in losses.items()}
    if share is None:
        return values
    state = float(crc32(torch.get_rng_state().numpy().tobytes()))
    own = torch.tensor([*values.values(), state], dtype=torch.float64)
    parts = [torch.empty_like(own) for _ in share.sizes]
    distributed.all_gather(parts, own)
    table = torch.stack(parts)
    if bool((table[:, -1] != state).any()):
        raise TrainingError(
            "A layer of the network draws random numbers in a way that cannot be shared out over processes. Leave it "
            "out (encoder.options), or train in one process."
        )
    return dict(zip(values, table[:, :-1].sum(dim=0).tolist(), strict=True))


def sum_over_processes(values: list[float]) -> list[float]:
    """Sums of numbers over all processes, outside a step; the numbers themselves in a process that is alone."""
    if joined() is None:
        return values
    summed = torch.tensor(values, dtype=torch.float64)
    distributed.all_reduce(summed)
    return [float(value) for value in summed.tolist()]


class _ShareSampler(Sampler[list[Any]]):
    """Own keys of each batch. For an empty share one key of another is read, to know what a patch looks like."""

    def __init__(self, batches: BatchSampler, place: Place) -> None:
        self.batches, self.place = batches, place

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[list[Any]]:
        for keys in self.batches:
            share = Share.of(len(keys), self.place)
            yield keys[share.start : share.start + share.count] or keys[:1]


def own_loader(loader: DataLoader[Any]) -> DataLoader[Any]:
    """A loader of this process' share of each batch; the loader itself in a process that is alone."""
    place = joined()
    if place is None:
        return loader
    limit_cache = getattr(loader.dataset, "limit_cache", None)
    if limit_cache is not None:
        limit_cache(place.local_world * max(1, loader.num_workers))
    assert isinstance(loader.batch_sampler, BatchSampler)
    return DataLoader(
        loader.dataset,
        batch_sampler=_ShareSampler(loader.batch_sampler, place),
        num_workers=loader.num_workers,
        persistent_workers=loader.persistent_workers,
        pin_memory=loader.pin_memory,
        generator=torch.Generator(),
    )


def shares(loader: DataLoader[Any]) -> Iterator[tuple[dict[str, Tensor], Share | None]]:
    """Batches of `own_loader`, read ahead, and which share of the whole batch they are; None: all of it."""
    place = joined()
    if place is None:
        for batch in read_ahead(loader):
            yield batch, None
        return
    sampler = loader.batch_sampler
    assert isinstance(sampler, _ShareSampler)
    patches, size = len(sampler.batches.sampler), sampler.batches.batch_size  # type: ignore[arg-type]
    for number, batch in enumerate(read_ahead(loader)):
        share = Share.of(min(size, patches - number * size), place)
        yield {name: value[: share.count] for name, value in batch.items()}, share
