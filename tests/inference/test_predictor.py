from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_run import COLOURS, ColourNetwork, FixedClassifier, coloured, real_run, write_config

from patch2tissue.config import InferenceConfig
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.predictor import Predictor
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import load_tissue_set

LUAD, BCSS = load_tissue_set("luad-histoseg"), load_tissue_set("bcss-wsss")


def by_colour(tissues=BCSS, classifier: FixedClassifier | None = None, **settings: object) -> Predictor:  # type: ignore[no-untyped-def]
    return Predictor(
        ColourNetwork(), tissues, InferenceConfig(tile=64, batch_size=4, **settings), classifier=classifier
    )


@pytest.mark.parametrize("size", [(1, 1), (5, 3), (64, 64), (70, 64), (17, 300), (131, 150)])
@pytest.mark.parametrize("symmetries", [False, True])
def test_images_of_any_size(size: tuple[int, int], symmetries: bool) -> None:
    image, mask = coloured(*size)
    found = by_colour(symmetries=symmetries).predict_array(image)
    np.testing.assert_array_equal(found.mask, mask)
    assert found.mask.dtype == np.uint8
    assert found.probabilities.shape == (4, *size)
    assert found.probabilities.dtype == np.float32
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1.0, atol=1e-5)


def test_white_is_background_where_the_tissue_set_says_so() -> None:
    image, mask = coloured(48, 48)
    image[10:30, 10:30] = 250
    image[40, 40] = 250  # a single bright pixel is noise
    found = by_colour(LUAD).predict_array(image)
    assert LUAD.background is not None
    assert (found.mask[11:29, 11:29] == LUAD.background.index).all()
    assert found.mask[40, 40] < 4
    np.testing.assert_array_equal(found.mask[:8], mask[:8])
    assert (by_colour(BCSS).predict_array(image).mask < 4).all()


def test_gate_takes_absent_tissues_out() -> None:
    image, mask = coloured(100, 90)
    classifier = FixedClassifier([0.9, 0.02, 0.5, 0.3])
    found = by_colour(classifier=classifier, gate=0.1).predict_array(image)
    assert set(np.unique(found.mask)) <= {0, 2, 3}
    np.testing.assert_array_equal(found.mask[mask != 1], mask[mask != 1])
    np.testing.assert_allclose(found.probabilities.sum(axis=0), 1.0, atol=1e-5)
    assert (found.probabilities[1] == 0).all()


def test_gate_that_no_tissue_passes_keeps_the_likeliest() -> None:
    image, _ = coloured(40, 40)
    found = by_colour(classifier=FixedClassifier([0.01, 0.02, 0.05, 0.03]), gate=0.5).predict_array(image)
    assert (found.mask == 2).all()


def test_gate_holds_where_the_network_rules_the_allowed_tissue_out() -> None:
    predictor = by_colour(classifier=FixedClassifier([0.01, 0.02, 0.01, 0.9]), gate=0.5)
    predictor.network.colours *= 50.0  # so far apart that softmax gives exact zeros
    image = np.broadcast_to(COLOURS[0], (20, 20, 3)).copy()
    assert (predictor.predict_array(image).mask == 3).all()


def test_images_of_one_size_share_a_pass_and_give_the_same() -> None:
    predictor = by_colour()
    images = [coloured(40, 30, seed)[0] for seed in range(6)]
    alone = [predictor.predict_array(image) for image in images]
    predictor.network.seen.clear()
    together = predictor.predict_arrays(images)
    assert [shape[0] for shape in predictor.network.seen] == [4, 2]
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_array_equal(one.mask, other.mask)
        np.testing.assert_allclose(one.probabilities, other.probabilities, atol=1e-6)


@pytest.mark.parametrize("sizes", [[], [(20, 20)], [(20, 20), (30, 20)], [(80, 80), (80, 80)]])
def test_several_images_of_any_sizes(sizes: list[tuple[int, int]]) -> None:
    cases = [coloured(*size, seed) for seed, size in enumerate(sizes)]
    found = by_colour().predict_arrays([image for image, _ in cases])
    assert len(found) == len(cases)
    for (_, mask), prediction in zip(cases, found, strict=True):
        np.testing.assert_array_equal(prediction.mask, mask)


