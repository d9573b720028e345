"""Dense energy loss: pixels that look alike and lie near each other should get the same tissue.

`E = Σ_{i≠j} G(i,j) s_i s_j Σ_k P_i^k (1 − P_j^k)` [published: REG, RRM], with the Gaussian kernel G over colour and
place (`patch2tissue.gaussian_kernel`) and a weight s per pixel. G and s are constants: the loss moves predictions
only. The loss is `E / Σ_{i≠j} G(i,j) v_i v_j` over the batch [our reading], with v = 1 for a valid pixel: the mean
disagreement of like pairs of valid pixels, between 0 and 1. So it hardly depends on the batch size, the grid or σ, and
fades as the soft filter s fades. A weight of 0.1 to 1 beside cross-entropy is of the right order without the soft
filter; with it, pairs count by the product of two filters, and larger weights keep the balance: the references' 1e-7
on the unnormalised sum, with the soft filter, is of the order of 10 here.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from patch2tissue.distributed.batch import sum_over_batch
from patch2tissue.gaussian_kernel import (
    GREY_LEVELS,
    PixelFeatures,
    at_least_float32,
    filter_all,
    full_precision,
    grid_size,
    masked_resize,
    pixel_features,
    resize,
)
from patch2tissue.pfscnet.sampled_kernel import filter_displaced, filter_some, sample_displacements, sample_rows
from patch2tissue.tissues import IGNORE_INDEX

Rows = int | Literal["auto"] | None
_APART = 100.0
"""Added to a colour, in units of its whole range, so that the kernel between the parts of a composed picture is 0."""
DISPLACEMENTS_ON_CPU = 96
"""Displacements that rows="auto" samples on a CPU, where the exact kernel is too slow for training."""


class _Energy(torch.autograd.Function):
    """Unnormalised energy and its normaliser; the gradient is computed with the value and kept."""

    @staticmethod
    def forward(
        ctx: Any,
        probabilities: Tensor,
        weights: Tensor,
        valid: Tensor,
        features: PixelFeatures,
        rows: Tensor | None,
        block: int | None,
        smooth: Callable[[Tensor], Tensor],
    ) -> tuple[Tensor, Tensor]:
        """Return E and Σ G v v for probabilities [B, N, K], weights [B, N, 1] and valid [B, N, 1].

        `smooth` gives G · values or an estimate; with `rows` only these rows are evaluated instead.
        """
        values = torch.cat([weights * probabilities, weights, valid], dim=2)
        if rows is None:
            filtered, scale = smooth(values), 1.0
            own, own_weights, own_valid = probabilities, weights, valid
            agree, mass, valid_mass = filtered[..., :-2], filtered[..., -2:-1], filtered[..., -1:]
            gradient = weights * (mass - 2 * agree)
        else:
            scale = probabilities.shape[1] / rows.shape[1]
            index = rows[..., None]
            own = probabilities.gather(1, index.expand(-1, -1, probabilities.shape[2]))
            own_weights, own_valid = weights.gather(1, index), valid.gather(1, index)
            # Every pixel's gradient comes from the sampled pixels around it. The gradient of the sampled sum itself
            # is unbiased too, but sits on the sampled pixels for one half, which makes it many times noisier.
            filtered, spread = filter_some(features, rows, values, own_weights * (1 - 2 * own), block)
            agree, mass, valid_mass = filtered[..., :-2], filtered[..., -2:-1], filtered[..., -1:]
            gradient = weights * spread * scale
        ctx.save_for_backward(gradient)
        energy = (own_weights * own * (mass - agree)).sum() * scale
        normaliser = (own_valid * valid_mass).sum() * scale
        ctx.mark_non_differentiable(normaliser)
        return energy, normaliser

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_energy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        """Scale the gradient that forward kept."""
        (gradient,) = ctx.saved_tensors
        return grad_energy * gradient, None, None, None, None, None, None


def _check(
    images: Tensor, probabilities: Tensor, valid: Tensor | None, weights: Tensor | None, part: Tensor | None
) -> None:
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"images must be [B, 3, H, W], got {list(images.shape)}")
    if not images.is_floating_point():
        raise ValueError(f"images must be floating point RGB in 0..1, got {images.dtype}")
    if probabilities.ndim != 4 or probabilities.shape[0] != images.shape[0]:
        raise ValueError(
            f"probabilities must be [B, K, H, W] with B = {images.shape[0]} as the images have, "
            f"got {list(probabilities.shape)}"
        )
    expected = [images.shape[0], *images.shape[2:]]
    for name, given in (("valid", valid), ("weights", weights), ("part", part)):
        if given is not None and list(given.shape) != expected:
            raise ValueError(f"{name} must be [B, H, W] = {expected} as the images are, got {list(given.shape)}")


def _sampling(rows: Rows, displacements: int | None, device: torch.device) -> tuple[int | None, int | None]:
    """Numbers of rows and of displacements to sample; None for both is the exact sum."""
    if rows == "auto":
        on_cpu = DISPLACEMENTS_ON_CPU if device.type == "cpu" else None
        return None, on_cpu if displacements is None else displacements
    if rows is not None and displacements is not None:
        raise ValueError("give rows or displacements, not both")
    if (rows is not None and rows < 1) or (displacements is not None and displacements < 1):
        raise ValueError(f"rows and displacements must be at least 1, got {rows} and {displacements}")
    return rows, displacements


def dense_energy(
    images: Tensor,
    probabilities: Tensor,
    valid: Tensor | None = None,
    *,
    weights: Tensor | None = None,
    part: Tensor | None = None,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 20.0,
    grid: int = 56,
    rows: Rows = None,
    displacements: int | None = None,
    block: int | None = None,
    balanced: bool = False,
    normalise: bool = True,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Dense energy of predictions, see the module's text for the formula.

    Works on any device; computed in float32 (float64 for float64 probabilities) also inside autocast.

    Args:
        images: [B, 3, H, W] RGB in 0..1; no gradient flows to them.
        probabilities: [B, K, H, W], or at a lower resolution; K tissues that sum to one per pixel.
        valid: [B, H, W] bool, or float in 0..1: which pixels count at all; None for all. A pixel with 0 contributes
            nothing and gets no gradient.
        weights: [B, H, W] in 0..1, the soft filter s; None for 1. Does not enter the normaliser. Taken as constant.
        part: [B, H, W] bool, where a picture composed of two shows the second one: pairs of pixels from different parts
            do not count, since likeness across such a line says nothing. None for pictures of one piece.
        sigma_rgb: colour scale in grey levels of 255.
        sigma_xy: distance scale in pixels of the image (it shrinks with the grid).
        grid: longest side of the grid on which the kernel is evaluated; smaller images keep their size.
        rows: None for the exact sum; a number of sampled kernel rows for an estimate; "auto" for exact on accelerators
            and 96 displacements on a CPU.
        displacements: number of sampled steps between pixels, the better estimate (`pfscnet.sampled_kernel`). Both
            estimates of the sum and of its gradient are unbiased; the normaliser is estimated from the same sample,
            which leaves a bias of the loss far below a percent.
        block: kernel rows held in memory at once, None to choose by the device.
        balanced: use `G(i,j) / √(d_i d_j)` with `d_i = Σ_j G(i,j) v_j` instead of G, the symmetric normalisation of
            Krähenbühl & Koltun's program [published there; our reading here]. Otherwise a pixel counts by how many
            others resemble it, and smooth areas outvote textured ones. With a sample, d is estimated from it too.
        normalise: divide by Σ G v v; otherwise the plain sum is returned.
        generator: CPU generator for the sample, None for torch's global one.

    Returns:
        Scalar, in 0..1 if normalised; where processes share a batch, this one's part of it.

    Raises:
        ValueError: for wrong shapes or non-positive settings.

    >>> images = torch.zeros(1, 3, 8, 8)
    >>> one_tissue = torch.zeros(1, 2, 8, 8)
    >>> one_tissue[:, 0] = 1
    >>> dense_energy(images, one_tissue).item()
    0.0
    >>> undecided = torch.full((1, 2, 8, 8), 0.5)
    >>> round(dense_energy(images, undecided).item(), 4)
    0.5
    """
    _check(images, probabilities, valid, weights, part)
    if min(sigma_rgb, sigma_xy) <= 0 or grid < 1 or (block is not None and block < 1):
        raise ValueError("sigma_rgb and sigma_xy must be positive, grid and block at least 1")
    with full_precision(probabilities.device):
        probabilities = at_least_float32(probabilities)
        height, width = images.shape[-2:]
        size = grid_size(height, width, grid)
        with torch.no_grad():
            mask = None if valid is None else valid[:, None].to(probabilities)
            weight = mask
            if weights is not None:
                weight = weights[:, None].to(probabilities) * (1 if mask is None else mask)
            ones = probabilities.new_ones(images.shape[0], 1, *size)
            small = masked_resize(images.to(probabilities), mask, size)
            features = pixel_features(small, sigma_rgb, sigma_xy, (height, width))
            if part is not None:
                # a coarse pixel on the line is of neither part, and far from both
                features.color[..., 0] += (
                    _APART * GREY_LEVELS / sigma_rgb * resize(part[:, None].to(small), size).flatten(1)
                )
            flat_weight, flat_valid = (
                (ones if x is None else resize(x, size)).flatten(2).mT.contiguous() for x in (weight, mask)
            )
            prediction_size = (probabilities.shape[-2], probabilities.shape[-1])
            at_prediction = None if mask is None else resize(mask, prediction_size)
            row_count, steps = _sampling(rows, displacements, probabilities.device)
            chosen: Tensor | None = None
            smooth: Callable[[Tensor], Tensor] = partial(filter_all, features, block=block)
            if row_count is not None and row_count < size[0] * size[1]:
                chosen = sample_rows(images.shape[0], size, row_count, probabilities.device, generator)
            elif steps is not None:
                spacing = (height / size[0] / sigma_xy, width / size[1] / sigma_xy)
                smooth = partial(
                    filter_displaced, features, size, sample_displacements(size, spacing, steps, generator)
                )
            if balanced:
                root = _inverse_root_of_mass(features, flat_valid, chosen, block, smooth)
                flat_weight, flat_valid = flat_weight * root, flat_valid * root
        flat = masked_resize(probabilities, at_prediction, size).flatten(2).mT.contiguous()
        energy, normaliser = _Energy.apply(flat, flat_weight, flat_valid, features, chosen, block, smooth)
        normaliser = sum_over_batch(normaliser)
        tiny = torch.finfo(energy.dtype).tiny
        result: Tensor = energy / normaliser.clamp(min=tiny) if normalise else energy
        return result


