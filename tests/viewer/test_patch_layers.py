"""Layers of patches against the files and networks they come from."""

from __future__ import annotations

import io
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.viewer.results import TISSUES

from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.data.images import read_mask, write_mask
from patch2tissue.errors import DataError
from patch2tissue.inference.predict import predict_images
from patch2tissue.run_folder import RunFolder
from patch2tissue.viewer.layers import Look, deepest_level
from patch2tissue.viewer.patch_layers import AttentionLayer, MaskLayer, NetworkLayer, PatchLayer
from patch2tissue.viewer.runs import ViewedRun

Runs = tuple[Path, Path, Path]


def drawn(layer: PatchLayer, look: Look) -> np.ndarray:
    """The whole layer as a browser shows it, RGBA."""
    content = layer.tile(deepest_level(*layer.size), 0, 0, look)
    return np.asarray(Image.open(io.BytesIO(content)).convert("RGBA"))


def coloured(classes: np.ndarray) -> np.ndarray:
    found = np.zeros((*classes.shape, 4), np.uint8)
    for k, colour in enumerate(TISSUES.colors):
        found[classes == k] = (*colour, 255)
    return found


def test_the_network_draws_what_predict_writes(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    image = min((data / "test" / "img").iterdir())
    predict_images(one, [image], tmp_path, probabilities=True, progress=False)
    network = NetworkLayer(image, ViewedRun(one), 0.25)
    written = MaskLayer(image, TISSUES, 0.25, tmp_path / f"{image.stem}_mask.png")
    assert written.has_heat
    for look in (Look(), Look((True, False)), *(Look(heat=k) for k in range(4))):
        # probabilities are written in half precision, which may round to the next of 256 colours
        np.testing.assert_allclose(drawn(network, look), drawn(written, look), atol=0 if look.heat is None else 5)
    np.testing.assert_array_equal(drawn(network, Look()), coloured(read_mask(written.path, TISSUES)))
    shares = network.shares(None)
    assert sum(one["share"] for one in shares) == pytest.approx(1)
    assert sum(one["area_mm2"] for one in shares) == pytest.approx(32 * 32 * 0.25**2 / 1e6)


def test_attention_by_epoch(trained_runs: Runs) -> None:
    data, _, two = trained_runs
    run, memory = ViewedRun(two), AttentionMemory(two / "craanet" / "attention_memory")
    for row, image in enumerate(sorted((data / "train").glob("*.png"))):
        held, current = (AttentionLayer(image, run, None, accumulated=kind) for kind in (True, False))
        assert held.epochs == current.epochs == 4
        # accumulation starts in the third of four epochs; the first of it is the map of the epoch itself
        assert not drawn(held, Look(epoch=1))[..., 3].any() and drawn(current, Look(epoch=1))[..., 3].all()
        np.testing.assert_array_equal(drawn(held, Look(epoch=2)), drawn(current, Look(epoch=2)))
        np.testing.assert_array_equal(drawn(held, Look(epoch=3)), drawn(held, Look()))
        label = [int(digit) for digit in image.stem[-5:-1]]
        assert {k for k in range(4) if label[k]} >= set(np.unique(held.whole_classes(None)).tolist())
        for k in range(4):
            of_memory = memory.read(np.array([row]))[0, k].numpy()
            assert abs(held.whole_probabilities(k, None).mean() / 255 - of_memory.mean()) < 0.02
        with pytest.raises(IndexError):
            held.tile(5, 0, 0, Look(epoch=4))


def test_attention_stays_with_its_patch_when_data_change(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    data_copy, run_copy = shutil.copytree(data, tmp_path / "data"), shutil.copytree(one, tmp_path / "run")
    for file in (run_copy / "config.yaml", run_copy / "pseudo_labels" / "manifest.csv"):
        file.write_text(file.read_text(encoding="utf-8").replace(str(data), str(data_copy)), encoding="utf-8")
    first, *others = sorted((data / "train").glob("*.png"))
    (data_copy / "train" / first.name).unlink()
    shutil.copy(others[0], data_copy / "train" / f"0-{others[0].name}")
    before, after = ViewedRun(one), ViewedRun(run_copy)
    assert not after.has_attention(data_copy / "train" / f"0-{others[0].name}")
    for image in others:
        np.testing.assert_array_equal(before.attention(image)[0], after.attention(data_copy / "train" / image.name)[0])
    names = {patch.path.name for patch in after.patches()["training"]}
    assert first.name not in names and len(names) == 12


def test_without_maps_of_epochs_the_memory_is_shown(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    run = shutil.copytree(one, tmp_path / "run")
    image = min((data / "train").glob("*.png"))
    with_epochs = AttentionLayer(image, ViewedRun(run), None, accumulated=True)
    (run / "craanet" / "attention_epochs.npy").unlink()
    without = AttentionLayer(image, ViewedRun(run), None, accumulated=True)
    assert (with_epochs.epochs, without.epochs) == (3, 0)
    difference = with_epochs.whole_probabilities(0, None).astype(int) - without.whole_probabilities(0, None)
    assert np.abs(difference).max() <= 4


def test_the_pseudo_label_is_that_of_the_last_round(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    image = min((data / "train").glob("*.png"))
    run = shutil.copytree(one, tmp_path / "run")
    first = ViewedRun(run).pseudo_label(image)
    assert first == run / "pseudo_labels" / "masks" / image.name
    config = run / "config.yaml"
    config.write_text(config.read_text(encoding="utf-8").replace("rounds: 1", "rounds: 2"), encoding="utf-8")
    assert ViewedRun(run).pseudo_label(image) == first
    second = RunFolder(run).round_labels(2) / "masks" / image.name
    second.parent.mkdir(parents=True)
    shutil.copy(first, second)
    assert ViewedRun(run).pseudo_label(image) == second


def test_what_does_not_fit_is_told(trained_runs: Runs, tmp_path: Path) -> None:
    data, one, _ = trained_runs
    image = min((data / "test" / "img").iterdir())
    write_mask(tmp_path / "a_mask.png", np.zeros((31, 32), np.uint8), TISSUES)
    (tmp_path / "a_probabilities.npz").write_bytes(b"PK\x03\x04 cut off")
    layer = MaskLayer(image, TISSUES, None, tmp_path / "a_mask.png")
    with pytest.raises(DataError, match=r"a_mask\.png: has 32 × 31 pixels, its image 32 × 32"):
        layer.tile(5, 0, 0, Look())
    with pytest.raises(DataError, match=r"a_probabilities\.npz: cannot be read"):
        layer.tile(5, 0, 0, Look(heat=0))
    run = shutil.copytree(one, tmp_path / "run")
    (run / "craanet" / "attention_epochs.npy").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"attention_epochs\.npy: cannot be read"):
        ViewedRun(run).has_attention(image)
    (run / "pseudo_labels" / "manifest.csv").write_text("nothing\nat all\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"manifest\.csv: is damaged"):
        ViewedRun(run).pseudo_label(image)
    (run / "pfscnet" / "weights.safetensors").write_bytes(b"nothing")
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        NetworkLayer(image, ViewedRun(run), None).shares(None)
