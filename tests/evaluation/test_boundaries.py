"""Boundary F-score against a brute-force reference and known shifts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.evaluation.boundaries import BoundaryCounts, boundary_f_scores, tissue_boundary


def brute_force(prediction: np.ndarray, truth: np.ndarray, tissues: int, tolerance: float) -> float:
    """Every pixel against every pixel."""
    height, width = truth.shape

    def edge(labels: np.ndarray, tissue: int) -> list[tuple[int, int]]:
        found = []
        for y in range(height):
            for x in range(width):
                if truth[y, x] == 255 or labels[y, x] != tissue:
                    continue
                for dy, dx in ((0, 1), (1, 0), (0, -1), (-1, 0)):
                    ny, nx = y + dy, x + dx
                    if 0 <= ny < height and 0 <= nx < width and truth[ny, nx] != 255 and labels[ny, nx] != tissue:
                        found.append((y, x))
                        break
        return found

    def share(these: list[tuple[int, int]], those: list[tuple[int, int]]) -> float:
        near = [any(math.dist(a, b) <= tolerance for b in those) for a in these]
        return sum(near) / len(near) if near else 0.0

    scores, predicted = [], False
    for tissue in range(tissues):
        found, wanted = edge(prediction, tissue), edge(truth, tissue)
        predicted = predicted or bool(found)
        if wanted:
            precision, recall = share(found, wanted), share(wanted, found)
            scores.append(0.0 if precision + recall == 0 else 2 * precision * recall / (precision + recall))
    if not scores:
        return 0.0 if predicted else float("nan")
    return float(np.mean(scores))


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 9999))
def test_equals_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    coarse = rng.integers(0, 3, (4, 4)).astype(np.uint8)
    truth = np.kron(coarse, np.ones((4, 4), np.uint8))
    prediction = np.roll(truth, int(rng.integers(0, 4)), axis=1)
    truth = truth.copy()
    truth[rng.random(truth.shape) < 0.05] = 255
    counts = BoundaryCounts(3, (2.0, 5.0))
    counts.update(prediction, truth)
    for tolerance in (2.0, 5.0):
        found = counts.scores()[f"boundary_f_{tolerance:g}px"]
        np.testing.assert_allclose(found, brute_force(prediction, truth, 3, tolerance), equal_nan=True)


@pytest.mark.parametrize(("shift", "at_two", "at_five"), [(0, 1.0, 1.0), (2, 1.0, 1.0), (4, 0.0, 1.0), (12, 0.0, 0.0)])
def test_a_straight_edge_that_is_shifted(shift: int, at_two: float, at_five: float) -> None:
    truth = np.zeros((30, 60), np.uint8)
    truth[:, 30:] = 1
    prediction = np.zeros_like(truth)
    prediction[:, 30 + shift :] = 1
    counts = BoundaryCounts(2)
    counts.update(prediction, truth)
    assert counts.scores() == {"boundary_f_2px": at_two, "boundary_f_5px": at_five}


def test_image_border_and_unscored_regions_are_no_boundaries() -> None:
    labels = np.zeros((6, 6), np.uint8)
    scored = np.ones((6, 6), bool)
    assert not tissue_boundary(labels, 0, scored).any()
    labels[:, 3:] = 1
    scored[:, 3:] = False
    assert not tissue_boundary(labels, 0, scored).any()
    assert all(math.isnan(v) for v in BoundaryCounts(2).scores().values())


def test_counts_of_images_add_up() -> None:
    rng = np.random.default_rng(3)
    images = [(rng.integers(0, 2, (8, 8)).astype(np.uint8), rng.integers(0, 2, (8, 8)).astype(np.uint8)) for _ in "abc"]
    together, apart = BoundaryCounts(2), BoundaryCounts(2)
    for prediction, truth in images:
        together.update(prediction, truth)
        one = BoundaryCounts(2)
        one.update(prediction, truth)
        apart.merge(one)
    assert together.scores() == apart.scores()


def square(top: int, left: int, side: int = 40) -> np.ndarray:
    labels = np.zeros((100, 100), np.uint8)
    labels[top : top + side, left : left + side] = 1
    return labels


@pytest.mark.parametrize(("shift", "low", "high"), [(0, 1.0, 1.0), (1, 1.0, 1.0), (10, 0.0, 0.65)])
def test_a_square_that_is_shifted(shift: int, low: float, high: float) -> None:
    counts = BoundaryCounts(2)
    counts.update(square(30, 30 + shift), square(30, 30))
    scores = counts.scores()
    assert low <= scores["boundary_f_2px"] <= scores["boundary_f_5px"] <= high


def test_a_square_shifted_both_ways_hardly_scores() -> None:
    counts = BoundaryCounts(2)
    counts.update(square(42, 42), square(30, 30))
    assert counts.scores()["boundary_f_5px"] < 0.2


def test_an_edge_on_one_side_only_scores_nothing() -> None:
    for prediction, truth in ((square(30, 30), square(0, 0, 0)), (square(0, 0, 0), square(30, 30))):
        counts = BoundaryCounts(2)
        counts.update(prediction, truth)
        assert counts.scores() == {"boundary_f_2px": 0.0, "boundary_f_5px": 0.0}


def test_tolerance_is_euclidean_and_includes_its_end() -> None:
    def one(y: int, x: int) -> np.ndarray:
        labels = np.zeros((40, 40), np.uint8)
        labels[y, x] = 1
        return labels

    for offset, at_two, at_five in (((2, 0), 1.0, 1.0), ((2, 1), 0.0, 1.0), ((3, 4), 0.0, 1.0), ((4, 4), 0.0, 0.0)):
        counts = BoundaryCounts(2)
        counts.update(one(20 + offset[0], 20 + offset[1]), one(20, 20))
        # tissue 1 is a single pixel: its precision and recall are all or nothing
        hits = counts.counts[:, 1, 0]
        assert hits.tolist() == [at_two, at_five]


def test_a_stray_pixel_of_a_tissue_without_edges_hardly_matters() -> None:
    truth = square(30, 30)
    exact, stray = BoundaryCounts(3), BoundaryCounts(3)
    exact.update(truth, truth)
    speckled = truth.copy()
    speckled[5, 5] = 2
    stray.update(speckled, truth)
    assert exact.scores()["boundary_f_2px"] == 1.0
    # the pixels around it are false edges of the tissue that was there, so it is not free either
    assert 0.98 < stray.scores()["boundary_f_2px"] < 1.0


def test_scores_of_stacked_counts_are_those_of_each() -> None:
    stacked = np.random.default_rng(0).integers(0, 9, (5, 2, 3, 4))
    stacked[0] = 0
    stacked[1, :, :, 3] = 0
    together = boundary_f_scores(stacked)
    for counts, found in zip(stacked.reshape(-1, 3, 4), together.flatten(), strict=True):
        one = BoundaryCounts(3, (2.0,))
        one.counts = counts[None]
        np.testing.assert_equal(one.scores()["boundary_f_2px"], found)
    assert np.isnan(together[0]).all() and (together[1] == 0).all()
