"""How sure a prediction is: probabilities, a temperature that mends them, and a picture beside each mask."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patch2tissue.data.images import read_image
from patch2tissue.errors import DataError
from patch2tissue.inference.png import write_png

LEVELS = 255
"""A confidence picture holds the confidence times this, rounded."""


def apply_temperature(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """Probabilities as if the logits had been divided by a temperature (Guo et al., ICML 2017).

    Args:
        probabilities: float [K, ...], summing to one over K; where all are zero, as outside of a slide's tissue, they
            stay so.
        temperature: above 1 makes them less sure, below 1 surer; the order of the tissues stays.

    Returns:
        float32 of the same shape.
    """
    if temperature == 1.0:
        return np.asarray(probabilities, np.float32)
    # relative to the largest, which no power can push below the smallest number there is
    relative = probabilities / np.maximum(probabilities.max(axis=0, keepdims=True), np.finfo(np.float32).tiny)
    powers = np.power(relative, 1.0 / temperature, dtype=np.float32)
    total = np.maximum(powers.sum(axis=0, keepdims=True), np.finfo(np.float32).tiny)
    return np.asarray(powers / total, np.float32)


def confidence_map(probabilities: np.ndarray) -> np.ndarray:
    """The probability of the likeliest tissue: float [K, H, W] to uint8 [H, W] in 1/255."""
    levels = np.rint(LEVELS * np.clip(probabilities.max(axis=0), 0.0, 1.0))
    return np.asarray(levels, np.uint8)


def write_confidence(path: Path, confidence: np.ndarray) -> None:
    """Write a confidence picture, uint8 [H, W], as grey PNG, atomically."""
    write_png(path, confidence)


def confidence_beside(mask: Path) -> Path | None:
    """The confidence picture that `predict` wrote beside a mask, None if there is none."""
    path = confidence_file(mask)
    return path if path != mask and path.is_file() else None


def confidence_file(mask: Path) -> Path:
    """Where `predict` writes the confidence of `NAME_mask.png`."""
    return mask.with_name(mask.name.replace("_mask.png", "_confidence.png"))


def read_confidence(path: Path, shape: tuple[int, int]) -> np.ndarray:
    """Read what `write_confidence` wrote, uint8 [H, W].

    Raises:
        DataError: if it cannot be read, or is not of this shape.
    """
    confidence = read_image(path)[..., 0]
    if confidence.shape != shape:
        raise DataError(
            f"{path}: is {confidence.shape[1]}×{confidence.shape[0]} px, but its mask is {shape[1]}×{shape[0]} px. "
            "Remove it and predict again."
        )
    return confidence
