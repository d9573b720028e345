"""Class residual attention against a hand-written loop."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.craanet.residual_attention import (
    HEAD_TEMPERATURES,
    ResidualAttentionHeads,
    position_scores,
    residual_attention,
)


def by_hand(features: torch.Tensor, weight: torch.Tensor, temperature: float, residual_weight: float) -> torch.Tensor:
    """Logits of one head, position by position and tissue by tissue."""
    batch, _, height, width = features.shape
    logits = torch.zeros(batch, len(weight), dtype=features.dtype)
    for b in range(batch):
        for k in range(len(weight)):
            norm = math.sqrt(sum(float(v) ** 2 for v in weight[k]))
            scores = [
                float((weight[k] * features[b, :, i, j]).sum()) / norm for i in range(height) for j in range(width)
            ]
            base = sum(scores) / len(scores)
            if math.isinf(temperature):
                attended = max(scores)
            else:
                top = max(scores)
                weights = [math.exp(temperature * (s - top)) for s in scores]
                attended = sum(w * s for w, s in zip(weights, scores, strict=True)) / sum(weights)
            logits[b, k] = base + residual_weight * attended
    return logits


@settings(deadline=None, max_examples=30)
@given(
    seed=st.integers(0, 10_000),
    temperature=st.sampled_from([0.5, 1.0, 4.0, math.inf]),
    residual_weight=st.floats(0.0, 1.0),
)
def test_equals_hand_written_loop(seed: int, temperature: float, residual_weight: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(2, 5, 3, 4, generator=generator, dtype=torch.float64)
    weight = torch.randn(3, 5, generator=generator, dtype=torch.float64)
    found = residual_attention(position_scores(features, weight), temperature, residual_weight)
    torch.testing.assert_close(found, by_hand(features, weight, temperature, residual_weight))


def test_infinite_temperature_is_the_maximum_and_the_limit_of_large_ones() -> None:
    scores = torch.randn(2, 3, 4, 4, dtype=torch.float64)
    at_infinity = residual_attention(scores, math.inf, 0.3)
    torch.testing.assert_close(at_infinity, scores.mean((2, 3)) + 0.3 * scores.amax((2, 3)))
    torch.testing.assert_close(residual_attention(scores, 1e6, 0.3), at_infinity)


def test_no_residual_weight_is_average_pooling() -> None:
    scores = torch.randn(2, 3, 4, 4)
    assert torch.equal(residual_attention(scores, 1.0, 0.0), scores.flatten(2).mean(2))


@pytest.mark.parametrize("heads", [1, 2, 4, 6, 8])
def test_heads_add_logits_and_average_scores(heads: int) -> None:
    module = ResidualAttentionHeads(6, 3, HEAD_TEMPERATURES[heads], 0.2)
    assert len(module.classifiers) == heads
    features = torch.randn(2, 6, 5, 5)
    logits, scores = module(features)
    each = [position_scores(features, c.weight.flatten(1)) for c in module.classifiers]
    torch.testing.assert_close(scores, sum(each) / heads)
    expected = sum(residual_attention(s, t, 0.2) for s, t in zip(each, module.temperatures, strict=True))
    torch.testing.assert_close(logits, expected)


def test_scores_do_not_depend_on_the_classifier_rows_length() -> None:
    features, weight = torch.randn(1, 4, 3, 3), torch.randn(2, 4)
    torch.testing.assert_close(position_scores(features, weight), position_scores(features, 7.0 * weight))


def test_gradient() -> None:
    scores = torch.randn(1, 2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: residual_attention(s, 2.0, 0.3), scores)


@pytest.mark.parametrize("temperatures", [[], [0.0], [-1.0]])
def test_bad_temperatures(temperatures: list[float]) -> None:
    with pytest.raises(ValueError, match="temperatures"):
        ResidualAttentionHeads(4, 2, temperatures, 0.3)
