"""Mean-field refinement of label scores with the kernel of the dense energy.

`Q ← softmax_k( log P + w · (Σ_{j≠i} G(i,j) Q_j) / (1 + Σ_{j≠i} G(i,j)) )` over the tissues that are present, starting
from Q = P. The update is that of Krähenbühl & Koltun (NeurIPS 2011) for a Potts model [published]; dividing by the
kernel's mass is our reading: the weight means the same on every grid and for every σ, and the 1 keeps a pixel that
resembles nothing near its own score. The sums run over a reduced grid; what they add to the log-probabilities is
brought back to the picture by a joint bilateral upsampling, so that edges stay where the full picture has them.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.gaussian_kernel import (
    GREY_LEVELS,
    PixelFeatures,
    at_least_float32,
    filter_all,
    full_precision,
    grid_size,
    kernel_matrix,
    pixel_features,
    resize,
)

_LEAST = 1e-4  # no tissue that is present is ruled out by its score alone
_KEPT_ENTRIES = 1 << 25  # a kernel of up to 128 MiB is kept over the iterations, a larger one is evaluated each time


@torch.no_grad()
def refine(
    images: Tensor,
    scores: Tensor,
    present: Tensor,
    *,
    iterations: int = 5,
    weight: float = 3.0,
    sigma_rgb: float = 15.0,
    sigma_xy: float = 20.0,
    grid: int = 56,
) -> Tensor:
    """Let like and near pixels agree on their tissue.

    Args:
        images: [B, 3, H, W] RGB in 0..1.
        scores: [B, K, H, W], probabilities or other scores of 0 and more (negative ones count as 0); they are taken
            as shares among the tissues present.
        present: [B, K], 1 for tissues the image-level label names. An image without any gets zeros.
        iterations: mean-field steps; 0 returns the shares.
        weight: w of the formula.
        sigma_rgb: colour scale in grey levels of 255.
        sigma_xy: distance scale in pixels of the image.
        grid: longest side of the grid the sums run over.

    Returns:
        Probabilities [B, K, H, W] (float32, or float64 for such scores): zero for absent tissues, one in sum over the
        present ones.

    Raises:
        ValueError: for shapes that do not fit together or settings out of range.

    >>> images, scores = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 8, 8)
    >>> refined = refine(images, scores, torch.tensor([[1, 0, 1]]))
    >>> bool((refined.sum(1) - 1).abs().max() < 1e-5), refined[:, 1].max().item()
    (True, 0.0)
    """
    _check(images, scores, present)
    if iterations < 0 or weight < 0 or min(sigma_rgb, sigma_xy) <= 0 or grid < 1:
        raise ValueError("iterations and weight must be 0 or more, sigma_rgb, sigma_xy and grid positive")
    with full_precision(scores.device):
        scores = at_least_float32(scores)
        images = images.to(scores)
        allowed = (present > 0.5).to(scores.device)[:, :, None, None]
        shares = _shares(scores, allowed)
        if iterations == 0 or weight == 0:
            return shares
        height, width = images.shape[-2:]
        size = grid_size(height, width, grid)
        small_images = resize(images, size)
        small = resize(shares, size)
        messages = []
        for b in range(images.shape[0]):  # one by one, so that one kernel is in memory
            features = pixel_features(small_images[b : b + 1], sigma_rgb, sigma_xy, (height, width))
            one = slice(b, b + 1)
            messages.append(_message(features, small[one], allowed[one], iterations, weight))
        change = _joint_upsample(torch.cat(messages), small_images, images, sigma_rgb)
        return _softmax(shares.clamp(min=_LEAST).log() + weight * change, allowed)


def _shares(scores: Tensor, allowed: Tensor) -> Tensor:
    """Non-negative scores as shares among the tissues allowed; equal shares where all are zero."""
    positive = (scores.clamp(min=0) + torch.finfo(scores.dtype).tiny ** 0.5) * allowed
    shares: Tensor = positive / positive.sum(dim=1, keepdim=True).clamp(min=torch.finfo(scores.dtype).tiny)
    return shares


def _softmax(logits: Tensor, allowed: Tensor) -> Tensor:
    probabilities = torch.softmax(logits.masked_fill(~allowed, -torch.inf), dim=1)
    return torch.nan_to_num(probabilities, nan=0.0)  # an image without any tissue


def _message(features: PixelFeatures, shares: Tensor, allowed: Tensor, iterations: int, weight: float) -> Tensor:
    """What the neighbours say of each tissue after the last iteration, [1, K, h, w] in 0..1."""
    unary = shares.clamp(min=_LEAST).log()
    pixels = features.color.shape[1]
    kernel: Tensor | None = None
    if pixels * pixels <= _KEPT_ENTRIES:
        kernel = kernel_matrix(features, features)
        kernel.diagonal(dim1=1, dim2=2).zero_()

    def smooth(values: Tensor) -> Tensor:
        return filter_all(features, values) if kernel is None else kernel @ values

    mass = 1 + smooth(torch.ones_like(features.color[:, :, :1]))
    belief = shares
    message = torch.zeros_like(shares)
    for _ in range(iterations):
        flat = belief.flatten(2).mT.contiguous()
        message = (smooth(flat) / mass).mT.reshape(shares.shape)
        belief = _softmax(unary + weight * message, allowed)
    return message


def _joint_upsample(values: Tensor, guide: Tensor, images: Tensor, sigma_rgb: float) -> Tensor:
    """Bring values [B, K, h, w] to the images' size: means of the 3×3 nearest cells, by nearness and by colour.

    Args:
        values: what is upsampled.
        guide: the images at the values' size, [B, 3, h, w].
        images: [B, 3, H, W].
        sigma_rgb: colour scale in grey levels of 255.
    """
    if values.shape[-2:] == images.shape[-2:]:
        return values
    size = (images.shape[-2], images.shape[-1])

    def offsets(full: int, small: int) -> Tensor:
        """Distance of each pixel from the centre of its cell, in cells."""
        place = (torch.arange(full, device=images.device, dtype=images.dtype) + 0.5) * (small / full)
        return place - place.floor() - 0.5

    y, x = offsets(size[0], values.shape[-2])[:, None], offsets(size[1], values.shape[-1])[None, :]
    stack = F.pad(torch.cat([values, guide], dim=1), (1, 1, 1, 1), mode="replicate")
    total = torch.zeros_like(images[:, :1]).expand(-1, values.shape[1], -1, -1).clone()
    mass = torch.zeros_like(images[:, :1])
    for dy in (-1, 0, 1):
        for dx in (-1, 0, 1):
            cells = stack[:, :, 1 + dy : 1 + dy + values.shape[-2], 1 + dx : 1 + dx + values.shape[-1]]
            near = F.interpolate(cells, size=size, mode="nearest-exact")
            color = ((near[:, -3:] - images) * (GREY_LEVELS / sigma_rgb)).square().sum(dim=1, keepdim=True)
            place = (y - dy).square() + (x - dx).square()
            # the small constant leaves plain smoothing where no cell has the pixel's colour
            share = torch.exp(-2 * place) * (torch.exp(-0.5 * color) + 1e-4)
            total += share * near[:, :-3]
            mass += share
    return total / mass


def _check(images: Tensor, scores: Tensor, present: Tensor) -> None:
    if images.ndim != 4 or images.shape[1] != 3 or not images.is_floating_point():
        raise ValueError(f"images must be floating point [B, 3, H, W], got {images.dtype} of {list(images.shape)}")
    if scores.ndim != 4 or scores.shape[0] != images.shape[0] or scores.shape[2:] != images.shape[2:]:
        raise ValueError(f"scores must be [B, K, H, W] of the images {list(images.shape)}, got {list(scores.shape)}")
    if present.shape != scores.shape[:2]:
        raise ValueError(f"present must be [B, K] = {list(scores.shape[:2])}, got {list(present.shape)}")
