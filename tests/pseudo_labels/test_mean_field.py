"""Mean-field refinement against a slow reference."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.pseudo_labels import mean_field
from patch2tissue.pseudo_labels.mean_field import refine


def slow_refine(image, scores, present, iterations, weight, sigma_rgb, sigma_xy):
    """One image [H, W, 3] with scores [H, W, K], pixel by pixel."""
    height, width, tissues = scores.shape
    places = [(y, x) for y in range(height) for x in range(width)]
    kept = [k for k in range(tissues) if present[k]]
    shares = {p: np.array([scores[p][k] if k in kept else 0.0 for k in range(tissues)]) for p in places}
    shares = {p: v / v.sum() for p, v in shares.items()}
    belief = dict(shares)
    for _ in range(iterations):
        new = {}
        for p in places:
            mass, message = 1.0, np.zeros(tissues)
            for q in places:
                if p != q:
                    color = ((image[p] - image[q]) ** 2).sum() * 255**2 / sigma_rgb**2
                    place = ((p[0] - q[0]) ** 2 + (p[1] - q[1]) ** 2) / sigma_xy**2
                    kernel = np.exp(-0.5 * (color + place))
                    mass += kernel
                    message += kernel * belief[q]
            odds = np.zeros(tissues)
            odds[kept] = shares[p][kept] * np.exp(weight * message[kept] / mass)
            new[p] = odds / odds.sum()
        belief = new
    return np.array([belief[p] for p in places]).reshape(scores.shape)


@pytest.mark.parametrize("keep_kernel", [True, False])
def test_equals_slow_reference(keep_kernel, monkeypatch):
    if not keep_kernel:
        monkeypatch.setattr(mean_field, "_KEPT_ENTRIES", 0)
    generator = np.random.default_rng(0)
    images = generator.uniform(0.4, 0.6, (2, 4, 5, 3))
    scores = generator.uniform(0.1, 1, (2, 4, 5, 3))
    present = np.array([[1, 1, 1], [1, 0, 1]])
    expected = [slow_refine(images[b], scores[b], present[b], 3, 4.0, 30.0, 2.0) for b in range(2)]
    got = refine(
        torch.from_numpy(images).permute(0, 3, 1, 2),
        torch.from_numpy(scores).permute(0, 3, 1, 2),
        torch.from_numpy(present),
        iterations=3,
        weight=4.0,
        sigma_rgb=30.0,
        sigma_xy=2.0,
    )
    np.testing.assert_allclose(got.permute(0, 2, 3, 1).numpy(), np.array(expected), rtol=1e-9)


@pytest.mark.parametrize("grid", [64, 16])
def test_snaps_a_blurred_boundary_to_the_colour_edge(grid):
    size, edge = 64, 38
    images = torch.full((1, 3, size, size), 0.8)
    images[..., edge:] = 0.4
    images += 0.02 * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))
    x = torch.arange(size).float()
    second = torch.sigmoid((x - 30) / 10).expand(1, 1, size, size)  # eight pixels off, and blurred
    scores = torch.cat([1 - second, second], dim=1)
    truth = (x >= edge).long().expand(1, size, size)
    refined = refine(images, scores, torch.ones(1, 2), iterations=10, weight=6.0, grid=grid)
    before = (scores.argmax(1) != truth).float().mean()
    after = (refined.argmax(1) != truth).float().mean()
    assert before > 0.1
    assert after < 0.02


@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    grid=st.integers(1, 24),
    present=st.lists(st.integers(0, 1), min_size=3, max_size=3),
    iterations=st.integers(0, 3),
    seed=st.integers(0, 5),
)
@settings(max_examples=60, deadline=None)
def test_probabilities_over_present_tissues(height, width, grid, present, iterations, seed):
    generator = torch.Generator().manual_seed(seed)
    images = torch.rand(1, 3, height, width, generator=generator)
    scores = torch.rand(1, 3, height, width, generator=generator) - 0.3
    refined = refine(images, scores, torch.tensor([present]), iterations=iterations, grid=grid)
    assert refined.shape == scores.shape and torch.isfinite(refined).all() and refined.min() >= 0
    assert refined[:, torch.tensor(present) == 0].abs().sum() == 0
    torch.testing.assert_close(refined.sum(1), torch.full_like(refined[:, 0], float(any(present))))


def test_no_iterations_returns_shares():
    scores = torch.tensor([3.0, 1.0, 6.0]).view(1, 3, 1, 1).expand(1, 3, 2, 2)
    shares = refine(torch.rand(1, 3, 2, 2), scores, torch.tensor([[1, 1, 0]]), iterations=0)
    torch.testing.assert_close(shares[0, :, 0, 0], torch.tensor([0.75, 0.25, 0.0]))


def test_autocast_outside_does_not_change_it():
    images, scores = torch.rand(1, 3, 20, 20), torch.rand(1, 3, 20, 20)
    plain = refine(images, scores, torch.ones(1, 3), grid=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(plain, refine(images, scores, torch.ones(1, 3), grid=10))


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": torch.rand(1, 1, 4, 4)}, "images must be"),
        ({"scores": torch.rand(1, 2, 4, 5)}, "scores must be"),
        ({"present": torch.ones(1, 3)}, "present must be"),
        ({"iterations": -1}, "iterations"),
        ({"sigma_xy": 0.0}, "sigma_xy"),
    ],
)
def test_bad_input_is_named(change, words):
    arguments = {"images": torch.rand(1, 3, 4, 4), "scores": torch.rand(1, 2, 4, 4), "present": torch.ones(1, 2)}
    with pytest.raises(ValueError, match=words):
        refine(**{**arguments, **change})
