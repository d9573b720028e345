"""Expected calibration error against torchmetrics, and the confidence pictures it comes from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.functional.classification import binary_calibration_error

from patch2tissue.data.images import write_mask
from patch2tissue.errors import DataError
from patch2tissue.evaluation.calibration import BINS, CalibrationCounts
from patch2tissue.evaluation.folders import evaluate_folders
from patch2tissue.inference.confidence import apply_temperature, confidence_map, read_confidence, write_confidence
from patch2tissue.tissues import load_tissue_set

BCSS = load_tissue_set("bcss-wsss")


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10_000), st.floats(0, 1))
def test_the_error_is_that_of_torchmetrics(seed: int, right: float) -> None:
    rng = np.random.default_rng(seed)
    # not on the edge of a bin, of which torchmetrics' own rounding decides on which side it lies
    levels = np.array([level for level in range(256) if level % 17], np.uint8)
    confidence = rng.choice(levels, (20, 30))
    truth = rng.integers(0, 4, (20, 30)).astype(np.uint8)
    prediction = np.where(rng.random((20, 30)) < right, truth, (truth + 1) % 4).astype(np.uint8)
    counts = CalibrationCounts()
    for half in (slice(0, 7), slice(7, 20)):
        part = CalibrationCounts()
        part.update(prediction[half], truth[half], confidence[half], 4)
        counts.merge(part)
    sure = torch.from_numpy(confidence.ravel().astype(np.float32) / 255)
    correct = torch.from_numpy((prediction == truth).ravel().astype(np.int64))
    assert counts.ece() == pytest.approx(float(binary_calibration_error(sure, correct, n_bins=BINS)), abs=1e-5)


def test_only_scored_pixels_that_were_given_a_tissue_count() -> None:
    counts = CalibrationCounts()
    assert counts.ece() is None
    prediction = np.array([[0, 1, 4, 1]], np.uint8)
    counts.update(prediction, np.array([[0, 255, 0, 0]], np.uint8), np.full((1, 4), 204, np.uint8), 4)
    assert counts.counts.sum() == 2
    assert counts.ece() == pytest.approx(0.8 - 0.5)
    assert counts.bins() == {"confidence": [pytest.approx(0.8)], "accuracy": [0.5], "share": [1.0]}


@settings(deadline=None)
@given(st.integers(0, 1000), st.floats(0.05, 20))
def test_a_temperature_keeps_the_order_and_divides_the_logits(seed: int, temperature: float) -> None:
    logits = np.random.default_rng(seed).normal(size=(4, 5, 6)) * 3
    probabilities = torch.softmax(torch.from_numpy(logits), dim=0).numpy()
    found = apply_temperature(probabilities, temperature)
    expected = torch.softmax(torch.from_numpy(logits / temperature), dim=0).numpy()
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert found.dtype == np.float32 and np.isfinite(found).all()
    np.testing.assert_array_equal(apply_temperature(probabilities, 1.0), probabilities.astype(np.float32))


def test_a_temperature_bears_certainty() -> None:
    certain = np.array([[1.0, 0.0], [0.0, 1e-30]], np.float32)
    assert np.isfinite(apply_temperature(certain, 0.01)).all()
    with np.errstate(all="raise"):  # where no tile of a slide lies, there is nothing
        assert (apply_temperature(np.zeros((3, 2, 2), np.float32), 0.5) == 0).all()
    assert confidence_map(certain).tolist() == [255, 0]


def test_confidence_beside_masks_is_scored(tmp_path: Path) -> None:
    truth = np.zeros((10, 10), np.uint8)
    prediction = truth.copy()
    prediction[:2] = 1
    write_mask(tmp_path / "masks" / "a.png", truth, BCSS)
    write_mask(tmp_path / "out" / "a_mask.png", prediction, BCSS)
    assert "ece" not in evaluate_folders(tmp_path / "out", tmp_path / "masks", BCSS).to_dict()
    write_confidence(tmp_path / "out" / "a_confidence.png", np.full((10, 10), 255, np.uint8))
    scores = evaluate_folders(tmp_path / "out", tmp_path / "masks", BCSS)
    assert scores.to_dict()["ece"] == pytest.approx(0.2)
    assert scores.detail()["reliability"]["accuracy"] == [pytest.approx(0.8)]


def test_confidence_of_another_size_is_refused(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((3, 4), np.uint8)).save(tmp_path / "a_confidence.png")
    with pytest.raises(DataError, match=r"a_confidence\.png.*predict again"):
        read_confidence(tmp_path / "a_confidence.png", (4, 4))