def _inverse_root_of_mass(
    features: PixelFeatures,
    valid: Tensor,
    rows: Tensor | None,
    block: int | None,
    smooth: Callable[[Tensor], Tensor],
) -> Tensor:
    """`d^-½` of every pixel, [B, N, 1], or its estimate from the sampled rows or displacements."""
    if rows is None:
        mass = smooth(valid)
    else:
        scale = valid.shape[1] / rows.shape[1]
        mass = filter_some(features, rows, valid, valid.gather(1, rows[..., None]), block)[1] * scale
    # a pixel that resembles nothing must not outvote all others: its mass counts as a hundredth of the mean
    mean = (mass * valid).sum(dim=1, keepdim=True) / valid.sum(dim=1, keepdim=True).clamp(min=1.0)
    least = (0.01 * mean).clamp(min=torch.finfo(mass.dtype).tiny ** 0.5)
    return torch.maximum(mass, least).rsqrt()


@torch.no_grad()
def soft_filter(
    probabilities: Tensor, pseudo_labels: Tensor, ignore: int = IGNORE_INDEX, valid: Tensor | None = None
) -> Tensor:
    """Soft filter [published: RRM]: how much a pixel takes part in the dense energy.

    Args:
        probabilities: [B, K, H, W].
        pseudo_labels: [B, H, W] integer, `ignore` where there is none.
        ignore: value of an unlabelled pixel.
        valid: [B, H, W] bool or float in 0..1, None for all.

    Returns:
        [B, H, W]: 1 − max_k P for a labelled pixel, 1 for an unlabelled one, times `valid`. Without gradient.

    Examples:
        >>> p = torch.tensor([0.9, 0.1]).view(1, 2, 1, 1).expand(1, 2, 1, 2)
        >>> [round(v, 3) for v in soft_filter(p, torch.tensor([[[0, 255]]])).flatten().tolist()]
        [0.1, 1.0]
    """
    probabilities = at_least_float32(probabilities)
    if pseudo_labels.shape != probabilities.shape[:1] + probabilities.shape[2:]:
        raise ValueError(
            f"pseudo_labels must be [B, H, W] of the probabilities {list(probabilities.shape)}, "
            f"got {list(pseudo_labels.shape)}"
        )
    unsure = 1 - probabilities.amax(dim=1)
    result = torch.where(pseudo_labels == ignore, torch.ones_like(unsure), unsure)
    return result if valid is None else result * valid.to(result.dtype)


