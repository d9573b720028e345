"""Noise of pseudo labels, counted by hand."""

from __future__ import annotations

import json

import numpy as np
import pytest

from patch2tissue.evaluation.label_noise import pseudo_label_noise
from patch2tissue.evaluation.scores import ConfusionMatrix
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("wsss4luad")


def test_counted_by_hand() -> None:
    truth = np.array([[0, 0, 0, 0, 0, 1, 1, 1, 255, 255]], np.uint8)
    label = np.array([[0, 0, 0, 1, 255, 1, 2, 255, 0, 1]], np.uint8)
    confusion = ConfusionMatrix(3)
    confusion.update(label, truth)
    noise = pseudo_label_noise(confusion.counts, TISSUES)
    assert noise["labelled_share"] == pytest.approx(6 / 8)
    assert noise["wrong_share"] == pytest.approx(2 / 6)
    tumour, stroma, normal = TISSUES.names
    assert noise["taken_for"][tumour] == pytest.approx({tumour: 0.75, stroma: 0.25, normal: 0})
    assert noise["taken_for"][stroma] == pytest.approx({tumour: 0, stroma: 0.5, normal: 0.5})
    assert noise["taken_for"][normal] == {tumour: None, stroma: None, normal: None}


def test_ignored_pixels_are_not_wrong_and_nothing_is_null() -> None:
    confusion = np.array([[5, 0, 0, 95], [0, 0, 0, 0], [0, 0, 0, 0]])
    noise = pseudo_label_noise(confusion, TISSUES)
    assert noise["wrong_share"] == 0 and noise["labelled_share"] == 0.05
    nothing = pseudo_label_noise(np.zeros((3, 4), int), TISSUES)
    assert nothing["wrong_share"] is None and nothing["labelled_share"] is None
    json.dumps(nothing, allow_nan=False)
