"""How far annotators agree, and what a patch is taken to hold when several have looked at it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import combinations

from patch2tissue.labelling.store import Answer


@dataclass(frozen=True)
class Agreement:
    """Two annotators' agreement about one tissue.

    Attributes:
        annotators: their names.
        tissue: its index.
        patches: labelled by both.
        same: share of these on which they agree, 0..1.
        kappa: Cohen's kappa, -1..1; NaN where chance alone would agree on everything.
    """

    annotators: tuple[str, str]
    tissue: int
    patches: int
    same: float
    kappa: float


def cohens_kappa(both: int, first_only: int, second_only: int, neither: int) -> float:
    """Cohen's kappa of two raters (Cohen 1960): agreement beyond chance, 1 for full agreement, 0 for chance.

    Args:
        both: items that both say yes to.
        first_only: only the first says yes.
        second_only: only the second.
        neither: both say no.

    Returns:
        NaN without items, and where both always say the same one thing: chance alone would agree on everything.
    """
    count = both + first_only + second_only + neither
    if not count:
        return math.nan
    first, second = both + first_only, both + second_only
    # in whole numbers, so that full agreement is exactly 1
    expected = first * second + (count - first) * (count - second)
    if expected == count * count:
        return math.nan
    return (count * (both + neither) - expected) / (count * count - expected)


def agreements(answers: Iterable[Answer], tissues: int) -> list[Agreement]:
    """Agreement of each pair of annotators about each tissue, on the patches that both labelled.

    Args:
        answers: those that hold, as `LabelStore.answers` returns them.
        tissues: number of tissues.
    """
    labels: dict[str, dict[str, tuple[int, ...]]] = {}
    for answer in answers:
        if answer.labels is not None:
            labels.setdefault(answer.annotator, {})[answer.patch] = answer.labels
    found = []
    for pair in combinations(sorted(labels), 2):
        one, other = (labels[name] for name in pair)
        shared = one.keys() & other.keys()
        if not shared:
            continue
        for tissue in range(tissues):
            counts = [0, 0, 0, 0]
            for patch in shared:
                counts[2 * one[patch][tissue] + other[patch][tissue]] += 1
            neither, second_only, first_only, both = counts
            same = (both + neither) / len(shared)
            kappa = cohens_kappa(both, first_only, second_only, neither)
            found.append(Agreement((pair[0], pair[1]), tissue, len(shared), same, kappa))
    return found


@dataclass(frozen=True)
class Consensus:
    """What the answers about a patch come to.

    Attributes:
        labels: 0 or 1 per tissue; None if the patch cannot be trained on.
        why_not: `discarded`, `unsure`, or `disagreement` where there are no labels.
    """

    labels: tuple[int, ...] | None
    why_not: str = ""


def consensus(answers: Iterable[Answer]) -> dict[str, Consensus]:
    """What each patch is taken to hold.

    Those who are unsure have no vote. A patch is discarded if at least half of the others discard it. A tissue is
    present if more than half of the labels say so; where just half do, or no tissue is left, annotators disagree.

    Args:
        answers: those that hold, as `LabelStore.answers` returns them.
    """
    by_patch: dict[str, list[Answer]] = {}
    for answer in answers:
        by_patch.setdefault(answer.patch, []).append(answer)
    return {patch: _consensus(given) for patch, given in by_patch.items()}


def _consensus(answers: list[Answer]) -> Consensus:
    votes = [answer for answer in answers if answer.kind != "unsure"]
    if not votes:
        return Consensus(None, "unsure")
    labels = [answer.labels for answer in votes if answer.labels is not None]
    if 2 * len(labels) <= len(votes):
        return Consensus(None, "discarded")
    counts = [sum(of) for of in zip(*labels, strict=True)]
    if any(2 * count == len(labels) for count in counts):
        return Consensus(None, "disagreement")
    found = tuple(int(2 * count > len(labels)) for count in counts)
    return Consensus(found) if any(found) else Consensus(None, "disagreement")
