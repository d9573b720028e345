"""Bootstrap intervals over patients or slides: patches of one patient are not independent."""

from __future__ import annotations

import numpy as np

from patch2tissue.evaluation.scores import scores_from_counts

RESAMPLES = 1000


def bootstrap_miou(counts: np.ndarray, *, resamples: int = RESAMPLES, seed: int = 0) -> tuple[float, float]:
    """95% percentile interval of MIoU.

    Args:
        counts: confusion counts per group (patient, slide or image), [G, K, K + 1].
        resamples: bootstrap samples; each draws G groups with replacement.
        seed: of the draws.

    Returns:
        (low, high); (NaN, NaN) for fewer than two groups, since one group says nothing about spread, and where nothing
        was scored.
    """
    groups = counts.shape[0]
    if groups < 2 or not counts.any():
        return float("nan"), float("nan")
    rng = np.random.default_rng(seed)
    drawn = rng.multinomial(groups, np.full(groups, 1.0 / groups), size=resamples)
    summed = np.tensordot(drawn.astype(np.float64), counts.astype(np.float64), axes=1)
    miou = scores_from_counts(summed)["miou"]
    # a sample may consist of groups without a scored pixel alone
    low, high = np.percentile(miou[~np.isnan(miou)], [2.5, 97.5])
    return float(low), float(high)
