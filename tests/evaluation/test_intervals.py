"""Bootstrap intervals against a slow loop and on cases whose answer is known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from patch2tissue.evaluation.intervals import RESAMPLES, bootstrap_miou
from patch2tissue.evaluation.scores import scores_from_counts


def counts_of(groups: int, tissues: int, seed: int = 1) -> np.ndarray:
    counts = np.random.default_rng(seed).integers(5, 100, (groups, tissues, tissues + 1))
    counts[..., tissues] = 0
    return counts


def test_covers_and_is_seeded() -> None:
    counts = counts_of(20, 2)
    low, high = bootstrap_miou(counts)
    assert low < scores_from_counts(counts.sum(0))["miou"] < high
    assert (low, high) == bootstrap_miou(counts)
    assert (low, high) != bootstrap_miou(counts, seed=1)


def test_equals_a_slow_loop_up_to_chance() -> None:
    counts = counts_of(15, 3)
    rng = np.random.default_rng(5)
    slow = [
        float(scores_from_counts(sum(counts[g] for g in rng.integers(0, 15, 15)))["miou"]) for _ in range(RESAMPLES)
    ]
    width = np.ptp(np.percentile(slow, [2.5, 97.5]))
    np.testing.assert_allclose(bootstrap_miou(counts), np.percentile(slow, [2.5, 97.5]), atol=0.15 * width)


def test_groups_that_are_alike_leave_no_spread() -> None:
    same = np.repeat(counts_of(1, 2), 5, axis=0)
    assert np.allclose(bootstrap_miou(same), scores_from_counts(same[0])["miou"])


def test_more_groups_narrow_it() -> None:
    few, many = (np.subtract(*bootstrap_miou(counts_of(groups, 2))[::-1]) for groups in (10, 400))
    assert many < few / 3


def test_patches_of_one_patient_do_not_narrow_it() -> None:
    patients = counts_of(8, 2)
    as_patients = bootstrap_miou(patients)
    as_patches = bootstrap_miou(np.repeat(patients, 25, axis=0))
    assert np.subtract(*as_patches[::-1]) < np.subtract(*as_patients[::-1]) / 3


@pytest.mark.parametrize(
    "counts", [counts_of(1, 2), np.zeros((4, 2, 3), np.int64)], ids=["one group", "nothing scored"]
)
def test_undefined(counts: np.ndarray) -> None:
    assert all(math.isnan(value) for value in bootstrap_miou(counts))


@pytest.mark.filterwarnings("error")
def test_groups_without_scored_pixels_are_survived() -> None:
    counts = np.zeros((3, 2, 3), np.int64)
    counts[0] = [[8, 2, 0], [1, 9, 0]]
    np.testing.assert_allclose(bootstrap_miou(counts), scores_from_counts(counts[0])["miou"])
