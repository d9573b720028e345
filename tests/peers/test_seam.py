"""SEAM: pixel correlation against a slow loop, properties of its losses, equivariance, and a tiny training."""

from __future__ import annotations

import copy
import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny_peer import SIDE, patches_of, same_weights, tiny_config
from torch.nn import functional as F

from killing import killed_at
from patch2tissue.config import EncoderConfig
from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.augment import apply_symmetry, invert_symmetry
from patch2tissue.data.images import read_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.peers.seam import (
    SEAMNetwork,
    SEAMOutput,
    SEAMStage,
    hardest_mean,
    load_seam,
    pixel_correlation,
    plain_classifier,
    rescale,
    save_seam,
    seam_losses,
    spread,
    train_seam,
    winning_maps,
)
from patch2tissue.peers.seam_labels import generate_seam_labels, refined_maps


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
def test_pixel_correlation_equals_slow_loop(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    maps = torch.rand(2, 3, 3, 4, generator=generator)
    features = torch.randn(2, 5, 3, 4, generator=generator)
    slow = torch.zeros_like(maps)
    for b in range(2):
        f, m = features[b].double().flatten(1), maps[b].double().flatten(1)
        for i in range(12):
            above, below = torch.zeros(3, dtype=torch.float64), 0.0
            for j in range(12):
                weight = max(0.0, float(f[:, i] @ f[:, j] / (f[:, i].norm() * f[:, j].norm())))
                above, below = above + weight * m[:, j], below + weight
            slow[b, :, i // 4, i % 4] = (above / below).float()
    torch.testing.assert_close(pixel_correlation(maps, features), slow)


def test_pixel_correlation_averages_what_looks_alike_and_nothing_else() -> None:
    features = torch.zeros(1, 2, 2, 4)
    features[:, 0, :, :2] = torch.rand(2, 2) + 0.1  # two kinds, orthogonal to each other; length means nothing
    features[:, 1, :, 2:] = torch.rand(2, 2) + 0.1
    maps = torch.rand(1, 3, 2, 4)
    refined = pixel_correlation(maps, features)
    for half in (slice(0, 2), slice(2, 4)):
        mean = maps[..., half].mean(dim=(2, 3), keepdim=True)
        torch.testing.assert_close(refined[..., half], mean.expand_as(refined[..., half]))


def test_winning_maps_and_hardest_mean() -> None:
    maps = torch.tensor([[0.2, 0.9], [0.7, 0.1], [0.7, 0.3]]).view(1, 3, 1, 2)
    assert winning_maps(maps).flatten().tolist() == pytest.approx([0.0, 0.9, 0.7, 0.0, 0.7, 0.0])
    differences = torch.arange(20.0).view(1, 2, 2, 5)
    assert float(hardest_mean(differences)) == pytest.approx((19 + 18 + 17 + 16) / 4)
    assert float(hardest_mean(torch.tensor([[[3.0, 1.0]]]), 0.01)) == 3.0


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000))
@example(seed=620)  # a map that is nearly flat
def test_spread_equals_slow_loop(seed: int) -> None:
    maps = torch.randn(2, 2, 3, 3, generator=torch.Generator().manual_seed(seed))
    labels = torch.tensor([[1.0, 0.0], [1.0, 1.0]])
    found = spread(maps, labels)
    for b in range(2):
        for k in range(2):
            positive = np.maximum(maps[b, k].numpy(), 0.0)
            above = np.maximum(positive - positive.min() - 1e-5, 0.0)  # the released code's guard against flat maps
            expected = above / (positive.max() - positive.min() + 1e-5) * float(labels[b, k])
            np.testing.assert_allclose(found[b, k].numpy(), expected, atol=1e-5)
    assert (spread(torch.full((1, 2, 3, 3), 0.7), labels[:1]) == 0).all()


@pytest.mark.parametrize(("side", "multiple", "small"), [(112, 8, 56), (112, 16, 64), (96, 8, 48), (32, 32, 32)])
def test_smaller_view_has_whole_positions(side: int, multiple: int, small: int) -> None:
    assert rescale(torch.rand(1, 3, side, side), 0.5, multiple).shape == (1, 3, small, small)


def outputs(seed: int, grid: int) -> SEAMOutput:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(2, 3, grid, grid, generator=generator)
    return SEAMOutput(scores.mean(dim=(2, 3)), scores, torch.rand(2, 3, grid, grid, generator=generator))


def test_equivariant_maps_cost_nothing() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [0.0, 0.0, 1.0]])
    small = outputs(0, 4)
    # refined maps that say what the plain ones say
    small = small._replace(refined=winning_maps(spread(small.attention, labels)))
    large = SEAMOutput(*(F.interpolate(t, (8, 8)) if t.ndim == 4 else t for t in small))
    losses = seam_losses(large, small, labels)
    assert float(losses["loss_er"]) == pytest.approx(0.0, abs=1e-6)
    assert float(losses["loss_ecr"]) == pytest.approx(0.0, abs=1e-3)
    assert float(losses["loss_class"]) == pytest.approx(float(F.binary_cross_entropy_with_logits(small.logits, labels)))
    other = seam_losses(large, outputs(1, 4), labels)
    assert float(other["loss_er"]) > 0.05 and float(other["loss_ecr"]) > 0.05
    total = sum(float(other[name]) for name in ("loss_class", "loss_er", "loss_ecr"))
    assert float(other["loss"]) == pytest.approx(total, rel=1e-5)


