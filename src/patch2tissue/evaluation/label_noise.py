"""How wrong pseudo labels are: the share of wrong pixels, and which tissue is taken for which."""

from __future__ import annotations

from typing import Any

import numpy as np

from patch2tissue.tissues import TissueSet


def pseudo_label_noise(confusion: np.ndarray, tissues: TissueSet) -> dict[str, Any]:
    """Noise of pseudo labels against masks.

    Unlike `acc`, it does not count ignored pixels as wrong: stage 2 does not learn from them.

    Args:
        confusion: pixels, [K, K + 1]; row: mask, column: pseudo label, the last one: ignored.
        tissues: names of the K tissues.

    Returns:
        `labelled_share`: share of scored pixels that carry a label; `wrong_share`: share of those whose label is wrong;
        `taken_for`: by true tissue, the share of its labelled pixels by pseudo label. None where there is no pixel.
    """
    labelled = confusion[:, : len(tissues)]
    per_tissue = labelled.sum(axis=1)
    return {
        "labelled_share": _share(labelled.sum(), confusion.sum()),
        "wrong_share": _share(labelled.sum() - np.trace(labelled), labelled.sum()),
        "taken_for": {
            true: {other: _share(count, total) for other, count in zip(tissues.names, row, strict=True)}
            for true, row, total in zip(tissues.names, labelled, per_tissue, strict=True)
        },
    }


def _share(part: Any, whole: Any) -> float | None:
    return None if whole == 0 else float(part) / float(whole)
