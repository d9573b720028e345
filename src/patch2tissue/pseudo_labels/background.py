"""The background rule: pixels whiter than a threshold are glass, not tissue."""

from __future__ import annotations

import numpy as np
from scipy.ndimage import median_filter


def white_pixels(image: np.ndarray, white_above: int) -> np.ndarray:
    """Find white background.

    Args:
        image: RGB uint8 [H, W, 3].
        white_above: a pixel is white if R, G and B all exceed this value (0..255), in the 3×3 median so that single
            pixels of noise do not count.

    Returns:
        bool [H, W].
    """
    darkest = image.min(axis=2)
    return np.asarray(median_filter(darkest, size=3, mode="nearest") > white_above)
