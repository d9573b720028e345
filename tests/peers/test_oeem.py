"""OEEM: weights of the loss against a slow loop, and a tiny training."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file
from torch.nn import functional as F

from conftest import RECIPES, TINY
from patch2tissue.config import load_config
from patch2tissue.data.images import write_mask
from patch2tissue.peers.oeem import oeem_cross_entropy, train_oeem
from patch2tissue.pfscnet.training import train_pfscnet
from patch2tissue.training_data import training_patches


def example(seed: int, tissues: int = 3, ignored: float = 0.2) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = 3 * torch.randn(3, tissues, 4, 5, generator=generator)
    target = torch.randint(0, tissues, (3, 4, 5), generator=generator)
    target[torch.rand(3, 4, 5, generator=generator) < ignored] = 255
    target[2] = torch.where(target[2] == 255, 255, 1)  # one tissue only
    return logits, target


def slow(logits: torch.Tensor, target: torch.Tensor, mixed_only: bool) -> float:
    total, count = 0.0, 0
    for z, t in zip(logits.double(), target, strict=True):
        probabilities = torch.softmax(z, dim=0)
        own = [float(probabilities[int(k), y, x]) for (y, x), k in np.ndenumerate(t.numpy()) if k != 255]
        plain = mixed_only and len(set(t.flatten().tolist()) - {255}) < 2
        for p in own:
            total += (1.0 if plain else p / np.mean(own)) * -np.log(p)
            count += 1
    return total / max(count, 1)


@settings(deadline=None, max_examples=30)
@given(seed=st.integers(0, 10_000), ignored=st.sampled_from([0.0, 0.3, 1.0]), mixed_only=st.booleans())
def test_equals_slow_loop(seed: int, ignored: float, mixed_only: bool) -> None:
    logits, target = example(seed, ignored=ignored)
    found = oeem_cross_entropy(logits, target, mixed_only=mixed_only)
    assert float(found) == pytest.approx(slow(logits, target, mixed_only), rel=1e-4, abs=1e-7)
    assert torch.equal(found, oeem_cross_entropy(logits, target.to(torch.uint8), mixed_only=mixed_only))


def test_wrong_label_pulls_less_than_in_plain_cross_entropy() -> None:
    target = torch.tensor([0] * 8 + [1] * 8).view(1, 4, 4)
    logits = 4.0 * F.one_hot(target, 2).permute(0, 3, 1, 2).float()
    noisy = target.clone()
    noisy[0, 0, 0] = 1
    pulls = []
    for loss in (oeem_cross_entropy, lambda z, t: F.cross_entropy(z, t)):
        z = logits.clone().requires_grad_(True)
        loss(z, noisy).backward()
        assert z.grad is not None
        pulls.append(z.grad[0, :, 0, 0].abs().sum())
    assert pulls[0] < 0.05 * pulls[1]


def test_weights_carry_no_gradient_and_no_label_is_no_loss() -> None:
    logits, target = example(1)
    logits.requires_grad_(True)
    oeem_cross_entropy(logits, target, mixed_only=False).backward()
    expected = torch.zeros_like(logits)
    with torch.no_grad():
        probabilities = torch.softmax(logits, dim=1)
        labelled = target != 255
        safe = torch.where(labelled, target, 0)
        own = probabilities.gather(1, safe[:, None])[:, 0] * labelled
        weights = own / own.flatten(1).sum(1)[:, None, None] * labelled.flatten(1).sum(1)[:, None, None]
        truth = F.one_hot(safe, logits.shape[1]).permute(0, 3, 1, 2)
        expected = (probabilities - truth) * (weights * labelled)[:, None] / labelled.sum()
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, expected)
    nothing = oeem_cross_entropy(logits, torch.full_like(target, 255))
    nothing.backward()
    assert nothing == 0 and torch.isfinite(logits.grad).all()


def test_bad_shapes_are_named() -> None:
    with pytest.raises(ValueError, match="target"):
        oeem_cross_entropy(torch.zeros(1, 2, 4, 4), torch.zeros(1, 4, 5, dtype=torch.long))


def test_tiny_training(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=8, test=0)
    overrides = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY, "pfscnet.init=encoder", "pfscnet.epochs=2"]
    config = load_config(RECIPES / "bcss-wsss.yaml", overrides)
    patches = training_patches(config)
    targets = []
    for patch in patches:
        present = [k for k, flag in enumerate(patch.labels or ()) if flag]
        labels = np.full((32, 32), present[-1], np.uint8)
        labels[:, :16] = present[0]
        targets.append(tmp_path / "labels" / f"{patch.name}.png")
        write_mask(targets[-1], labels, config.tissue_set())
    config.pfscnet.consistency.weight = 1.0
    train_oeem(config, patches, targets, tmp_path / "oeem", side=32)
    train_pfscnet(config, patches, targets, tmp_path / "plain", side=32, cross_entropy_only=True)
    curves = [list(csv.DictReader((tmp_path / name / "metrics.csv").open())) for name in ("oeem", "plain")]
    assert {row["name"] for row in curves[0]} == {row["name"] for row in curves[1]}
    assert not {"loss_energy", "loss_contrast", "loss_consistency"} & {row["name"] for row in curves[0]}
    assert [row["epoch"] for row in curves[0]] == [row["epoch"] for row in curves[1]]
    oeem, plain = (load_file(tmp_path / name / "weights.safetensors") for name in ("oeem", "plain"))
    assert oeem.keys() == plain.keys() and any(not torch.equal(oeem[name], plain[name]) for name in oeem)
    assert all(torch.isfinite(tensor.float()).all() for tensor in oeem.values())
