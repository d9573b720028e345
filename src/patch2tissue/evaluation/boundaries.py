"""Boundary F-score: do predicted edges lie where the true ones are, within a tolerance in pixels?

For each tissue, boundary pixels are those with another value above, below, left or right of them. Precision is the
share of predicted boundary pixels with a true one within the tolerance (Euclidean), recall the reverse; counts are
summed over the split (Csurka et al., BMVC 2013, per split instead of per image). Unscored pixels are left out: an edge
between a tissue and an unscored region, or the image border, is nobody's boundary.
"""

from __future__ import annotations

import numpy as np
from scipy.spatial import KDTree

from patch2tissue.tissues import IGNORE_INDEX


def tissue_boundary(labels: np.ndarray, tissue: int, scored: np.ndarray) -> np.ndarray:
    """Pixels of a tissue that touch a scored pixel of another one.

    Args:
        labels: uint8 [H, W].
        tissue: index of the tissue.
        scored: bool [H, W]; others take no part.

    Returns:
        bool [H, W].
    """
    inside = (labels == tissue) & scored
    outside = (labels != tissue) & scored
    touches = np.zeros_like(inside)
    touches[1:] |= outside[:-1]
    touches[:-1] |= outside[1:]
    touches[:, 1:] |= outside[:, :-1]
    touches[:, :-1] |= outside[:, 1:]
    return np.asarray(inside & touches)


class BoundaryCounts:
    """Matched and total boundary pixels per tissue and tolerance, summed over a split.

    Args:
        tissues: number of tissues K.
        tolerances: distances in pixels.
    """

    def __init__(self, tissues: int, tolerances: tuple[float, ...] = (2.0, 5.0)) -> None:
        self.tissues, self.tolerances = tissues, tolerances
        # [tolerance, tissue, (predicted matched, predicted, true matched, true)]
        self.counts: np.ndarray = np.zeros((len(tolerances), tissues, 4), np.int64)

    @property
    def margin(self) -> int:
        """Rows above and below a strip that `update` must see to count it as if it saw the whole image."""
        return int(np.ceil(max(self.tolerances))) + 2

    def update(self, prediction: np.ndarray, truth: np.ndarray, counted: slice = slice(None)) -> None:
        """Count one image, or rows of it.

        Args:
            prediction: as in `ConfusionMatrix.update`.
            truth: likewise.
            counted: the rows whose edges are counted; edges of others only match.
        """
        scored = truth != IGNORE_INDEX
        for tissue in range(self.tissues):
            found = np.argwhere(tissue_boundary(prediction, tissue, scored))
            wanted = np.argwhere(tissue_boundary(truth, tissue, scored))
            to_wanted = self._distances(self._within(found, counted, len(truth)), wanted)
            to_found = self._distances(self._within(wanted, counted, len(truth)), found)
            for i, tolerance in enumerate(self.tolerances):
                self.counts[i, tissue] += (
                    np.count_nonzero(to_wanted <= tolerance),
                    to_wanted.size,
                    np.count_nonzero(to_found <= tolerance),
                    to_found.size,
                )

    @staticmethod
    def _within(points: np.ndarray, rows: slice, height: int) -> np.ndarray:
        first, last, _ = rows.indices(height)
        return points[(points[:, 0] >= first) & (points[:, 0] < last)]

    def _distances(self, points: np.ndarray, targets: np.ndarray) -> np.ndarray:
        """Distance of each point [N, 2] to the nearest target [M, 2]; infinite beyond the largest tolerance.

        A tree over boundary pixels takes half the time of a distance transform on a patch, an eighth on a large image.
        """
        if not len(points) or not len(targets):
            return np.full(len(points), np.inf)
        distances, _ = KDTree(targets).query(points, distance_upper_bound=max(self.tolerances) + 0.5)
        return np.asarray(distances)

    def merge(self, other: BoundaryCounts) -> None:
        """Add the counts of other images."""
        self.counts += other.counts

    def scores(self) -> dict[str, float]:
        """`boundary_f_<tolerance>px`, see `boundary_f_scores`."""
        values = boundary_f_scores(self.counts)
        return {f"boundary_f_{t:g}px": float(value) for t, value in zip(self.tolerances, values, strict=True)}


def boundary_f_scores(counts: np.ndarray) -> np.ndarray:
    """Boundary F-score of counts, mean over the tissues that have a boundary in the truth.

    A tissue without one has no score of its own: a single stray pixel of it would otherwise weigh as much as all edges
    of another tissue. Its false edges are not forgiven, since each is a false edge of the tissue beside it too.

    Args:
        counts: [..., K, 4], by tissue: predicted matched, predicted, true matched, true boundary pixels.

    Returns:
        [...] in 0..1; where no tissue has a true boundary, 0 if one was predicted and NaN if none was.
    """
    hit_found, found, hit_wanted, wanted = np.moveaxis(counts.astype(np.float64), -1, 0)
    precision = np.divide(hit_found, found, out=np.zeros_like(found), where=found > 0)
    recall = np.divide(hit_wanted, wanted, out=np.zeros_like(wanted), where=wanted > 0)
    both = precision + recall
    each = np.divide(2 * precision * recall, both, out=np.zeros_like(both), where=both > 0)
    there = wanted > 0
    number = there.sum(axis=-1)
    mean = np.divide((each * there).sum(axis=-1), number, out=np.zeros(number.shape), where=number > 0)
    return np.asarray(np.where((number == 0) & (found.sum(axis=-1) == 0), np.nan, mean))
