"""Which rows and displacements are chosen, and how often."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.gaussian_kernel import filter_all, kernel_matrix, pixel_features
from patch2tissue.pfscnet.sampled_kernel import filter_displaced, filter_some, sample_displacements, sample_rows


@given(height=st.integers(1, 30), width=st.integers(1, 30), share=st.floats(0.01, 0.9), seed=st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_sampled_rows_are_distinct_and_inside(height, width, share, seed):
    count = max(1, int(share * height * width))
    rows = sample_rows(3, (height, width), count, torch.device("cpu"), torch.Generator().manual_seed(seed))
    assert 1 <= rows.shape[1] <= count
    assert rows.min() >= 0 and rows.max() < height * width
    assert all(len(set(one.tolist())) == rows.shape[1] for one in rows)


def test_sampled_rows_have_equal_chance():
    rows = sample_rows(20000, (7, 5), 8, torch.device("cpu"), torch.Generator().manual_seed(0))
    share = torch.bincount(rows.flatten(), minlength=35) / 20000
    assert (share - rows.shape[1] / 35).abs().max() < 0.015


@given(
    height=st.integers(1, 30),
    width=st.integers(1, 30),
    count=st.integers(1, 60),
    seed=st.integers(0, 9),
    spacing=st.tuples(st.floats(0.01, 5), st.floats(0.01, 5)),
)
@settings(max_examples=60, deadline=None)
def test_displacements_are_distinct_and_about_as_many_as_wanted(height, width, count, seed, spacing):
    chosen = sample_displacements((height, width), spacing, count, torch.Generator().manual_seed(seed))
    assert len(set(chosen.steps)) == len(chosen.steps) <= count + 1
    assert all(0 <= down < height and abs(right) < width for down, right in chosen.steps)
    assert all((-down, -right) not in chosen.steps and (down, right) != (0, 0) for down, right in chosen.steps)
    assert all(0 < weight < float("inf") for weight in chosen.weights)


def test_mean_weight_of_a_displacement_is_its_gaussian():
    total: dict[tuple[int, int], float] = {}
    generator = torch.Generator().manual_seed(0)
    for _ in range(4000):
        chosen = sample_displacements((7, 6), (0.5, 0.7), 8, generator)
        for step, weight in zip(chosen.steps, chosen.weights, strict=True):
            total[step] = total.get(step, 0.0) + weight / 4000
    for down, right in [(0, 1), (1, 0), (1, -1), (2, 2), (3, 0)]:
        expected = torch.exp(torch.tensor(-0.5 * ((0.5 * down) ** 2 + (0.7 * right) ** 2))).item()
        assert total[down, right] == pytest.approx(expected, rel=0.12)


def test_products_equal_the_full_matrix():
    generator = torch.Generator().manual_seed(0)
    images = 0.5 + 0.05 * torch.randn(2, 3, 5, 6, generator=generator, dtype=torch.float64)
    features = pixel_features(images, 15.0, 2.0)
    kernel = kernel_matrix(features, features)
    kernel.diagonal(dim1=1, dim2=2).zero_()
    values = torch.randn(2, 30, 4, generator=generator, dtype=torch.float64)
    torch.testing.assert_close(filter_all(features, values, block=7), kernel @ values)
    everything = sample_displacements((5, 6), (0.5, 0.5), 1000)
    torch.testing.assert_close(filter_displaced(features, (5, 6), everything, values), kernel @ values)
    rows = sample_rows(2, (5, 6), 8, images.device, generator)
    row_values = torch.randn(2, rows.shape[1], 3, generator=generator, dtype=torch.float64)
    gathered, spread = filter_some(features, rows, values, row_values, block=3)
    for b in range(2):
        torch.testing.assert_close(gathered[b], kernel[b, rows[b]] @ values[b])
        torch.testing.assert_close(spread[b], kernel[b, rows[b]].mT @ row_values[b])


def test_displacements_beat_rows_on_a_smooth_picture():
    y, x = torch.meshgrid(torch.arange(28.0), torch.arange(28.0), indexing="ij")
    images = torch.stack([0.5 + 0.2 * torch.sin(x / 4), 0.5 + 0.2 * torch.cos(y / 5), x / 56])[None].double()
    features = pixel_features(images, 15.0, 3.0)
    values = torch.rand(1, 784, 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    exact = filter_all(features, values)
    generator = torch.Generator().manual_seed(1)
    steps = sample_displacements((28, 28), (1 / 3, 1 / 3), 32, generator)
    rows = sample_rows(1, (28, 28), 64, images.device, generator)
    chosen = values.gather(1, rows[..., None].expand(-1, -1, 2))
    by_rows = filter_some(features, rows, values, chosen)[1] * 784 / rows.shape[1]
    error = (filter_displaced(features, (28, 28), steps, values) - exact).norm() / exact.norm()
    assert error < 0.15
    assert error < 0.5 * (by_rows - exact).norm() / exact.norm()
