"""Anchors against keys, block by block and with a gradient by hand: against plain autograd over all pairs."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from patch2tissue.pfscnet import pixel_pairs
from patch2tissue.pfscnet.pixel_pairs import contrast_pairs


def plain(anchors, keys, anchor_tissue, anchor_image, key_tissue, key_image, temperature):
    """The formula with all pairs at once; autograd gives its gradient."""
    same = anchor_tissue[:, None] == key_tissue
    positive = same & (anchor_image[:, None] != key_image)
    usable = positive.any(dim=1) & (~same).any(dim=1)
    similarity = anchors @ keys.mT / temperature
    negative = similarity.masked_fill(same, -torch.inf).logsumexp(dim=1, keepdim=True)
    each = (F.softplus(negative - similarity) * positive).sum(dim=1) / positive.sum(dim=1).clamp(min=1)
    return each[usable].mean() if usable.any() else 0.0 * anchors.sum() + 0.0 * keys.sum()


def example(seed, anchors=23, keys=31, tissues=3, images=4, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)

    def draw(count):
        vectors = F.normalize(torch.randn(count, 5, generator=generator, dtype=dtype), dim=1)
        tissue = torch.randint(0, tissues, (count,), generator=generator)
        return vectors, tissue, torch.randint(0, images, (count,), generator=generator)

    (v, v_tissue, v_image), (q, q_tissue, q_image) = draw(anchors), draw(keys)
    return v.requires_grad_(), q.requires_grad_(), v_tissue, v_image, q_tissue, q_image


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 2**20),
    anchors=st.integers(1, 30),
    keys=st.integers(1, 30),
    tissues=st.integers(1, 5),
    images=st.integers(1, 4),
    temperature=st.sampled_from([0.02, 0.1, 1.0]),
)
def test_value_and_gradients_equal_plain_autograd(seed, anchors, keys, tissues, images, temperature):
    batch = example(seed, anchors, keys, tissues, images)
    results = []
    for function in (contrast_pairs, plain):
        loss = function(*batch, temperature)
        results.append((loss, *torch.autograd.grad(3 * loss, batch[:2])))
    # softplus takes itself for linear above 20, which is wrong by up to 2e-9
    torch.testing.assert_close(results[0], results[1], rtol=1e-8, atol=1e-8)


def test_gradcheck():
    v, q, *rest = example(1)
    assert torch.autograd.gradcheck(lambda a, k: contrast_pairs(a, k, *rest, 0.2), (v, q))


def test_does_not_depend_on_the_blocks(monkeypatch):
    batch = example(2, anchors=200, keys=64)
    whole = contrast_pairs(*batch, 0.1)
    monkeypatch.setattr(pixel_pairs, "_CPU_PAIRS", 1)
    torch.testing.assert_close(contrast_pairs(*batch, 0.1), whole)


@pytest.mark.parametrize("which", [0, 1])
def test_nothing_to_compare_is_zero_with_a_zero_gradient(which):
    batch = list(example(3))
    for place in (0, 2, 3) if which == 0 else (1, 4, 5):
        batch[place] = batch[place][:0]
    loss = contrast_pairs(*batch, 0.1)
    loss.backward()
    assert loss.item() == 0 and batch[1 - which].grad.abs().max() == 0


def test_cold_temperatures_stay_numbers_in_float32():
    batch = example(4, dtype=torch.float32)
    loss = contrast_pairs(*batch, 0.003)  # exp(1 / 0.003) is no float32
    loss.backward()
    assert torch.isfinite(loss) and torch.isfinite(batch[0].grad).all()
    torch.testing.assert_close(loss, plain(*batch, 0.003), rtol=1e-4, atol=1e-4)
