"""Mean teacher: the strong view, the teacher's labels, the loss, and its place in a training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from scipy.ndimage import gaussian_filter
from torch import nn
from torch.nn import functional as F

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue.config import RunConfig, load_config
from patch2tissue.data.images import write_mask
from patch2tissue.errors import ConfigError
from patch2tissue.pfscnet.consistency import (
    Mix,
    consistency_loss,
    draw_mix,
    frozen_statistics,
    gaussian_blur,
    strong_colors,
    teacher_labels,
)
from patch2tissue.pfscnet.network import PFSCNet
from patch2tissue.pfscnet.training import PFSCNetStage, train_pfscnet
from patch2tissue.training_data import training_patches

CPU = torch.device("cpu")


class Pixelwise(nn.Module):
    """Stands for a network: tissue logits of each pixel from its colour alone."""

    def __init__(self, tissues: int = 3) -> None:
        super().__init__()
        self.classifier = nn.Conv2d(3, tissues, 1)

    def forward(self, images: torch.Tensor) -> SimpleNamespace:
        return SimpleNamespace(logits=10 * self.classifier(images))


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10_000),
    batch=st.integers(1, 5),
    height=st.integers(8, 40),
    width=st.integers(8, 40),
    mixing=st.sampled_from(["none", "cutout", "cutmix"]),
)
def test_mix_is_one_rectangle_from_another_picture(seed: int, batch: int, height: int, width: int, mixing: Any) -> None:
    torch.manual_seed(seed)
    mix = draw_mix(batch, height, width, mixing, CPU)
    pictures = torch.rand(batch, 3, height, width)
    mixed = mix(pictures, 1.0)
    assert (mix.source is not None) == (mixing == "cutmix" and batch > 1)
    if mix.source is not None:
        assert sorted(mix.source.tolist()) == list(range(batch)), "every picture gives to one"
        assert (mix.source != torch.arange(batch)).all()
    for i in range(batch):
        rows, columns = np.nonzero(mix.box[i].numpy())
        if mixing == "none":
            assert not len(rows) and torch.equal(mixed[i], pictures[i])
            continue
        y, x = slice(rows.min(), rows.max() + 1), slice(columns.min(), columns.max() + 1)
        assert mix.box[i, y, x].all() and mix.box[i].sum() == len(rows)
        assert 0.05 <= len(rows) / (height * width) <= 0.5
        expected = pictures[i].clone()
        expected[:, y, x] = 1.0 if mix.source is None else pictures[mix.source[i], :, y, x]
        assert torch.equal(mixed[i], expected)


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 10_000), strength=st.floats(0, 2))
def test_strong_colors_move_no_pixel(seed: int, strength: float) -> None:
    images = torch.rand(3, 3, 12, 9, generator=torch.Generator().manual_seed(seed))
    views = []
    for flipped in (images, images.flip(-1), images.flip(-2)):
        torch.manual_seed(seed)
        views.append(strong_colors(flipped, strength))
    assert views[0].shape == images.shape and views[0].min() >= 0 and views[0].max() <= 1
    torch.testing.assert_close(views[1].flip(-1), views[0])
    torch.testing.assert_close(views[2].flip(-2), views[0])
    if strength == 0:
        assert torch.equal(views[0], images)
    torch.manual_seed(seed)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(strong_colors(images, strength), views[0]), "autocast must not round it"


def test_every_picture_changes_in_its_own_way() -> None:
    torch.manual_seed(0)
    view = strong_colors(torch.full((6, 3, 8, 8), 0.6), 1.0)
    assert (view.std(dim=(2, 3)) < 1e-6).all(), "an even picture stays even"
    colors = view[:, :, 0, 0]
    assert torch.pdist(colors).min() > 1e-3
    assert (colors - 0.6).abs().max() > 0.05


def test_blur_equals_scipy() -> None:
    images = torch.rand(2, 3, 10, 14, dtype=torch.float64)
    sigma = torch.tensor([0.0, 1.3], dtype=torch.float64)
    found = gaussian_blur(images, sigma)
    torch.testing.assert_close(found[0], images[0])
    expected = gaussian_filter(images[1].numpy(), (0, 1.3, 1.3), mode="nearest", radius=(0, 4, 4))
    np.testing.assert_allclose(found[1].numpy(), expected, atol=1e-12)


@settings(deadline=None, max_examples=40)
@given(seed=st.integers(0, 10_000), confidence=st.floats(0, 1))
def test_teacher_labels_by_hand(seed: int, confidence: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, 4, 2, 3, generator=generator)
    present = (torch.rand(3, 4, generator=generator) > 0.5).float()
    inside = torch.rand(3, 2, 3, generator=generator) > 0.2
    found = teacher_labels(logits, present, inside, confidence)
    for (i, y, x), label in np.ndenumerate(found.numpy()):
        allowed = {k: float(logits[i, k, y, x]) for k in range(4) if present[i, k]}
        if not allowed or not inside[i, y, x]:
            assert label == 255
            continue
        best = max(allowed, key=allowed.__getitem__)
        probability = np.exp(allowed[best]) / sum(np.exp(value) for value in allowed.values())
        if abs(probability - confidence) > 1e-5:
            assert label == (best if probability > confidence else 255)


def test_running_statistics_stay() -> None:
    norm = nn.BatchNorm2d(3).train()
    before = {name: tensor.clone() for name, tensor in norm.state_dict().items()}
    images = 5 + torch.randn(4, 3, 6, 6)
    with frozen_statistics(norm):
        found = norm(images)
    assert all(torch.equal(before[name], tensor) for name, tensor in norm.state_dict().items())
    assert norm.track_running_stats
    assert torch.equal(found, norm(images)), "batches are normalised by their own statistics"
    assert not torch.equal(norm.running_mean, before["running_mean"])
    network = PFSCNet("resnet10t", 2, decoder_channels=16, embedding_dimensions=8).train()
    buffers = {name: tensor.clone() for name, tensor in network.named_buffers()}
    with frozen_statistics(network):
        network(torch.rand(2, 3, 32, 32))
    assert all(torch.equal(buffers[name], tensor) for name, tensor in network.named_buffers())


@pytest.mark.parametrize("mixing", ["none", "cutout", "cutmix"])
def test_loss_by_hand(mixing: Any) -> None:
    torch.manual_seed(3)
    network, teacher = Pixelwise(), Pixelwise()
    images, present = torch.rand(3, 3, 16, 16), torch.tensor([[1.0, 1, 0], [0, 1, 1], [1, 1, 1]])
    inside = torch.ones(3, 16, 16, dtype=torch.bool)
    inside[1, 12:] = False
    torch.manual_seed(7)
    loss, sure = consistency_loss(
        network,  # type: ignore[arg-type]
        teacher,  # type: ignore[arg-type]
        images,
        present,
        inside,
        confidence=0.6,
        strength=0.0,
        mixing=mixing,
    )
    torch.manual_seed(7)
    mix = draw_mix(3, 16, 16, mixing, CPU)
    labels = teacher_labels(teacher(images).logits, present, inside, 0.6)
    logits = network(images).logits.detach()  # of single pixels: they may be looked up where they come from
    total, pixels, counted = 0.0, 0, 0
    for i, y, x in np.ndindex(3, 16, 16):
        from_where = i
        if mix.box[i, y, x]:
            if mix.source is None:
                continue
            from_where = int(mix.source[i])
        pixels += int(inside[from_where, y, x])
        label = int(labels[from_where, y, x])
        if label != 255:
            counted += 1
            total -= float(torch.log_softmax(logits[from_where, :, y, x], 0)[label])
    assert 0 < counted < pixels
    assert loss.item() == pytest.approx(total / pixels, rel=1e-4)
    assert float(sure) == pytest.approx(counted / pixels)
    loss.backward()
    assert network.classifier.weight.grad is not None and teacher.classifier.weight.grad is None
    assert not teacher.training and network.training


def test_a_teacher_that_is_never_sure_teaches_nothing() -> None:
    network = Pixelwise(2)
    nn.init.zeros_(network.classifier.weight)
    nn.init.zeros_(network.classifier.bias)
    settled = (torch.rand(1, 3, 8, 8), torch.ones(1, 2), torch.ones(1, 8, 8, dtype=torch.bool))
    loss, sure = consistency_loss(network, network, *settled, confidence=0.9)  # type: ignore[arg-type]
    loss.backward()
    assert loss == 0 and sure == 0
    assert network.classifier.weight.grad is not None and (network.classifier.weight.grad == 0).all()


def test_agreement_rises_by_learning() -> None:
    torch.manual_seed(0)
    network, teacher = Pixelwise(), Pixelwise()
    images, inside = torch.rand(4, 3, 16, 16), torch.ones(4, 16, 16, dtype=torch.bool)
    target = teacher_labels(teacher(images).logits, torch.ones(4, 3), inside, 0.0)
    optimiser = torch.optim.Adam(network.parameters(), lr=0.05)
    agreement = []
    for _ in range(60):
        with torch.no_grad():
            agreement.append(float((network(images).logits.argmax(1) == target).float().mean()))
        loss, _ = consistency_loss(network, teacher, images, torch.ones(4, 3), inside, confidence=0.5)  # type: ignore[arg-type]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert agreement[-1] > 0.9 > agreement[0]


def _config(tmp_path: Path, data: Path, *overrides: str) -> RunConfig:
    common = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY, "pfscnet.init=encoder", *overrides]
    return load_config(RECIPES / "bcss-wsss.yaml", common)


def test_a_teacher_needs_averaged_weights(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="weight_averaging"):
        _config(tmp_path, tmp_path, "pfscnet.consistency.weight=1", "pfscnet.weight_averaging=0")
    config = _config(tmp_path, tmp_path, "pfscnet.consistency.weight=1").pfscnet
    with pytest.raises(ConfigError, match="weight_averaging"):
        network = PFSCNet("resnet10t", 4, decoder_channels=16, embedding_dimensions=8)
        PFSCNetStage(network, config.model_copy(update={"weight_averaging": 0.0}), "x", 4)


def test_training_starts_late_and_resumes_exactly(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=8, test=0)
    config = _config(
        tmp_path,
        data,
        *("pfscnet.consistency={weight: 1.0, confidence: 0.3}", "pfscnet.losses_start=0.4", "pfscnet.epochs=3"),
        *("pfscnet.dense_energy.weight=0", "pfscnet.contrast.weight=0", "pfscnet.weight_averaging=0.5"),
    )
    patches = training_patches(config)
    targets = [tmp_path / "labels" / f"{patch.name}.png" for patch in patches]
    for patch, target in zip(patches, targets, strict=True):
        present = [k for k, flag in enumerate(patch.labels or ()) if flag]
        labels = np.full((32, 32), present[-1], np.uint8)
        labels[:, :16] = present[0]
        write_mask(target, labels, config.tissue_set())
    train_pfscnet(config, patches, targets, tmp_path / "whole", side=32)
    rows = list(csv.DictReader((tmp_path / "whole" / "metrics.csv").open()))
    values = {(int(row["epoch"]), row["name"]): float(row["value"]) for row in rows}
    assert {epoch for epoch, name in values if name == "loss_consistency"} == {2, 3}
    assert all(0 < values[epoch, "teacher_sure"] <= 1 for epoch in (2, 3))
    assert values[3, "loss"] == pytest.approx(values[3, "loss_ce"] + values[3, "loss_consistency"], rel=1e-3)

    def train() -> None:
        train_pfscnet(config, patches, targets, tmp_path / "broken", side=32)

    killed_at(monkeypatch, PFSCNetStage, 6, train)  # 8 patches in batches of 4: the last step of all
    train()
    whole, broken = (load_file(tmp_path / name / "weights.safetensors") for name in ("whole", "broken"))
    assert all(torch.equal(whole[name], broken[name]) for name in whole)


def test_mix_makes_copies() -> None:
    labels = torch.zeros(1, 4, 4, dtype=torch.long)
    mixed = Mix(torch.ones(1, 4, 4, dtype=torch.bool), None)(labels, 255)
    assert (mixed == 255).all() and (labels == 0).all() and mixed.dtype == torch.long
    assert F.cross_entropy(torch.zeros(1, 2, 4, 4), mixed, ignore_index=255, reduction="sum") == 0