def test_real_networks_from_a_run_folder(tmp_path: Path) -> None:
    run = real_run(tmp_path / "run")
    image, _ = coloured(50, 70)
    plain = Predictor.from_run(run).predict_array(image)
    again = Predictor.from_run(RunFolder(run), symmetries=False).predict_array(image)
    np.testing.assert_array_equal(plain.mask, again.mask)
    np.testing.assert_array_equal(plain.probabilities, again.probabilities)
    averaged = Predictor.from_run(run, symmetries=True, gate=0.1).predict_array(image)
    assert averaged.probabilities.shape == plain.probabilities.shape
    assert not np.allclose(averaged.probabilities, plain.probabilities, atol=1e-6)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_batch_size_changes_no_more_than_rounding(tmp_path: Path, precision: str) -> None:
    images = [coloured(64, 64, seed)[0] for seed in range(5)] + [coloured(150, 90, 5)[0]]
    found = []
    for size in (1, 2, 8):
        run = write_config(real_run(tmp_path / "run"), batch_size=size)
        config = RunFolder(run).config()
        config.hardware.precision = precision  # type: ignore[assignment]
        (run / "config.yaml").write_text(config.to_yaml(), encoding="utf-8")
        predictor = Predictor.from_run(run)
        assert predictor.settings.batch_size == size
        found.append([*predictor.predict_arrays(images[:5]), predictor.predict_array(images[5])])
    # one image of another patch in the batch would change far more
    allowed = 1e-6 if precision == "float32" else 1e-2
    for alone, *others in zip(*found, strict=True):
        best, second = np.sort(alone.probabilities, axis=0)[[-1, -2]]
        for other in others:
            np.testing.assert_allclose(other.probabilities, alone.probabilities, atol=allowed)
            np.testing.assert_array_equal(*(one.mask[best - second > 2 * allowed] for one in (alone, other)))


def test_averaged_prediction_turns_with_the_image(tmp_path: Path) -> None:
    predictor = Predictor.from_run(real_run(tmp_path / "run"), symmetries=True)
    image, _ = coloured(64, 64)
    straight = predictor.predict_array(image).probabilities
    turned = predictor.predict_array(np.ascontiguousarray(np.rot90(image))).probabilities
    np.testing.assert_allclose(np.rot90(straight, axes=(1, 2)), turned, atol=1e-5)


def test_options_override_the_configuration(tmp_path: Path) -> None:
    run = real_run(tmp_path / "run", symmetries=True, gate=0.3)
    configured = Predictor.from_run(run)
    assert configured.settings.symmetries
    assert configured.settings.gate == 0.3
    assert configured.classifier is not None
    plain = Predictor.from_run(run, symmetries=False, gate=0)
    assert not plain.settings.symmetries
    assert plain.settings.gate is None
    assert plain.classifier is None


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a run folder"):
        Predictor.from_run(tmp_path)
    run = write_config(tmp_path / "untrained")
    with pytest.raises(DataError, match=r"pfscnet.*no trained network"):
        Predictor.from_run(run)
    with pytest.raises(DataError, match="full_supervision"):
        Predictor.from_run(run, network="full_supervision")
    trained = real_run(tmp_path / "trained")
    (trained / "craanet" / "network.json").unlink()
    Predictor.from_run(trained)
    with pytest.raises(DataError, match="craanet"):
        Predictor.from_run(trained, gate=0.1)


@pytest.mark.parametrize("gate", [-0.1, 1.5, float("nan")])
def test_a_gate_is_a_probability(tmp_path: Path, gate: float) -> None:
    with pytest.raises(ConfigError, match="gate"):
        Predictor.from_run(write_config(tmp_path / "run"), gate=gate)


def test_a_device_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="device"):
        Predictor.from_run(real_run(tmp_path / "run"), device="tpu")


def test_probabilities_that_are_no_numbers_are_refused(tmp_path: Path) -> None:
    predictor = Predictor.from_run(real_run(tmp_path / "run"))
    with torch.no_grad():
        predictor.network.classifier.weight.fill_(torch.nan)
    image = np.full((48, 48, 3), 120, np.uint8)
    for draw in (lambda: predictor.predict_array(image), lambda: predictor.probabilities(image[None])):
        with pytest.raises(DataError, match=r"no numbers.*float32"):
            draw()