def test_absent_tissues_have_no_part_in_the_map_losses() -> None:
    labels = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]])
    large, small = outputs(2, 8), outputs(3, 4)
    before = seam_losses(large, small, labels)
    for output in (large, small):
        output.attention[:, 2] = 7.0
        output.refined[:, 2] = 0.9
    after = seam_losses(large, small, labels)
    assert after["loss_er"] == before["loss_er"] and after["loss_ecr"] == before["loss_ecr"]


def test_cross_regularisation_trains_pixel_correlation_alone() -> None:
    network = SEAMNetwork("resnet10t", 3)
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    large, small = network(images, labels), network(rescale(images, 0.5, 8), labels)
    seam_losses(large, small, labels)["loss_ecr"].backward()
    learns = {name for name, p in network.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    assert learns == {"reduce.0.weight", "reduce.1.weight", "join.weight"}
    network.zero_grad()
    large, small = network(images, labels), network(rescale(images, 0.5, 8), labels)
    seam_losses(large, small, labels)["loss_er"].backward()
    assert network.heads.classifiers[0].weight.grad.abs().sum() > 0  # type: ignore[union-attr]


def test_running_statistics_are_those_of_the_full_size() -> None:
    images, labels = torch.rand(4, 3, 32, 32), torch.tensor([[1.0, 0.0], [0.0, 1.0]]).repeat(2, 1)
    network = SEAMNetwork("resnet10t", 2)
    alone = copy.deepcopy(network)
    batch = {"labels": labels, "index": torch.arange(4)}
    SEAMStage(network, 2).training_step(images, batch, 0)
    alone(images, labels)
    assert all(torch.equal(a, b) for a, b in zip(network.buffers(), alone.buffers(), strict=True))


def test_shapes_ranges_and_saving(tmp_path: Path) -> None:
    network = SEAMNetwork("resnet10t", 4).eval()
    images, labels = torch.rand(2, 3, 48, 32), torch.tensor([[1.0, 0.0, 1.0, 0.0], [0.0, 0.0, 0.0, 0.0]])
    output = network(images, labels)
    assert output.logits.shape == (2, 4) and output.attention.shape == output.refined.shape == (2, 4, 6, 4)
    assert output.refined.min() >= 0 and output.refined.max() <= 1.0 + 1e-6
    assert (output.refined[labels == 0] == 0).all()
    save_seam(network, tmp_path)
    again = load_seam(tmp_path)
    assert all(torch.equal(a, b) for a, b in zip(again(images, labels), output, strict=True))
    classifier = plain_classifier(network).eval()
    torch.testing.assert_close(classifier(images).logits, output.logits)
    torch.testing.assert_close(classifier(images).attention, output.attention)
    with pytest.raises(DataError, match="CRAANet"):
        load_craanet(tmp_path)


def test_too_few_feature_maps_are_refused() -> None:
    with pytest.raises(ConfigError, match="three feature maps"):
        SEAMNetwork(EncoderConfig(name="resnet10t", options={"out_indices": [3, 4]}), 2)


def test_test_time_maps_are_equivariant() -> None:
    network = SEAMNetwork("resnet10t", 3).eval()
    images, labels = torch.rand(2, 3, 32, 32), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    maps = refined_maps(network, images, labels, scales=(1.0, 1.5), symmetries=True)
    assert maps.shape == (2, 3, 32, 32) and maps.min() >= 0 and maps.max() <= 1.0 + 1e-6
    assert (maps[labels == 0] == 0).all()
    for operation in (1, 6):
        turned = refined_maps(network, apply_symmetry(images, operation), labels, scales=(1.0, 1.5), symmetries=True)
        torch.testing.assert_close(invert_symmetry(turned, operation), maps, rtol=1e-4, atol=1e-4)
    for scale in (1.0, 1.5):  # scales are heard
        assert not torch.allclose(refined_maps(network, images, labels, scales=(scale,), symmetries=True), maps)


def test_killed_training_ends_with_the_same_weights_and_labels(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tiny_config(tmp_path, fabricate)
    patches, tissues = patches_of(config), config.tissue_set()
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    train_seam(config, patches, whole, side=SIDE)
    # eight patches in batches of four: in the second of two epochs
    killed_at(monkeypatch, SEAMStage, 4, lambda: train_seam(config, patches, broken, side=SIDE))
    train_seam(config, patches, broken, side=SIDE)
    assert same_weights(whole, broken) and same_weights(whole / "classifier", broken / "classifier")
    with (whole / "metrics.csv").open() as stream:
        names = {row["name"] for row in csv.DictReader(stream)}
    assert {"loss_class", "loss_er", "loss_ecr", "label_f1"} <= names
    load_craanet(whole / "classifier")

    network, labels = load_seam(whole), tmp_path / "labels"
    generate_seam_labels(patches, tissues, network, labels, side=SIDE, hardware=config.hardware, symmetries=True)
    written = {path.name: path.read_bytes() for path in labels.iterdir()}
    assert set(written) == {f"{patch.name}.png" for patch in patches}
    for patch in patches:
        with Image.open(labels / f"{patch.name}.png") as opened:
            assert opened.mode == "P"
        mask = read_mask(labels / f"{patch.name}.png", tissues)
        present = {k for k, flag in enumerate(patch.labels or ()) if flag}
        assert mask.shape == (SIDE, SIDE) and set(np.unique(mask).tolist()) <= present
    (labels / f"{patches[3].name}.png").unlink()
    generate_seam_labels(patches, tissues, network, labels, side=SIDE, hardware=config.hardware, symmetries=True)
    assert {path.name: path.read_bytes() for path in labels.iterdir()} == written
