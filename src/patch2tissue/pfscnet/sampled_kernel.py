"""Cheap, unbiased estimates of products with the Gaussian kernel, for training without an accelerator.

Two ways to evaluate a part of the kernel:

- *displacements*: pixel pairs that lie the same step apart, for a random choice of steps. A step is chosen with a
  chance π proportional to the Gaussian of its length and counts 1/π times [our reading: importance sampling after
  Horvitz & Thompson]. Each pixel meets two neighbours per step, and they lie where the kernel is large.
- *rows*: a random choice of pixels against all others, counted N/n times.

For the same time displacements are several times more precise, since a row spends most of its work on pixels far away
(`python -m benchmarks.speed --only dense_energy`).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from patch2tissue.distributed.batch import of_share, whole_batch
from patch2tissue.gaussian_kernel import PixelFeatures, kernel_matrix, rows_per_block


@dataclass(frozen=True)
class Displacements:
    """Steps on the grid and how much a pair counts: `steps` of (down, right), `weights` (spatial Gaussian over π)."""

    steps: tuple[tuple[int, int], ...]
    weights: tuple[float, ...]


def sample_displacements(
    size: tuple[int, int], spacing: tuple[float, float], count: int, generator: torch.Generator | None = None
) -> Displacements:
    """Choose steps between pixels, one of each pair of opposite steps.

    Args:
        size: grid height h and width w.
        spacing: distance of neighbouring pixels down and right, in units of σ_xy.
        count: number of steps wanted, at least 1; at or above all there are, all are taken and nothing is random.
        generator: CPU generator, None for torch's global one.

    Returns:
        About `count` steps (rounded up or down at random).
    """
    height, width = size
    down, right = torch.meshgrid(
        torch.arange(height, dtype=torch.float64), torch.arange(1 - width, width, dtype=torch.float64), indexing="ij"
    )
    half = (down > 0) | (right > 0)  # the opposite step is served by symmetry
    down, right = down[half], right[half]
    y, x = down * spacing[0], right * spacing[1]
    gaussian = torch.exp(-0.5 * (y.square() + x.square()))
    # Systematic sampling along rings keeps near and far, and all directions, in proportion in every single draw.
    ring = (2 * (y.square() + x.square()).sqrt()).floor()
    order = torch.argsort(10 * ring + torch.atan2(y, x))
    order = order[gaussian[order] > 1e-30]
    down, right, gaussian = down[order], right[order], gaussian[order]
    pairs = (height - down) * (width - right.abs()) / (height * width)
    chance = _chances(gaussian * pairs.sqrt(), count)
    end = chance.cumsum(0)
    offset = torch.rand(1, generator=generator, dtype=torch.float64)
    taken = torch.floor(end + offset) > torch.floor(torch.cat([end.new_zeros(1), end[:-1]]) + offset)
    if count >= len(chance):
        taken = torch.ones_like(taken)
    steps = zip(down[taken].long().tolist(), right[taken].long().tolist(), strict=True)
    return Displacements(tuple(steps), tuple((gaussian / chance)[taken].tolist()))


def _chances(importance: Tensor, count: int) -> Tensor:
    """Chances in proportion to importance, none above 1, that add up to `count` (all 1 if there are no more)."""
    if count >= len(importance):
        return torch.ones_like(importance)
    chance = importance * (count / importance.sum())
    for _ in range(50):
        chance = chance.clamp(max=1)
        free = chance < 1
        missing = count - chance.sum()
        if missing < 1e-9 or not bool(free.any()):
            break
        chance[free] *= 1 + missing / chance[free].sum()
    return chance.clamp(max=1)


@torch.no_grad()
def filter_displaced(
    features: PixelFeatures, size: tuple[int, int], displacements: Displacements, values: Tensor
) -> Tensor:
    """Unbiased estimate of `G · values`, [B, N, C] → [B, N, C].

    Args:
        features: of all N = h·w pixels.
        size: h and w.
        displacements: the pairs to take; their weights hold the spatial part of the kernel.
        values: [B, N, C], of the features' dtype.
    """
    height, width = size
    batch, _, channels = values.shape
    # Rows get a margin that holds nothing, as wide as the longest step to the side. So a step is one shift of the
    # flattened picture, and what it brings round the edge falls into the margin: long runs instead of short rows.
    wide = width + max((abs(right) for _, right in displacements.steps), default=0)
    length = height * wide
    color = values.new_zeros(3, batch, height, wide)
    color[..., :width] = (features.color * 0.5**0.5).permute(2, 0, 1).reshape(3, batch, height, width)
    planes = values.new_zeros(batch, channels, height, wide)
    planes[..., :width] = values.mT.reshape(batch, channels, height, width)
    channel_colors, flat = color.flatten(2), planes.flatten(2)
    result = torch.zeros_like(flat)
    for (down, right), weight in zip(displacements.steps, displacements.weights, strict=True):
        shift = down * wide + right
        one, other = (..., slice(0, length - shift)), (..., slice(shift, length))
        exponent: Tensor | None = None
        for channel in channel_colors:
            difference = channel[one] - channel[other]
            exponent = difference.mul_(difference) if exponent is None else exponent.addcmul_(difference, difference)
        assert exponent is not None
        kernel = exponent.neg_().exp_().mul_(weight)[:, None]
        result[one].addcmul_(kernel, flat[other])
        result[other].addcmul_(kernel, flat[one])
    return result.view_as(planes)[..., :width].flatten(2).mT


def sample_rows(
    batch: int, size: tuple[int, int], count: int, device: torch.device, generator: torch.Generator | None = None
) -> Tensor:
    """Choose pixels of a grid so that each has the same chance: a lattice at a random offset, per image.

    A lattice covers every neighbourhood of the Gaussian evenly, so the estimate varies far less than with
    independently drawn pixels, and stays unbiased because only the offset is random.

    Args:
        batch: images B; where processes share a batch, those of this one.
        size: grid height h and width w.
        count: rows wanted; the lattice holds at most as many.
        device: where the result lives.
        generator: source of randomness (on the CPU), None for torch's global one.

    Returns:
        Flat indices [B, n] (long) without repeats, 1 ≤ n ≤ count.

    >>> sample_rows(2, (8, 8), 16, torch.device("cpu")).shape
    torch.Size([2, 16])
    """
    height, width = size
    down = max(1, min(height, count, round((count * height / width) ** 0.5)))
    across = max(1, min(width, count // down))
    down = max(1, min(height, count // across))
    offset = of_share(torch.rand(2, whole_batch(batch), 1, generator=generator, dtype=torch.float64), dim=1)
    y = ((torch.arange(down) + offset[0]) * (height / down)).long().clamp_(max=height - 1)
    x = ((torch.arange(across) + offset[1]) * (width / across)).long().clamp_(max=width - 1)
    rows: Tensor = (y[:, :, None] * width + x[:, None, :]).flatten(1).to(device)
    return rows


@torch.no_grad()
def filter_some(
    features: PixelFeatures, rows: Tensor, values: Tensor, row_values: Tensor, block: int | None = None
) -> tuple[Tensor, Tensor]:
    """Both products with the kernel rows of some pixels, `G_R · values` and `G_Rᵀ · row_values`.

    Args:
        features: of all N pixels.
        rows: [B, n] long, the chosen pixels of each image.
        values: [B, N, C], of the features' dtype.
        row_values: [B, n, D].
        block: rows held at once, None to choose by the device.

    Returns:
        [B, n, C] and [B, N, D].
    """
    batch, pixels, _ = values.shape
    if values.device.type == "cpu" and batch > 1:
        pairs = [
            filter_some(
                PixelFeatures(features.color[b : b + 1], features.place),
                rows[b : b + 1],
                values[b : b + 1],
                row_values[b : b + 1],
                block,
            )
            for b in range(batch)
        ]
        return torch.cat([pair[0] for pair in pairs]), torch.cat([pair[1] for pair in pairs])
    block = block or rows_per_block(values.device, batch, pixels)
    gathered = []
    spread = row_values.new_zeros(batch, pixels, row_values.shape[2])
    for start in range(0, rows.shape[1], block):
        chosen = rows[:, start : start + block]
        kernel = kernel_matrix(features.at(chosen), features)
        kernel.scatter_(2, chosen[..., None], 0.0)
        gathered.append(kernel @ values)
        spread += kernel.mT @ row_values[:, start : start + block]
    return torch.cat(gathered, dim=1), spread
