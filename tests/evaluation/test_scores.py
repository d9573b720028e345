"""Scores against scikit-learn and torchmetrics, over a grid of inputs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from patch2tissue.evaluation.scores import ConfusionMatrix, named, scores_from_counts
from patch2tissue.tissues import load_tissue_set


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 9999), tissues=st.integers(2, 5), ignored=st.floats(0, 0.5))
def test_equals_scikit_learn(seed: int, tissues: int, ignored: float) -> None:
    rng = np.random.default_rng(seed)
    truth = rng.integers(0, tissues, (12, 17)).astype(np.uint8)
    prediction = rng.integers(0, tissues, (12, 17)).astype(np.uint8)
    truth[rng.random(truth.shape) < ignored] = 255
    confusion = ConfusionMatrix(tissues)
    # in two pieces: counts add up
    confusion.update(prediction[:5], truth[:5])
    confusion.update(prediction[5:], truth[5:])
    scores = confusion.scores()
    scored = truth != 255
    t, p = truth[scored], prediction[scored]
    labels = list(range(tissues))
    np.testing.assert_allclose(
        np.nan_to_num(scores["iou"]), jaccard_score(t, p, labels=labels, average=None, zero_division=0)
    )
    np.testing.assert_allclose(
        np.nan_to_num(scores["dice_per_tissue"]), f1_score(t, p, labels=labels, average=None, zero_division=0)
    )
    assert math.isclose(scores["acc"], accuracy_score(t, p))
    frequency = np.bincount(t, minlength=tissues) / t.size
    assert math.isclose(scores["fwiou"], float((frequency * np.nan_to_num(scores["iou"])).sum()))
    reference = MulticlassJaccardIndex(tissues, ignore_index=255, average="none")
    expected = reference(torch.from_numpy(prediction).long(), torch.from_numpy(truth).long()).numpy()
    np.testing.assert_allclose(np.nan_to_num(scores["iou"]), expected, atol=1e-6)


def test_a_tissue_in_neither_is_left_out_of_the_mean() -> None:
    confusion = ConfusionMatrix(3)
    confusion.update(np.array([[0, 0, 1]], np.uint8), np.array([[0, 1, 1]], np.uint8))
    scores = confusion.scores()
    assert math.isnan(scores["iou"][2])
    assert math.isclose(scores["miou"], 0.5)
    assert named(scores["iou"], load_tissue_set("wsss4luad"))["normal tissue"] is None


def test_pixels_without_a_predicted_tissue_are_misses() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.array([[0, 255, 2, 1]], np.uint8), np.array([[0, 0, 1, 1]], np.uint8))
    scores = confusion.scores()
    np.testing.assert_allclose(scores["iou"], [0.5, 0.5])
    assert scores["acc"] == 0.5


def test_nothing_scored_is_nan_and_sizes_must_match() -> None:
    confusion = ConfusionMatrix(2)
    confusion.update(np.zeros((2, 2), np.uint8), np.full((2, 2), 255, np.uint8))
    assert all(math.isnan(confusion.scores()[key]) for key in ("miou", "acc", "fwiou", "dice"))
    with pytest.raises(ValueError, match="size"):
        confusion.update(np.zeros((2, 2), np.uint8), np.zeros((2, 3), np.uint8))


def test_leading_dimensions_are_samples() -> None:
    counts = np.random.default_rng(0).integers(1, 50, (4, 3, 4))
    together = scores_from_counts(counts)
    for i in range(4):
        np.testing.assert_allclose(together["iou"][i], scores_from_counts(counts[i])["iou"])
