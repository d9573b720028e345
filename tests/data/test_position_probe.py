from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter, rotate, shift, zoom

from patch2tissue.data.augment import random_stain_shift, shift_stain
from patch2tissue.data.position_probe import moves, moving_seed, texture

Picture = np.ndarray


def noisy(picture: Picture) -> Picture:
    noise = np.random.default_rng(0).normal(0, 40, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def enlarged(picture: Picture) -> Picture:
    larger = zoom(picture, (1.2, 1.2, 1), order=1)
    first = (larger.shape[0] - len(picture)) // 2
    return larger[first : first + len(picture), first : first + len(picture)]


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p,
        lambda p: 255 - p,
        lambda p: p[..., ::-1],
        lambda p: p.mean(axis=2, keepdims=True).repeat(3, axis=2).astype(np.uint8),
        lambda p: (p // 64) * 64,
        lambda p: (255 * (p / 255.0) ** 2.5).astype(np.uint8),
        lambda p: gaussian_filter(p, (2, 2, 0)),
        lambda p: shift(p, (1, 0, 0), mode="nearest"),
        noisy,
    ],
)
def test_colours_noise_and_blur_move_nothing(change: Callable[[Picture], Picture]) -> None:
    assert all(not moves(texture(seed), change(texture(seed))) for seed in range(3))


@pytest.mark.parametrize(
    "change",
    [
        lambda p: p[::-1],
        lambda p: p[:, ::-1],
        lambda p: p.transpose(1, 0, 2),
        lambda p: np.rot90(p),
        lambda p: shift(p, (0, 3, 0), mode="nearest"),
        lambda p: np.roll(p, 40, axis=0),
        lambda p: rotate(p, 5, reshape=False, mode="nearest", order=1),
        enlarged,
        lambda p: np.full_like(p, 128),
        lambda p: texture(99),
    ],
)
def test_what_moves_pixels_is_seen(change: Callable[[Picture], Picture]) -> None:
    assert all(moves(texture(seed), np.ascontiguousarray(change(texture(seed)))) for seed in range(3))


def test_a_rare_move_is_found() -> None:
    def sometimes(picture: Picture, seed: int) -> Picture:
        return picture[::-1] if np.random.default_rng(seed).random() < 0.1 else picture

    assert moving_seed(sometimes, 48) is not None


def test_our_own_stain_shift_moves_nothing() -> None:
    import torch

    def stained(picture: Picture, seed: int) -> Picture:
        drawn = random_stain_shift(np.random.default_rng(seed), 0.5, 0.5)
        image = torch.from_numpy(picture).permute(2, 0, 1)[None] / 255.0
        changed = shift_stain(image, torch.from_numpy(drawn.matrix)[None], torch.from_numpy(drawn.offset)[None])
        return (changed[0].permute(1, 2, 0) * 255).byte().numpy()

    assert moving_seed(stained, 12) is None
