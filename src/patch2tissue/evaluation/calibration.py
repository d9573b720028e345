"""Whether a network is right as often as it is sure: expected calibration error (Guo et al., ICML 2017).

Counts are kept per grey level of the confidence pictures, so that any number of pixels takes the same memory;
torchmetrics keeps every pixel.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from patch2tissue.tissues import IGNORE_INDEX

BINS = 15
"""Bins of equal width, as usual in the literature."""


class CalibrationCounts:
    """Scored pixels by confidence.

    Attributes:
        counts: int64 [2, 256]: wrong and right pixels of each confidence 0..255.
    """

    def __init__(self) -> None:
        self.counts = np.zeros((2, 256), np.int64)

    def update(self, prediction: np.ndarray, truth: np.ndarray, confidence: np.ndarray, tissues: int) -> None:
        """Count one image.

        Args:
            prediction: uint8 [H, W]; values from `tissues` on (no tissue was given) are not counted.
            truth: uint8 [H, W]; 255 is not counted.
            confidence: uint8 [H, W] in 1/255.
            tissues: number of tissues K.
        """
        counted = (truth != IGNORE_INDEX) & (prediction < tissues)
        code = (prediction == truth)[counted].astype(np.int64) * 256 + confidence[counted]
        self.counts += np.bincount(code, minlength=512).reshape(2, 256)

    def merge(self, other: CalibrationCounts) -> None:
        """Add the counts of other images."""
        self.counts += other.counts

    def bins(self) -> dict[str, list[float]]:
        """Mean `confidence`, share that is right (`accuracy`) and `share` of the pixels for each bin that has any."""
        level = np.arange(256)
        place = np.clip(np.ceil(level * BINS / 255).astype(np.int64) - 1, 0, BINS - 1)
        pixels = np.bincount(place, weights=self.counts.sum(axis=0), minlength=BINS)
        sums = np.bincount(place, weights=self.counts.sum(axis=0) * level / 255, minlength=BINS)
        right = np.bincount(place, weights=self.counts[1], minlength=BINS)
        used = pixels > 0
        return {
            "confidence": (sums[used] / pixels[used]).tolist(),
            "accuracy": (right[used] / pixels[used]).tolist(),
            "share": (pixels[used] / pixels.sum()).tolist(),
        }

    def ece(self) -> float | None:
        """Mean gap between confidence and accuracy over bins, weighted by pixels; None without pixels."""
        found: dict[str, Any] = {name: np.array(values) for name, values in self.bins().items()}
        if not len(found["share"]):
            return None
        return float((np.abs(found["confidence"] - found["accuracy"]) * found["share"]).sum())
