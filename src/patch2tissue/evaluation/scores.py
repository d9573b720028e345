"""Scores from one confusion matrix over all scored pixels of a split (the protocol of Han C. et al., MLPS, 2022)."""

from __future__ import annotations

from typing import Any

import numpy as np

from patch2tissue.tissues import IGNORE_INDEX, TissueSet


class ConfusionMatrix:
    """Pixel counts by true and predicted tissue.

    Attributes:
        counts: int64 [K, K + 1]; row: truth, column: prediction. The last column holds scored pixels to which no tissue
            was given (background or ignored): a miss of the true tissue, and no false alarm of another.
    """

    def __init__(self, tissues: int, counts: np.ndarray | None = None) -> None:
        self.tissues = tissues
        self.counts: np.ndarray = np.zeros((tissues, tissues + 1), np.int64) if counts is None else counts

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one image.

        Args:
            prediction: uint8 [H, W]; values from K on count as no tissue.
            truth: uint8 [H, W]; 255 is not scored.

        Raises:
            ValueError: if the sizes differ.
        """
        if prediction.shape != truth.shape:
            raise ValueError(f"prediction {prediction.shape} and truth {truth.shape} differ in size")
        scored = truth != IGNORE_INDEX
        columns = np.minimum(prediction[scored].astype(np.int64), self.tissues)
        code = truth[scored].astype(np.int64) * (self.tissues + 1) + columns
        self.counts += np.bincount(code, minlength=self.counts.size).reshape(self.counts.shape)

    def __add__(self, other: ConfusionMatrix) -> ConfusionMatrix:
        return ConfusionMatrix(self.tissues, self.counts + other.counts)

    def scores(self) -> dict[str, Any]:
        """`iou` and `dice_per_tissue` [K] (NaN where a tissue is in neither), `miou`, `fwiou`, `acc`, `dice`."""
        return scores_from_counts(self.counts)


def scores_from_counts(counts: np.ndarray) -> dict[str, Any]:
    """Scores of confusion counts.

    Args:
        counts: [..., K, K + 1], see `ConfusionMatrix`; leading dimensions (bootstrap samples) are kept.

    Returns:
        Arrays of the leading shape, and [..., K] for `iou` and `dice_per_tissue`.
    """
    counts = np.asarray(counts, dtype=np.float64)
    tissues = counts.shape[-2]
    hits = np.diagonal(counts[..., :tissues], axis1=-2, axis2=-1)
    truth = counts.sum(axis=-1)
    predicted = counts[..., :tissues].sum(axis=-2)
    union = truth + predicted - hits
    with np.errstate(invalid="ignore", divide="ignore"):
        iou = np.where(union > 0, hits / union, np.nan)
        dice = np.where(truth + predicted > 0, 2 * hits / (truth + predicted), np.nan)
        frequency = truth / truth.sum(axis=-1, keepdims=True)
        acc = hits.sum(axis=-1) / truth.sum(axis=-1)
        fwiou = np.where(truth.sum(axis=-1) > 0, np.nansum(frequency * np.nan_to_num(iou), axis=-1), np.nan)
        miou = _nanmean(iou)
        mean_dice = _nanmean(dice)
    return {"iou": iou, "dice_per_tissue": dice, "miou": miou, "fwiou": fwiou, "acc": acc, "dice": mean_dice}


def _nanmean(values: np.ndarray) -> np.ndarray:
    known = ~np.isnan(values)
    return np.asarray(np.where(known, values, 0.0).sum(axis=-1) / known.sum(axis=-1))


def named(values: np.ndarray, tissues: TissueSet) -> dict[str, float | None]:
    """One value per tissue by name; None for NaN."""
    return {name: None if np.isnan(v) else float(v) for name, v in zip(tissues.names, values, strict=True)}
