"""The Gaussian kernel over colour and place that the dense energy and mean-field refinement share.

`G(i, j) = exp(-½‖f_i − f_j‖²)` for i ≠ j and 0 for i = j, with `f_i = (rgb_i / σ_rgb, xy_i / σ_xy)` [published: REG].
It is evaluated exactly, on a reduced grid, in blocks of rows, so that memory stays bounded. Differences are taken
before they are squared: through a matrix product of the features, a reduced precision (bfloat16 autocast, TF32) or
plain cancellation would spoil the distances.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional as F

GREY_LEVELS = 255.0
"""σ_rgb is given in grey levels of 255 while images are in 0..1."""

_CPU_ENTRIES = 1 << 19
_DEVICE_ENTRIES = 1 << 26


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """Leave autocast, and forbid TF32 and bfloat16 inside float32 matrix products, for the length of the block."""
    before = torch.get_float32_matmul_precision()
    if before != "highest":
        torch.set_float32_matmul_precision("highest")
    try:
        with torch.autocast(device_type=device.type, enabled=False):
            yield
    finally:
        if before != "highest":
            torch.set_float32_matmul_precision(before)


def at_least_float32(x: Tensor) -> Tensor:
    """Return x as float32, or unchanged if it is float64."""
    return x if x.dtype == torch.float64 else x.float()


def grid_size(height: int, width: int, grid: int) -> tuple[int, int]:
    """Height and width of the grid: the longest side becomes `grid`, never more than the image has.

    >>> grid_size(224, 224, 56), grid_size(100, 200, 50), grid_size(30, 20, 56)
    ((56, 56), (25, 50), (30, 20))
    """
    scale = min(1.0, grid / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def resize(x: Tensor, size: tuple[int, int]) -> Tensor:
    """Resize [B, C, H, W] to `size`: area means where it shrinks, bilinear where a side grows."""
    if x.shape[-2:] == size:
        return x
    if x.shape[-2] % size[0] == 0 and x.shape[-1] % size[1] == 0:
        return F.avg_pool2d(x, (x.shape[-2] // size[0], x.shape[-1] // size[1]))  # the same as area, and faster
    if x.shape[-2] >= size[0] and x.shape[-1] >= size[1]:
        return F.interpolate(x, size=size, mode="area")
    return F.interpolate(x, size=size, mode="bilinear", align_corners=False)


def masked_resize(x: Tensor, mask: Tensor | None, size: tuple[int, int]) -> Tensor:
    """Resize x [B, C, H, W] as a mean weighted by mask [B, 1, H, W], so that masked pixels leave no trace.

    Without a mask, the plain mean. A cell without any unmasked pixel gets 0.
    """
    if mask is None:
        return resize(x, size)
    share = resize(mask, size)
    return resize(x * mask, size) / torch.where(share > 0, share, torch.ones_like(share))


@dataclass(frozen=True)
class PixelFeatures:
    """Features of the N = h·w grid pixels: `color` [B, N, 3] over σ_rgb, `place` [1, N, 2] over σ_xy (y, then x)."""

    color: Tensor
    place: Tensor

    def at(self, rows: Tensor) -> PixelFeatures:
        """Features of the pixels `rows` [B, n] (long), one choice per image."""
        place = self.place.expand(rows.shape[0], -1, -1)
        return PixelFeatures(
            self.color.gather(1, rows[..., None].expand(-1, -1, 3)), place.gather(1, rows[..., None].expand(-1, -1, 2))
        )

    def part(self, start: int, stop: int | None = None) -> PixelFeatures:
        """Features of the pixels start..stop-1."""
        return PixelFeatures(self.color[:, start:stop], self.place[:, start:stop])


def pixel_features(
    images: Tensor, sigma_rgb: float, sigma_xy: float, image_size: tuple[int, int] | None = None
) -> PixelFeatures:
    """Features of images [B, 3, h, w] in 0..1.

    Args:
        images: the images on the grid, float32 or float64.
        sigma_rgb: colour scale in grey levels of 255.
        sigma_xy: distance scale in pixels of the original image.
        image_size: height and width of the original image; None if `images` are the originals. Pixel centres of the
            grid are placed in its coordinates.
    """
    height, width = images.shape[-2:]
    full_height, full_width = image_size or (height, width)
    y = (torch.arange(height, device=images.device, dtype=images.dtype) + 0.5) * (full_height / height / sigma_xy)
    x = (torch.arange(width, device=images.device, dtype=images.dtype) + 0.5) * (full_width / width / sigma_xy)
    place = torch.stack(torch.meshgrid(y, x, indexing="ij"), dim=-1).reshape(1, height * width, 2)
    color = images.flatten(2).mT.contiguous() * (GREY_LEVELS / sigma_rgb)
    return PixelFeatures(color, place)


def kernel_matrix(rows: PixelFeatures, columns: PixelFeatures) -> Tensor:
    """`exp(-½‖f_i − f_j‖²)` for all pairs, [B, n, m]; the diagonal is not removed."""
    exponent: Tensor | None = None
    for axis in range(2):  # first the part that images usually share, [1, n, m]
        difference = rows.place[:, :, None, axis] - columns.place[:, None, :, axis]
        exponent = difference.square() if exponent is None else exponent.addcmul_(difference, difference)
    assert exponent is not None
    batch = rows.color.shape[0]
    exponent = exponent.expand(batch, -1, -1).contiguous() if exponent.shape[0] != batch else exponent
    for channel in range(3):
        difference = rows.color[:, :, None, channel] - columns.color[:, None, :, channel]
        exponent.addcmul_(difference, difference)
    return exponent.mul_(-0.5).exp_()


def rows_per_block(device: torch.device, batch: int, columns: int) -> int:
    """Rows of the kernel held at once: what fits a CPU's cache, or 256 MiB on an accelerator."""
    entries = _CPU_ENTRIES if device.type == "cpu" else _DEVICE_ENTRIES
    return max(16, entries // max(1, batch * columns))


@torch.no_grad()
def filter_all(features: PixelFeatures, values: Tensor, block: int | None = None) -> Tensor:
    """`G · values` over all pixels, [B, N, C] → [B, N, C]; half of the kernel is evaluated, since it is symmetric.

    Args:
        features: of all N pixels.
        values: [B, N, C], of the features' dtype.
        block: rows held at once, None to choose by the device. The result does not depend on it.
    """
    batch, pixels, _ = values.shape
    if values.device.type == "cpu" and batch > 1:  # one image's block fits the cache, a batch's does not
        pieces = [
            filter_all(PixelFeatures(features.color[b : b + 1], features.place), values[b : b + 1], block)
            for b in range(batch)
        ]
        return torch.cat(pieces)
    block = block or rows_per_block(values.device, batch, pixels)
    result = torch.zeros_like(values)
    for start in range(0, pixels, block):
        stop = min(start + block, pixels)
        kernel = kernel_matrix(features.part(start, stop), features.part(start))
        kernel.diagonal(dim1=1, dim2=2).zero_()
        result[:, start:stop] += kernel @ values[:, start:]
        result[:, stop:] += kernel[:, :, stop - start :].mT @ values[:, start:stop]
    return result
