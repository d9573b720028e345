"""How far the labelling of a data folder is."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from typing import Any

from patch2tissue.labelling.agreement import agreements
from patch2tissue.labelling.store import Answer
from patch2tissue.tissues import TissueSet

_RECENT = 50
_AWAY = 120.0
"""Seconds after which an annotator is taken to have been away."""


def progress(
    answers: Sequence[Answer], patches: int, tissues: TissueSet, annotator: str | None = None
) -> dict[str, Any]:
    """What is done, as plain values for JSON.

    Args:
        answers: those that hold, of all annotators.
        patches: number of patches.
        tissues: the tissue set.
        annotator: whose own progress is told, None for that of all.

    Returns:
        `patches`; `answered`, `labelled`, `unsure` and `discard` counts; `share`: share of each tissue among the
        labelled patches, 0..1, by name; `seconds_per_patch`: median of the last answers, None if unknown;
        `annotators`: labelled patches by name; `agreement`: a list with `annotators`, `tissue`, `patches`, `same` and
        `kappa` (None where chance alone would agree); `model`: on the patches that were drawn at random, how often the
        suggestion for each tissue was right, with `patches` and `right` by tissue, None without any.
    """
    own = [answer for answer in answers if annotator is None or answer.annotator == annotator]
    labels = [answer.labels for answer in own if answer.labels is not None]
    seconds = [answer.seconds for answer in own if answer.seconds is not None and answer.seconds <= _AWAY]
    by_name: dict[str, int] = {}
    for answer in answers:
        by_name[answer.annotator] = by_name.get(answer.annotator, 0) + (answer.kind == "labelled")
    return {
        "patches": patches,
        "answered": len({answer.patch for answer in own}),
        "labelled": len(labels),
        "unsure": sum(answer.kind == "unsure" for answer in own),
        "discard": sum(answer.kind == "discard" for answer in own),
        "share": {
            name: sum(of[k] for of in labels) / len(labels) if labels else None for k, name in enumerate(tissues.names)
        },
        "seconds_per_patch": statistics.median(seconds[-_RECENT:]) if seconds else None,
        "annotators": dict(sorted(by_name.items())),
        "agreement": [
            {
                "annotators": list(one.annotators),
                "tissue": tissues.names[one.tissue],
                "patches": one.patches,
                "same": one.same,
                "kappa": None if math.isnan(one.kappa) else one.kappa,
            }
            for one in agreements(answers, len(tissues))
        ],
        "model": _model(own, tissues),
    }


def _model(answers: Sequence[Answer], tissues: TissueSet) -> dict[str, Any] | None:
    pairs = [
        (answer.labels, answer.suggested)
        for answer in answers
        if answer.chosen == "random" and answer.labels is not None and answer.suggested is not None
    ]
    if not pairs:
        return None
    right = {
        name: sum((suggested[k] >= 0.5) == bool(labels[k]) for labels, suggested in pairs) / len(pairs)
        for k, name in enumerate(tissues.names)
    }
    return {"patches": len(pairs), "right": right}
