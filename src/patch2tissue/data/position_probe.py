"""Whether a function of pictures leaves everything where it is: tried on a made picture, since code does not tell.

Attention is accumulated over the epochs in the patch's own frame, and pseudo labels lie on its pixels, so that what
moves pixels must be undone exactly. Colours may change at will, and edges may blur.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.ndimage import gaussian_filter
from skimage.feature import match_template

Recolor = Callable[[np.ndarray, int], np.ndarray]
"""Takes uint8 RGB [H, W, 3] and a seed, and gives uint8 RGB [H, W, 3]."""

SIDE = 160
TOLERANCE = 2
"""Pixels that a piece may seem to move by, a quarter of an attention position: motion blur is not quite symmetric."""

_PIECE, _REACH = 24, 12
_LEAST_LIKENESS = 0.25  # unrelated texture comes to about this by chance
_MOST_MOVED = 0.2  # share of the pieces


def texture(seed: int) -> np.ndarray:
    """A picture in the colours of H&E without any repetition or symmetry, uint8 [160, 160, 3]."""
    rng = np.random.default_rng(seed)
    # fine texture tells small moves, coarse texture outlasts blurring
    layers = [gaussian_filter(rng.normal(size=(SIDE, SIDE)), sigma) for sigma in (1.5, 4.0)]
    noise = sum(layer / layer.std() for layer in layers)
    share = 1.0 / (1.0 + np.exp(-1.5 * noise))
    pale, dark = np.array((240.0, 205.0, 225.0)), np.array((95.0, 55.0, 130.0))
    return np.asarray(np.rint(pale + share[..., None] * (dark - pale)), np.uint8)


def moves(before: np.ndarray, after: np.ndarray) -> bool:
    """Whether pieces of a picture lie elsewhere in another one, or none can be found again.

    Args:
        before: uint8 [H, W, 3], without repetition.
        after: likewise; its colours do not matter.
    """
    one, other = (picture.astype(np.float32).mean(axis=2) for picture in (before, after))
    found = moved = pieces = 0
    for top in range(_REACH, one.shape[0] - _PIECE - _REACH + 1, _PIECE):
        for left in range(_REACH, one.shape[1] - _PIECE - _REACH + 1, _PIECE):
            pieces += 1
            piece = one[top : top + _PIECE, left : left + _PIECE]
            around = other[top - _REACH : top + _PIECE + _REACH, left - _REACH : left + _PIECE + _REACH]
            if around.std() < 1.0:
                continue  # erased
            likeness = np.abs(match_template(around, piece))  # a negative is at its place, too
            best = np.unravel_index(int(likeness.argmax()), likeness.shape)
            if likeness[best] < _LEAST_LIKENESS:
                continue
            found += 1
            moved += bool(max(abs(int(place) - _REACH) for place in best) > TOLERANCE)
    return moved > _MOST_MOVED * pieces or found < pieces / 4


def moving_seed(recolor: Recolor, tries: int) -> int | None:
    """The first of the seeds 0, 1, … with which a function moves pixels; None if it does with none of them."""
    for seed in range(tries):
        before = texture(seed)
        if moves(before, recolor(before.copy(), seed)):
            return seed
    return None
