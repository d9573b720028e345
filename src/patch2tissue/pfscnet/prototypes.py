"""What pixel clustering remembers: prototypes of each tissue, and a bank of pixels.

Both keep their state in buffers, so a checkpoint holds them and a resumed run goes on as if it had not stopped.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from patch2tissue.gaussian_kernel import full_precision


def choose_per_group(groups: Tensor, limit: int | Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Choose members of each group at random, without replacement.

    Args:
        groups: [n] long, the group of each member, 0 or more.
        limit: largest number of members chosen per group; a tensor [G] gives each group its own.
        generator: CPU generator, None for torch's global one.

    Returns:
        Indices [m] (long) into groups, sorted by group.

    >>> chosen = choose_per_group(torch.tensor([0, 1, 0, 0, 1]), 2)
    >>> torch.tensor([0, 1, 0, 0, 1])[chosen]
    tensor([0, 0, 1, 1])
    """
    order = torch.randperm(groups.numel(), generator=generator).to(groups.device)
    order = order[torch.sort(groups[order], stable=True).indices]
    ordered = groups[order]
    counts = torch.bincount(ordered)
    rank = torch.arange(ordered.numel(), device=groups.device) - (counts.cumsum(0) - counts)[ordered]
    return order[rank < (limit[ordered] if isinstance(limit, Tensor) else limit)]


def _sum_over_processes(x: Tensor) -> Tensor:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        torch.distributed.all_reduce(x)
    return x


