"""Dense energy against a double loop, its gradient, and the sampled form."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from patch2tissue.gaussian_kernel import full_precision, grid_size
from patch2tissue.pfscnet.dense_energy import DISPLACEMENTS_ON_CPU, DenseEnergyLoss, dense_energy, soft_filter


def slow_energy(images, probabilities, valid, weights, sigma_rgb, sigma_xy):
    """Energy and normaliser pixel pair by pixel pair, at full resolution."""
    batch, _, height, width = images.shape
    energy, normaliser = 0.0, 0.0
    places = [(y, x) for y in range(height) for x in range(width)]
    for b in range(batch):
        for i, (yi, xi) in enumerate(places):
            for j, (yj, xj) in enumerate(places):
                if i == j:
                    continue
                color = sum(float(images[b, c, yi, xi] - images[b, c, yj, xj]) ** 2 for c in range(3))
                place = (yi - yj) ** 2 + (xi - xj) ** 2
                kernel = math.exp(-color * 255**2 / (2 * sigma_rgb**2) - place / (2 * sigma_xy**2))
                differ = (probabilities[b, :, yi, xi] * (1 - probabilities[b, :, yj, xj])).sum()
                energy = energy + kernel * weights[b, yi, xi] * weights[b, yj, xj] * differ
                normaliser += kernel * float(valid[b, yi, xi] * valid[b, yj, xj])
    return energy, normaliser


def example(batch=2, tissues=3, height=4, width=5, seed=0, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    images = (0.5 + 0.1 * torch.randn(batch, 3, height, width, generator=generator, dtype=dtype)).clamp(0, 1)
    logits = torch.randn(batch, tissues, height, width, generator=generator, dtype=dtype)
    valid = (torch.rand(batch, height, width, generator=generator) > 0.2).to(dtype)
    weights = torch.rand(batch, height, width, generator=generator, dtype=dtype)
    return images, logits.softmax(1), valid, weights


@pytest.mark.parametrize("sigma_rgb, sigma_xy", [(15.0, 20.0), (40.0, 1.5)])
def test_value_and_gradient_equal_double_loop(sigma_rgb, sigma_xy):
    images, probabilities, valid, weights = example()
    slow_p, fast_p = probabilities.clone().requires_grad_(), probabilities.clone().requires_grad_()
    energy, normaliser = slow_energy(images, slow_p, valid, valid * weights, sigma_rgb, sigma_xy)
    (energy / normaliser).backward()
    fast = dense_energy(images, fast_p, valid, weights=weights, sigma_rgb=sigma_rgb, sigma_xy=sigma_xy)
    fast.backward()
    torch.testing.assert_close(fast, energy / normaliser)
    torch.testing.assert_close(fast_p.grad, slow_p.grad)


def test_balanced_kernel_equals_double_loop():
    images, probabilities, valid, weights = example()
    batch, _, height, width = images.shape
    fast_p, slow_p = probabilities.clone().requires_grad_(), probabilities.clone().requires_grad_()
    places = torch.stack(torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij"), -1).flatten(0, 1)
    energy, normaliser = 0.0, 0.0
    for b in range(batch):
        color = images[b].flatten(1).T * 255 / 15.0
        kernel = torch.exp(-0.5 * (torch.cdist(color, color) ** 2 + torch.cdist(places / 20.0, places / 20.0) ** 2))
        kernel.fill_diagonal_(0)
        v, s, p = valid[b].flatten(), (valid * weights)[b].flatten(), slow_p[b].flatten(1)
        mass = kernel @ v
        mass = mass.clamp(min=float(0.01 * (mass * v).sum() / v.sum()))
        kernel = kernel / (mass[:, None] * mass[None]).sqrt()
        energy = energy + sum((s * p[k]) @ kernel @ (s * (1 - p[k])) for k in range(p.shape[0]))
        normaliser = normaliser + v @ kernel @ v
    (energy / normaliser).backward()
    fast = dense_energy(images, fast_p, valid, weights=weights, balanced=True)
    fast.backward()
    torch.testing.assert_close(fast, energy / normaliser, rtol=1e-5, atol=1e-8)
    torch.testing.assert_close(fast_p.grad, slow_p.grad, rtol=1e-5, atol=1e-8)


def test_balanced_kernel_gives_rare_colours_their_say():
    """A small textured area of unlike pixels pulls as much per pixel as a large smooth one."""
    generator = torch.Generator().manual_seed(3)
    images = torch.full((1, 3, 16, 16), 0.5)
    images[..., 12:] = torch.rand(1, 3, 16, 4, generator=generator) * 0.15 + 0.7
    probabilities = torch.full((1, 2, 16, 16), 0.5)
    probabilities[:, 0] += 0.1 * torch.rand(1, 16, 16, generator=generator)
    probabilities[:, 1] = 1 - probabilities[:, 0]
    pull = {}
    for balanced in (False, True):
        p = probabilities.clone().requires_grad_()
        dense_energy(images, p, sigma_rgb=15, sigma_xy=6, balanced=balanced).backward()
        size = p.grad.abs().sum(dim=1)[0]
        pull[balanced] = float(size[:, 12:].mean() / size[:, :12].mean())
    assert pull[False] < 0.5 * pull[True]


@pytest.mark.parametrize("sample", [{"rows": 64}, {"displacements": 400}])
def test_balanced_sample_of_everything_is_exact(sample):
    images, probabilities, valid, weights = example(height=8, width=8)
    exact = dense_energy(images, probabilities, valid, weights=weights, balanced=True)
    sampled = dense_energy(images, probabilities, valid, weights=weights, balanced=True, **sample)
    torch.testing.assert_close(sampled, exact)


@pytest.mark.parametrize("sample", [{"rows": 24}, {"displacements": 40}])
def test_balanced_sample_is_near_the_exact_value(sample):
    images, probabilities, valid, weights = example(height=8, width=8)
    exact = dense_energy(images, probabilities, valid, weights=weights, balanced=True)
    torch.manual_seed(0)
    drawn = [dense_energy(images, probabilities, valid, weights=weights, balanced=True, **sample) for _ in range(40)]
    torch.testing.assert_close(torch.stack(drawn).mean(), exact, rtol=0.03, atol=0)


@pytest.mark.parametrize("shape, grid", [((6, 7), 56), ((6, 8), 4), ((9, 9), 4)])
def test_gradcheck(shape, grid):
    images, probabilities, valid, weights = example(height=shape[0], width=shape[1])
    assert torch.autograd.gradcheck(
        lambda p: dense_energy(images, p, valid, weights=weights, grid=grid, sigma_rgb=60),
        probabilities.requires_grad_(),
    )


def test_gradcheck_low_resolution_probabilities():
    images, _, valid, _ = example(height=8, width=8)
    probabilities = torch.randn(2, 3, 3, 3, dtype=torch.float64).softmax(1).requires_grad_()
    assert torch.autograd.gradcheck(lambda p: dense_energy(images, p, valid, sigma_rgb=60), probabilities)


def test_one_tissue_everywhere_is_zero():
    images, probabilities, valid, _ = example(height=20, width=20)
    constant = torch.zeros_like(probabilities)
    constant[:, 1] = 1
    assert dense_energy(images, constant, valid, grid=10) == pytest.approx(0.0, abs=1e-12)


def test_undecided_is_one_minus_one_over_tissues():
    images, probabilities, valid, _ = example(height=12, width=9)
    flat = torch.full_like(probabilities, 1 / 3)
    assert dense_energy(images, flat, valid).item() == pytest.approx(2 / 3)
    assert dense_energy(images, flat, valid, rows=9).item() == pytest.approx(2 / 3)


@pytest.mark.parametrize("shape", [(9, 7), (1, 12), (12, 1), (1, 1)])
def test_all_displacements_are_the_exact_sum(shape):
    images, probabilities, valid, weights = example(height=shape[0], width=shape[1])
    results = []
    for displacements in (None, 10**6):
        p = probabilities.clone().requires_grad_()
        value = dense_energy(images, p, valid, weights=weights, sigma_xy=4, displacements=displacements)
        value.backward()
        results.append((value.detach(), p.grad))
    torch.testing.assert_close(results[0], results[1])


def half_and_half(difference, size=16):
    images = torch.full((1, 3, size, size), 0.5, dtype=torch.float64)
    images[..., size // 2 :] += difference / 255
    return images


def hard_labels(labels, tissues=2):
    return F.one_hot(labels, tissues).permute(0, 3, 1, 2).double()


@pytest.mark.parametrize("sample", [{}, {"rows": 30}, {"displacements": 1000}])
@pytest.mark.parametrize("balanced", [False, True])
def test_parts_of_a_composed_picture_do_not_see_each_other(sample, balanced):
    images, probabilities, valid, weights = example(height=5, width=6)
    part = torch.zeros(2, 5, 6, dtype=torch.bool)
    part[0, :, 3:] = True
    part[1, 2:, :4] = True
    settings = {"sigma_rgb": 60.0, "balanced": balanced, "normalise": False}
    composed, apart = probabilities.clone().requires_grad_(), probabilities.clone().requires_grad_()
    energy = dense_energy(images, composed, valid, weights=weights, part=part, **settings, **sample)
    expected = sum(dense_energy(images, apart, valid * of, weights=weights, **settings) for of in (part, ~part))
    torch.testing.assert_close(energy, expected)
    energy.backward()
    expected.backward()
    torch.testing.assert_close(composed.grad, apart.grad)
    if not balanced:
        assert energy < 0.9 * dense_energy(images, probabilities, valid, weights=weights, **settings)


def test_a_coarse_pixel_on_the_line_between_parts_is_of_neither():
    images = torch.full((1, 3, 8, 8), 0.5)
    disagree = torch.zeros(1, 2, 8, 8)
    part = torch.zeros(1, 8, 8, dtype=torch.bool)
    part[:, :, 3:] = True  # the line runs through the second column of a grid of 4
    disagree[:, 0, :, :3], disagree[:, 1, :, 3:] = 1, 1
    assert dense_energy(images, disagree, grid=4).item() > 0.1
    assert dense_energy(images, disagree, part=part, grid=4).item() < 0.1


def test_rises_when_like_neighbours_disagree():
    images = half_and_half(60)
    along = torch.zeros(1, 16, 16, dtype=torch.long)
    along[..., 8:] = 1
    spoiled = along.clone()
    spoiled[:, 5, 3] = 1
    assert dense_energy(images, hard_labels(spoiled)) > dense_energy(images, hard_labels(along))


def test_falls_with_colour_difference():
    labels = torch.zeros(1, 16, 16, dtype=torch.long)
    labels[..., 8:] = 1
    energies = [
        dense_energy(half_and_half(d), hard_labels(labels), normalise=False).item() for d in (0, 10, 20, 40, 80)
    ]
    assert energies == sorted(energies, reverse=True)
    assert energies[-1] < 1e-4 * energies[0]


def test_gradient_step_lowers_energy():
    images, probabilities, valid, _ = example(height=12, width=12)
    logits = probabilities.log().requires_grad_()
    before = dense_energy(images, logits.softmax(1), valid)
    before.backward()
    after = dense_energy(images, (logits - 10 * logits.grad).softmax(1), valid)
    assert after < before


@given(block=st.integers(1, 200), seed=st.integers(0, 3), rows=st.sampled_from([None, 20]))
@settings(max_examples=25, deadline=None)
def test_blocks_do_not_change_the_result(block, seed, rows):
    images, probabilities, valid, weights = example(height=9, width=11, seed=seed)
    results = []
    for size in (None, block):
        p = probabilities.clone().requires_grad_()
        value = dense_energy(
            images, p, valid, weights=weights, block=size, rows=rows, generator=torch.Generator().manual_seed(1)
        )
        value.backward()
        results.append((value.detach(), p.grad))
    torch.testing.assert_close(results[0], results[1])


def test_invalid_pixels_neither_count_nor_learn():
    images, probabilities, valid, _ = example(height=12, width=12)
    valid[:, 2:9, 3:6] = 0  # partly covers cells of the 4 by 4 grid
    invalid = (valid == 0)[:, None]
    for sample in ({}, {"rows": 6}, {"displacements": 5}):
        results = []
        for change in (0.0, 0.3):
            p = (probabilities + change * torch.rand_like(probabilities) * invalid).requires_grad_()
            x = (images + change * torch.rand_like(images) * invalid).clamp(0, 1)
            value = dense_energy(x, p, valid, grid=4, **sample, generator=torch.Generator().manual_seed(1))
            value.backward()
            assert (p.grad * invalid).abs().max() == 0
            results.append((value.detach(), p.grad))
        torch.testing.assert_close(results[0], results[1])


def test_nothing_valid_is_zero_with_graph():
    images, probabilities, valid, _ = example()
    p = probabilities.requires_grad_()
    loss = dense_energy(images, p, torch.zeros_like(valid))
    loss.backward()
    assert loss.item() == 0 and p.grad.abs().max() == 0


def test_batch_size_does_not_change_the_scale():
    images, probabilities, valid, weights = example(height=8, width=8)
    one = dense_energy(images, probabilities, valid, weights=weights)
    three = dense_energy(
        images.repeat(3, 1, 1, 1),
        probabilities.repeat(3, 1, 1, 1),
        valid.repeat(3, 1, 1),
        weights=weights.repeat(3, 1, 1),
    )
    torch.testing.assert_close(one, three)


def test_grids_are_comparable():
    y, x = torch.meshgrid(torch.arange(64.0), torch.arange(64.0), indexing="ij")
    images = torch.stack([0.5 + 0.2 * torch.sin(x / 20), 0.5 + 0.2 * torch.cos(y / 15), x / 128])[None].double()
    probabilities = torch.stack([torch.sigmoid((x - 32) / 6), torch.sigmoid((32 - x) / 6)])[None].double()
    fine = dense_energy(images, probabilities, grid=64)
    assert dense_energy(images, probabilities, grid=32).item() == pytest.approx(fine.item(), rel=0.05)
    assert dense_energy(images, probabilities, grid=16).item() == pytest.approx(fine.item(), rel=0.1)


@pytest.mark.parametrize("sample, draws", [({"rows": 20}, 1500), ({"displacements": 6}, 700)])
def test_sampled_form_is_unbiased(sample, draws):
    images, probabilities, valid, weights = example(height=12, width=10)
    p = probabilities.clone().requires_grad_()
    options = {"weights": weights, "sigma_rgb": 40, "sigma_xy": 3, "normalise": False}
    exact = dense_energy(images, p, valid, **options)
    exact.backward()
    values, gradients = [], []
    generator = torch.Generator().manual_seed(0)
    for _ in range(draws):
        q = probabilities.clone().requires_grad_()
        value = dense_energy(images, q, valid, generator=generator, **sample, **options)
        value.backward()
        values.append(value.detach())
        gradients.append(q.grad)
    value, gradient = torch.stack(values), torch.stack(gradients)
    assert (value.mean() - exact).abs() < 4 * value.std() / len(values) ** 0.5
    deviation = (gradient.mean(0) - p.grad) / (gradient.std(0) / len(values) ** 0.5 + 1e-12)
    assert deviation.square().mean() < 1.5  # mean square of a standard normal is 1
    assert (gradient.mean(0) - p.grad).norm() < 0.03 * p.grad.norm()


@pytest.mark.parametrize("sample", [{"rows": 10}, {"displacements": 5}])
def test_generator_decides_the_sample(sample):
    images, probabilities, valid, _ = example(height=12, width=12)
    loss = DenseEnergyLoss(**sample)
    first, again, other = (
        loss(images, probabilities, valid, generator=torch.Generator().manual_seed(s)).item() for s in (1, 1, 2)
    )
    assert first == again != other
    torch.manual_seed(3)
    first = loss(images, probabilities, valid).item()
    torch.manual_seed(3)
    assert first == loss(images, probabilities, valid).item()


def test_autocast_outside_does_not_change_it():
    images, probabilities, valid, _ = example(height=20, width=20, dtype=torch.float32)
    plain = dense_energy(images, probabilities, valid, grid=10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = dense_energy(images, probabilities, valid, grid=10)
    assert inside.dtype == torch.float32
    assert plain.item() == inside.item()
    before = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("medium")
    try:
        assert plain.item() == dense_energy(images, probabilities, valid, grid=10).item()
        with full_precision(torch.device("cpu")):
            assert torch.get_float32_matmul_precision() == "highest"
        assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.set_float32_matmul_precision(before)


def test_bfloat16_predictions_are_taken():
    images, probabilities, valid, _ = example(height=10, width=10, dtype=torch.float32)
    p = probabilities.bfloat16().requires_grad_()
    loss = dense_energy(images, p, valid > 0)
    loss.backward()
    assert loss.dtype == torch.float32 and p.grad.dtype == torch.bfloat16


def test_float32_is_near_float64():
    images, probabilities, valid, weights = example(height=30, width=30)
    double = dense_energy(images, probabilities, valid, weights=weights, sigma_rgb=2.0)
    single = dense_energy(images.float(), probabilities.float(), valid.float(), weights=weights.float(), sigma_rgb=2.0)
    assert single.item() == pytest.approx(double.item(), rel=1e-4)


def test_valid_everywhere_is_the_default():
    images, probabilities, valid, weights = example(height=12, width=12)
    everywhere = torch.ones_like(valid)
    torch.testing.assert_close(
        dense_energy(images, probabilities, grid=6), dense_energy(images, probabilities, everywhere, grid=6)
    )
    torch.testing.assert_close(
        dense_energy(images, probabilities, weights=weights, grid=5),
        dense_energy(images, probabilities, everywhere, weights=weights, grid=5),
    )


def test_images_and_weights_are_constants():
    images, probabilities, valid, weights = example()
    images.requires_grad_(), weights.requires_grad_()
    dense_energy(images, probabilities.requires_grad_(), valid, weights=weights).backward()
    assert images.grad is None and weights.grad is None


@pytest.mark.parametrize(
    "change, words",
    [
        ({"images": torch.rand(2, 1, 4, 5)}, "images must be"),
        ({"images": torch.ones(2, 3, 4, 5, dtype=torch.uint8)}, "floating point"),
        ({"probabilities": torch.rand(3, 3, 4, 5)}, "probabilities must be"),
        ({"valid": torch.ones(2, 5, 4)}, "valid must be"),
        ({"weights": torch.ones(2, 1, 4, 5)}, "weights must be"),
        ({"sigma_rgb": 0.0}, "positive"),
        ({"rows": 0}, "rows"),
        ({"displacements": 0}, "displacements"),
        ({"rows": 5, "displacements": 5}, "not both"),
    ],
)
def test_bad_input_is_named(change, words):
    images, probabilities, valid, _ = example()
    with pytest.raises(ValueError, match=words):
        dense_energy(**{"images": images, "probabilities": probabilities, "valid": valid, **change})


def test_rows_auto_samples_displacements_on_a_cpu():
    images, probabilities, valid, _ = example(height=24, width=24, dtype=torch.float32)
    generators = [torch.Generator().manual_seed(5) for _ in range(2)]
    assert dense_energy(images, probabilities, valid, rows="auto", generator=generators[0]) == dense_energy(
        images, probabilities, valid, displacements=DISPLACEMENTS_ON_CPU, generator=generators[1]
    )


def test_grid_size():
    assert grid_size(224, 112, 56) == (56, 28)
    assert grid_size(1000, 1, 10) == (10, 1)


def test_soft_filter():
    probabilities = torch.tensor([[0.7, 0.3], [0.2, 0.8], [0.5, 0.5]]).T.reshape(1, 2, 1, 3)
    labels = torch.tensor([[[0, 255, 1]]])
    expected = torch.tensor([[[0.3, 1.0, 0.5]]])
    torch.testing.assert_close(soft_filter(probabilities, labels), expected)
    valid = torch.tensor([[[1, 1, 0]]], dtype=torch.bool)
    torch.testing.assert_close(soft_filter(probabilities, labels, valid=valid), expected * valid)
    with pytest.raises(ValueError, match="pseudo_labels must be"):
        soft_filter(probabilities, labels[:, :, :2])
