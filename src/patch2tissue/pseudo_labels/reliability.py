"""Which pseudo labels are good enough to learn from."""

from __future__ import annotations

import numpy as np


def unreliable_pixels(
    labels: np.ndarray, confidence: np.ndarray, *, margin: float = 0.0, reliable_share: float = 1.0
) -> np.ndarray:
    """Pixels whose pseudo label should be ignored.

    Stage 2 then learns from the surest part of each tissue, and the dense energy loss decides where between them the
    edge runs [RRM: Zhang et al., AAAI 2020, for the idea of a share per class; a share within each patch is our
    reading]. A share per tissue, unlike a margin, never takes a tissue away that is merely less sure of itself.

    Args:
        labels: integer [H, W], the most likely tissue.
        confidence: float [H, W] in 0..1; the same everywhere, as where one tissue is present, is reliable everywhere.
        margin: confidence below this is unreliable.
        reliable_share: share, in 0..1, of each tissue's pixels that is kept, the surest ones (ties are kept too).

    Returns:
        bool [H, W].

    >>> labels = np.array([[0, 0, 1, 1]])
    >>> unreliable_pixels(labels, np.array([[0.9, 0.5, 0.2, 0.1]]), reliable_share=0.5)
    array([[False,  True, False,  True]])
    """
    unreliable = confidence < margin
    if reliable_share < 1.0:
        for tissue in np.unique(labels):
            of_tissue = labels == tissue
            least = np.quantile(confidence[of_tissue], 1.0 - reliable_share)
            unreliable |= of_tissue & (confidence < least)
    return np.asarray(unreliable)
