"""Pictures that are unlike the training patches are told of; those that are like them are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from safetensors.numpy import save_file
from tiny_run import real_run

from patch2tissue.data.images import read_image
from patch2tissue.data.patches import Patch
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.errors import DataError
from patch2tissue.inference.familiarity import Familiarity, unlike_training
from patch2tissue.inference.predict import predict_images
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.training_distribution import (
    DISTRIBUTION_FILE,
    KINDS,
    TrainingDistribution,
    describe,
    learn_distribution,
)

SIDE = 48


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("synthetic")
    make_synthetic(folder, train=90, val=0, test=24, size=SIDE, difficulty="easy", seed=0)
    return folder


def pictures(folder: Path) -> list[Path]:
    return sorted(folder.glob("*.png"))


@pytest.fixture(scope="module")
def run(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An untrained network: what its features are of does not matter here."""
    folder = real_run(tmp_path_factory.mktemp("run"), "bcss-wsss")
    predictor = Predictor.from_run(folder)
    # train and test of the synthetic tissue come from other patients with stains of their own; here both are known
    known = [Patch(path, path.stem, patient=path.stem) for path in pictures(data / "train")]
    found = learn_distribution(predictor.network, known, SIDE, device=predictor.device, dtype=None, progress=False)
    assert found is not None
    found.save(folder / "pfscnet" / DISTRIBUTION_FILE)
    return folder


def test_distances_are_those_of_a_slow_reference() -> None:
    rng = np.random.default_rng(0)
    features = {"texture": rng.normal(size=(60, 5)) * [1, 2, 3, 4, 0], "colour": rng.normal(size=(60, 6))}
    known = TrainingDistribution.of(features, [f"p{n % 12}" for n in range(60)], 32)
    from sklearn.covariance import LedoitWolf

    for kind in KINDS:
        reference = LedoitWolf().fit(features[kind])
        expected = np.sqrt(reference.mahalanobis(features[kind]))
        np.testing.assert_allclose(known.gaussians[kind].distance(features[kind]), expected, rtol=1e-3)
        # left out with its patient, a patch lies farther
        assert np.median(known.distances[kind]) > np.median(expected)
        assert (np.diff(known.distances[kind]) >= 0).all()


def test_windows_are_described_one_by_one() -> None:
    torch.manual_seed(0)
    images, fine = torch.rand(2, 3, 64, 96), torch.rand(2, 7, 16, 24)
    images[1, :, :32, 32:64] = 1.0
    features, glass = describe(images, fine, 32)
    assert features["texture"].shape == (2, 6, 14) and features["colour"].shape == (2, 6, 6)
    window = fine[0, :, 8:16, 16:24]
    np.testing.assert_allclose(features["texture"][0, 5, :7], window.mean(dim=(1, 2)), rtol=1e-5)
    np.testing.assert_allclose(features["texture"][0, 5, 7:], window.std(dim=(1, 2), correction=0), rtol=1e-4)
    density = -torch.log10((images[0, :, 32:, 64:] * 255 + 1) / 256)
    np.testing.assert_allclose(features["colour"][0, 5, :3], density.mean(dim=(1, 2)), rtol=1e-4)
    assert glass.nonzero()[0].tolist() == [1] and glass.nonzero()[1].tolist() == [1]


@pytest.mark.parametrize("side", [(48, 48), (20, 33), (3, 2), (150, 49)])
def test_any_size_is_described(side: tuple[int, int]) -> None:
    height, width = side
    features, glass = describe(torch.rand(1, 3, height, width), torch.rand(1, 4, -(-height // 4), -(-width // 4)), 48)
    assert np.isfinite(features["texture"]).all() and features["texture"].shape[:2] == glass.shape


def test_unlike_pictures_are_warned_of(run: Path, data: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    like = pictures(data / "train")[::7]

    def warnings(change: Callable[[Image.Image], Image.Image]) -> str:
        folder = tmp_path / "images"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for path in like:
            change(Image.fromarray(read_image(path))).save(folder / path.name)
        caplog.clear()
        results = predict_images(run, [folder], tmp_path / "out", progress=False)
        assert all(result.familiarity is not None for result in results)
        return caplog.text

    assert warnings(lambda image: image) == ""
    assert "texture is farther" in warnings(lambda image: image.filter(ImageFilter.GaussianBlur(4)))
    assert "Check the resolution" in warnings(lambda image: image.resize((192, 192)).crop((0, 0, 48, 48)))
    assert "colours are farther" in warnings(lambda image: Image.merge("RGB", image.split()[::-1]))


def test_what_is_known_of_an_image_is_in_the_table_and_survives_a_kill(run: Path, data: Path, tmp_path: Path) -> None:
    images = pictures(data / "test" / "img")[:6]
    first = predict_images(run, images, tmp_path / "out", progress=False)
    table = (tmp_path / "out" / "images.csv").read_text()
    assert table.splitlines()[0] == "image,confidence,texture,colour"
    assert len(table.splitlines()) == 7 and ",," not in table
    # a killed call has written some masks, and no table
    (tmp_path / "out" / "images.csv").unlink()
    (tmp_path / "out" / f"{images[3].stem}_mask.png").unlink()
    again = predict_images(run, images, tmp_path / "out", resume=True, progress=False)
    assert again == first and (tmp_path / "out" / "images.csv").read_text() == table


def test_one_by_one_in_a_batch_and_turned_is_alike(run: Path, data: Path) -> None:
    images = [read_image(path) for path in pictures(data / "test" / "img")[:4]]
    predictor = Predictor.from_run(run)
    alone = [predictor.predict_array(image).familiarity for image in images]
    assert [found.familiarity for found in predictor.predict_arrays(images)] == alone
    turned = [found.familiarity for found in Predictor.from_run(run, symmetries=True).predict_arrays(images)]
    assert turned == alone, "only the upright picture is looked at"
    assert predictor.predict_array(np.full((48, 48, 3), 250, np.uint8)).familiarity is None, "glass"


def test_few_pictures_must_be_odder_to_be_told_of() -> None:
    odd = Familiarity(0.9, 0.5)
    assert not unlike_training([odd] * 4, "it", None)
    (warning,) = unlike_training([odd] * 5, "it", 0.5)
    assert "90%" in warning and "0.5 µm per pixel" in warning
    (warning,) = unlike_training([Familiarity(0.1, 1.0)], "it", None)
    assert "colours" in warning and "than all of them" in warning
    assert unlike_training([], "it", None) == []


def test_too_few_patches_say_nothing(run: Path, data: Path) -> None:
    few = [Patch(path, path.stem) for path in pictures(data / "train")[:10]]
    predictor = Predictor.from_run(run)
    assert learn_distribution(predictor.network, few, SIDE, device=predictor.device, dtype=None) is None


def test_a_broken_file_is_refused(run: Path, tmp_path: Path) -> None:
    path = tmp_path / DISTRIBUTION_FILE
    shutil.copy(run / "pfscnet" / DISTRIBUTION_FILE, path)
    again = tmp_path / "again"
    TrainingDistribution.load(path).save(again)
    assert again.read_bytes() == path.read_bytes()
    path.write_bytes(path.read_bytes()[:500])
    with pytest.raises(DataError, match=r"patch2tissue calibrate"):
        TrainingDistribution.load(path)
    save_file({"side": np.array([32])}, path)
    with pytest.raises(DataError, match=r"Delete it"):
        TrainingDistribution.load(path)
