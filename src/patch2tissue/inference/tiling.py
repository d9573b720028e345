"""Predicting images of any size by overlapping tiles, blended by a smooth window so that no seam shows."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

Network = Callable[[Tensor], Tensor]
"""Maps float RGB in 0..1, [B, 3, h, w], to probabilities [B, K, h, w]."""

WINDOW_SIGMA = 0.125
"""Standard deviation of the blending window as a share of the tile."""


def tile_positions(length: int, tile: int, overlap: float) -> list[int]:
    """Offsets of tiles along one side of an image, in pixels.

    Args:
        length: of the side in pixels.
        tile: side of a tile in pixels.
        overlap: least share of a tile that it shares with its neighbour, 0 ≤ overlap < 1.

    Returns:
        Ascending offsets; the last tile is shifted inwards. A side not longer than a tile has one position.
    """
    if length <= tile:
        return [0]
    step = max(1, int(tile * (1.0 - overlap)))
    return sorted({*range(0, length - tile, step), length - tile})


def tile_grid(height: int, width: int, tile: int, overlap: float) -> list[tuple[int, int]]:
    """Upper left corners (y, x) of tiles that cover an image, row by row; see `tile_positions`."""
    return [(y, x) for y in tile_positions(height, tile, overlap) for x in tile_positions(width, tile, overlap)]


def blending_window(height: int, width: int) -> Tensor:
    """Weights of a tile's pixels: a Gaussian around its middle that stays above zero, float32 [height, width]."""

    def profile(length: int) -> Tensor:
        place = (torch.arange(length, dtype=torch.float32) - (length - 1) / 2) / (WINDOW_SIGMA * length)
        return torch.exp(-0.5 * place.square()).clamp(min=1e-3)

    return profile(height)[:, None] * profile(width)[None, :]


def pad_to_multiple(images: Tensor, multiple: int) -> Tensor:
    """Pad [B, 3, H, W] at the right and bottom by mirroring, or by the last pixels where the image is too small."""
    below, right = -images.shape[-2] % multiple, -images.shape[-1] % multiple
    if not below and not right:
        return images
    mirrored = below < images.shape[-2] and right < images.shape[-1]
    return F.pad(images, (0, right, 0, below), mode="reflect" if mirrored else "replicate")


def to_input(images: np.ndarray, device: torch.device) -> Tensor:
    """uint8 RGB [B, H, W, 3] as float in 0..1, [B, 3, H, W] on a device, channels last in memory."""
    tensor = torch.from_numpy(np.ascontiguousarray(images)).permute(0, 3, 1, 2).to(device).float() / 255.0
    return tensor.contiguous(memory_format=torch.channels_last)


@torch.inference_mode()
def predict_batch(
    network: Network,
    images: np.ndarray,
    *,
    device: torch.device | None = None,
    multiple: int = 32,
    dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Predict whole images of one size in one forward pass.

    Args:
        network: in evaluation mode.
        images: uint8 RGB [B, H, W, 3].
        device: where the network is.
        multiple: inputs are padded to a multiple of this and cropped back.
        dtype: autocast type, None for float32.

    Returns:
        Probabilities, float32 [B, K, H, W].
    """
    device = device or torch.device("cpu")
    height, width = images.shape[1:3]
    with torch.autocast(device.type, dtype) if dtype is not None else nullcontext():
        found = network(pad_to_multiple(to_input(images, device), multiple))
    return np.ascontiguousarray(found[..., :height, :width].float().cpu().numpy())


def predict_tiled(
    network: Network,
    image: np.ndarray,
    *,
    tile: int = 512,
    overlap: float = 0.25,
    batch_size: int = 8,
    device: torch.device | None = None,
    multiple: int = 32,
    dtype: torch.dtype | None = None,
) -> np.ndarray:
    """Predict one image.

    Memory beside the network's is that of the result and one batch of tiles: 4·K bytes per pixel. Whole slides go
    another way.

    Args:
        network: in evaluation mode.
        image: uint8 RGB [H, W, 3].
        tile: side of a tile in pixels; an image no larger on either side goes through whole.
        overlap: see `tile_grid`.
        batch_size: tiles per forward pass.
        device: where the network is.
        multiple: inputs are padded to a multiple of this and cropped back.
        dtype: autocast type, None for float32.

    Returns:
        Probabilities, float32 [K, H, W].
    """
    height, width = image.shape[:2]
    corners = tile_grid(height, width, tile, overlap)
    if len(corners) == 1:
        whole = predict_batch(network, image[None], device=device, multiple=multiple, dtype=dtype)[0]
        return np.asarray(whole)
    tile_height, tile_width = min(tile, height), min(tile, width)
    window = blending_window(tile_height, tile_width).numpy()
    total: np.ndarray | None = None
    weights = np.zeros((height, width), dtype=np.float32)
    for start in range(0, len(corners), batch_size):
        part = corners[start : start + batch_size]
        tiles = np.stack([image[y : y + tile_height, x : x + tile_width] for y, x in part])
        found = predict_batch(network, tiles, device=device, multiple=multiple, dtype=dtype)
        if total is None:
            total = np.zeros((found.shape[1], height, width), dtype=np.float32)
        for (y, x), probabilities in zip(part, found, strict=True):
            rows, columns = slice(y, y + tile_height), slice(x, x + tile_width)
            total[:, rows, columns] += probabilities * window
            weights[rows, columns] += window
    assert total is not None
    # in place, since the quotient would be a second array of the result's size
    total /= weights
    return total