class DenseEnergyLoss(nn.Module):
    """Dense energy as a module; `dense_energy` explains the arguments.

    >>> loss = DenseEnergyLoss(sigma_rgb=15, sigma_xy=20, grid=56)
    >>> logits = torch.randn(2, 4, 32, 32, requires_grad=True)
    >>> loss(torch.rand(2, 3, 32, 32), logits.softmax(1), torch.ones(2, 32, 32)).backward()
    """

    def __init__(
        self,
        sigma_rgb: float = 15.0,
        sigma_xy: float = 20.0,
        grid: int = 56,
        rows: Rows = None,
        displacements: int | None = None,
        block: int | None = None,
        balanced: bool = False,
    ) -> None:
        super().__init__()
        self.sigma_rgb, self.sigma_xy, self.grid = sigma_rgb, sigma_xy, grid
        self.rows, self.displacements, self.block, self.balanced = rows, displacements, block, balanced

    def forward(
        self,
        images: Tensor,
        probabilities: Tensor,
        valid: Tensor | None = None,
        weights: Tensor | None = None,
        part: Tensor | None = None,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return the scalar loss for images [B, 3, H, W], probabilities [B, K, H, W], valid and part [B, H, W]."""
        return dense_energy(
            images,
            probabilities,
            valid,
            weights=weights,
            part=part,
            sigma_rgb=self.sigma_rgb,
            sigma_xy=self.sigma_xy,
            grid=self.grid,
            rows=self.rows,
            displacements=self.displacements,
            block=self.block,
            balanced=self.balanced,
            generator=generator,
        )

    def extra_repr(self) -> str:
        """Settings shown by print."""
        sample = f"rows={self.rows}, displacements={self.displacements}, balanced={self.balanced}"
        return f"sigma_rgb={self.sigma_rgb}, sigma_xy={self.sigma_xy}, grid={self.grid}, {sample}"
