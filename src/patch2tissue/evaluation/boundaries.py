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

    def update(self, prediction: np.ndarray, truth: np.ndarray) -> None:
        """Count one image; arguments as in `ConfusionMatrix.update`."""
        scored = truth != IGNORE_INDEX
        for tissue in range(self.tissues):
            found = np.argwhere(tissue_boundary(prediction, tissue, scored))
            wanted = np.argwhere(tissue_boundary(truth, tissue, scored))
            to_wanted = self._distances(found, wanted)
            to_found = self._distances(wanted, found)
            for i, tolerance in enumerate(self.tolerances):
                self.counts[i, tissue] += (
                    np.count_nonzero(to_wanted <= tolerance),
                    to_wanted.size,
                    np.count_nonzero(to_found <= tolerance),
                    to_found.size,
                )

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
        """`boundary_f_<tolerance>px`: mean over tissues that have a boundary in truth or prediction; NaN if none."""
        result = {}
        for i, tolerance in enumerate(self.tolerances):
            each = []
            for hit_found, found, hit_wanted, wanted in self.counts[i]:
                if found + wanted == 0:
                    continue
                precision = hit_found / found if found else 0.0
                recall = hit_wanted / wanted if wanted else 0.0
                each.append(0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall))
            result[f"boundary_f_{tolerance:g}px"] = float(np.mean(each)) if each else float("nan")
        return result
