"""A temperature without masks: what it is, that it is used, and what it leaves alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.errors import DataError
from patch2tissue.inference.calibrate import calibrate_run, fit_temperature
from patch2tissue.inference.confidence import apply_temperature
from patch2tissue.inference.predict import predict_images
from patch2tissue.inference.temperature import TEMPERATURE_FILE, read_temperature
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE
from patch2tissue.run_folder import RunFolder


@settings(deadline=None, max_examples=20)
@given(st.integers(0, 1000), st.floats(0.3, 4))
def test_the_temperature_of_samples_is_found(seed: int, temperature: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, 20_000)) * 2
    sure = np.exp(logits) / np.exp(logits).sum(axis=0)
    true = apply_temperature(sure, temperature)
    labels = (rng.random(true.shape[1]) > true.cumsum(axis=0)).sum(axis=0).clip(max=3)
    assert fit_temperature(sure.astype(np.float32), labels) == pytest.approx(temperature, rel=0.15)


@pytest.fixture
def run(trained_runs: tuple[Path, Path, Path], tmp_path: Path) -> RunFolder:
    copy = tmp_path / "run"
    shutil.copytree(trained_runs[1], copy)
    return RunFolder(copy)


def test_masks_stay_and_confidences_change(run: RunFolder, tmp_path: Path, run_command: Callable[..., int]) -> None:
    (run.pfscnet / DISTRIBUTION_FILE).unlink(missing_ok=True)
    images = sorted((Path(run.config().data.path) / "test" / "img").iterdir())
    before = predict_images(run, images, tmp_path / "before", progress=False)
    assert run_command("calibrate", run.path) == 0
    found = json.loads((run.pfscnet / TEMPERATURE_FILE).read_text())
    assert found["temperature"] != 1 and 0 < found["agreement"] <= 1 and found["patches"] > 0
    after = predict_images(run, images, tmp_path / "after", progress=False)
    for one, other in zip(before, after, strict=True):
        assert one.mask is not None and other.mask is not None
        assert one.areas == other.areas
        assert one.confidence != other.confidence
        # surer with a low temperature, less sure with a high one
        assert one.confidence is not None and other.confidence is not None
        assert (other.confidence > one.confidence) == (found["temperature"] < 1)


def test_no_mask_is_read(run: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    import patch2tissue.inference.calibrate as module

    read = []
    real = module.read_mask
    monkeypatch.setattr(module, "read_mask", lambda path, tissues: read.append(path) or real(path, tissues))
    calibrate_run(run, progress=False)
    assert read and all(run.pseudo_labels in path.parents for path in read)


def test_a_temperature_of_other_weights_is_not_used(run: RunFolder, caplog: pytest.LogCaptureFixture) -> None:
    calibrate_run(run, progress=False)
    assert read_temperature(run.pfscnet) != 1
    path = run.pfscnet / TEMPERATURE_FILE
    path.write_text(json.dumps(json.loads(path.read_text()) | {"weights": "of others"}))
    assert read_temperature(run.pfscnet) == 1
    assert "other weights" in caplog.text


@pytest.mark.parametrize("content", ["", "[]", '{"temperature": "hot"}', '{"temperature": -1, "weights": ""}'])
def test_a_broken_temperature_is_refused(run: RunFolder, content: str) -> None:
    (run.pfscnet / TEMPERATURE_FILE).write_text(content)
    with pytest.raises(DataError, match=r"temperature\.json.*patch2tissue calibrate"):
        read_temperature(run.pfscnet)


def test_what_is_missing_is_named(run: RunFolder, tmp_path: Path, run_command: Callable[..., int]) -> None:
    assert run_command("calibrate", tmp_path / "none") == 2
    shutil.rmtree(run.pseudo_labels / "variants")
    with pytest.raises(DataError, match=r"last_epoch.*patch2tissue train"):
        calibrate_run(run, progress=False)
    (run.pfscnet / "finished").unlink()
    with pytest.raises(DataError, match="not trained yet"):
        calibrate_run(run, progress=False)