def _rank_over_processes(values: Tensor) -> tuple[Tensor, int]:
    """Rank of each value [n] among those of all processes, and how many there are."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return values.argsort().argsort(), len(values)
    lengths = torch.zeros(torch.distributed.get_world_size(), dtype=torch.long, device=values.device)
    number = torch.distributed.get_rank()
    lengths[number] = len(values)
    counts = _sum_over_processes(lengths).tolist()
    own = F.pad(values, (0, max(counts) - len(values)))
    parts = [torch.empty_like(own) for _ in counts]
    torch.distributed.all_gather(parts, own)
    ranks = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)]).argsort().argsort()
    start = sum(counts[:number])
    return ranks[start : start + len(values)], sum(counts)


class TissuePrototypes(nn.Module):
    """One or more unit vectors per tissue that follow the mean of its confident pixels.

    `c ← normalise(μ c + (1 − μ) mean v)` [P2P for the form; our reading]; the first mean is taken as it is. With
    several prototypes per tissue, a pixel belongs to the nearest one of its tissue; at the start the pixels are cut
    into groups of equal size along their principal direction. Sums are taken over all processes of a distributed run,
    so every process holds the same prototypes; each must call `update` equally often.

    Attributes:
        vectors: buffer [K, m, D], L2-normalised; zero until initialised.
        initialised: buffer [K] bool, whether a tissue has been seen.
    """

    vectors: Tensor
    initialised: Tensor

    def __init__(self, tissues: int, dimensions: int, prototypes: int = 1, momentum: float = 0.99) -> None:
        super().__init__()
        if min(tissues, dimensions, prototypes) < 1 or not 0 <= momentum < 1:
            raise ValueError("tissues, dimensions and prototypes must be at least 1, momentum in 0..1 (1 excluded)")
        self.momentum = momentum
        self.register_buffer("vectors", torch.zeros(tissues, prototypes, dimensions))
        self.register_buffer("initialised", torch.zeros(tissues, dtype=torch.bool))

    def similarity(self, embedding: Tensor) -> Tensor:
        """Cosine of pixels [n, D] (L2-normalised) with all prototypes, [n, K, m]."""
        with full_precision(embedding.device):
            vectors = self.vectors.to(embedding.dtype, copy=True)  # so that an update before backward is allowed
            similarity: Tensor = embedding @ vectors.flatten(0, 1).mT
            return similarity.reshape(-1, *vectors.shape[:2])

    @torch.no_grad()
    def update(self, embedding: Tensor, tissue: Tensor) -> None:
        """Move the prototypes towards the means of these pixels.

        Args:
            embedding: [n, D] L2-normalised embeddings of confident pixels; n may be 0.
            tissue: [n] long, tissue of each.
        """
        tissues, count, _ = self.vectors.shape
        embedding = embedding.to(self.vectors.dtype)
        with full_precision(embedding.device):
            group = torch.zeros_like(tissue)
            if count > 1:
                similarity = self.similarity(embedding)
                group = similarity[torch.arange(len(tissue), device=tissue.device), tissue].argmax(dim=1)
                for k in (~self.initialised).nonzero().flatten().tolist():
                    group[tissue == k] = self._balanced_groups(embedding[tissue == k])
            index = tissue * count + group
            sums = embedding.new_zeros(tissues * count, embedding.shape[1]).index_add_(0, index, embedding)
            amount = torch.bincount(index, minlength=tissues * count).to(sums)
            sums = torch.cat([sums, amount[:, None]], dim=1)
            sums = _sum_over_processes(sums).reshape(tissues, count, -1)
            amount = sums[..., -1:]
            mean = sums[..., :-1] / amount.clamp(min=1)
            moved = torch.where(
                self.initialised[:, None, None], self.momentum * self.vectors + (1 - self.momentum) * mean, mean
            )
            # A tissue starts only when each of its prototypes has pixels, else an empty one would never be nearest.
            started = self.initialised | (amount > 0).flatten(1).all(dim=1)
            changes = (amount > 0) & started[:, None, None]
            self.vectors.copy_(torch.where(changes, F.normalize(moved, dim=2), self.vectors))
            self.initialised.copy_(started)

    def _balanced_groups(self, embedding: Tensor) -> Tensor:
        """Cut pixels [n, D] into groups of equal size along the direction they vary most in, over all processes."""
        count, dimensions = self.vectors.shape[1:]
        extended = torch.cat([embedding, torch.ones_like(embedding[:, :1])], dim=1)
        moments = _sum_over_processes(extended.mT @ extended)
        mean = moments[:dimensions, -1] / moments[-1, -1].clamp(min=1)
        spread = moments[:dimensions, :dimensions] / moments[-1, -1].clamp(min=1) - mean[:, None] * mean[None]
        direction = torch.linalg.eigh(spread.cpu().double()).eigenvectors[:, -1]
        # The sign is arbitrary; fixing it keeps the processes of a distributed run in step.
        direction = direction * torch.sign(direction[direction.abs().argmax()])
        rank, pixels = _rank_over_processes(embedding @ direction.to(embedding))
        return rank * count // max(1, pixels)


class MemoryBank(nn.Module):
    """The last `size` pixels of each tissue, with the image each came from. What it holds is what is pushed.

    Attributes:
        vectors: buffer [K, size, D].
        images: buffer [K, size] long, image identifiers; -1 where unknown.
        filled: buffer [K] long, how many places of a tissue are in use.
        position: buffer [K] long, the place that is written next.
    """

    vectors: Tensor
    images: Tensor
    filled: Tensor
    position: Tensor

    def __init__(self, tissues: int, dimensions: int, size: int) -> None:
        super().__init__()
        self.register_buffer("vectors", torch.zeros(tissues, size, dimensions))
        self.register_buffer("images", torch.full((tissues, size), -1))
        self.register_buffer("filled", torch.zeros(tissues, dtype=torch.long))
        self.register_buffer("position", torch.zeros(tissues, dtype=torch.long))

    @torch.no_grad()
    def push(self, embedding: Tensor, tissue: Tensor, images: Tensor) -> None:
        """Write pixels [n, D] of the tissues [n] and images [n] (long) over the oldest ones, in the given order."""
        tissues, size, _ = self.vectors.shape
        if size == 0:
            return
        for k in range(tissues):
            chosen = (tissue == k).nonzero().flatten()
            total = len(chosen)
            chosen = chosen[-size:]
            start = self.position[k] + total - len(chosen)
            places = (start + torch.arange(len(chosen), device=tissue.device)) % size
            self.vectors[k, places] = embedding[chosen].to(self.vectors.dtype)
            self.images[k, places] = images[chosen]
            self.position[k] = (self.position[k] + total) % size
            self.filled[k] = (self.filled[k] + total).clamp(max=size)

    def read(self) -> tuple[Tensor, Tensor, Tensor]:
        """All pixels held: embeddings [M, D], tissues [M] (long) and image identifiers [M] (long)."""
        tissues, size, _ = self.vectors.shape
        used = torch.arange(size, device=self.filled.device) < self.filled[:, None]
        tissue = torch.arange(tissues, device=self.filled.device)[:, None].expand(-1, size)
        return self.vectors[used], tissue[used], self.images[used]
