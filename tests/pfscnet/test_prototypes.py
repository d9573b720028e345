"""Prototypes and memory bank against hand-written loops."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from patch2tissue.distributed.place import joined
from patch2tissue.pfscnet.prototypes import MemoryBank, TissuePrototypes, choose_per_group
from processes import in_processes


def unit(n, d, seed=0):
    return F.normalize(torch.randn(n, d, generator=torch.Generator().manual_seed(seed)), dim=1)


def test_momentum_formula():
    prototypes = TissuePrototypes(3, 4, momentum=0.8)
    expected: dict[int, np.ndarray] = {}
    for step in range(5):
        pixels = unit(20, 4, step)
        tissue = torch.randint(0, 2 if step < 2 else 3, (20,), generator=torch.Generator().manual_seed(step))
        prototypes.update(pixels, tissue)
        for k in range(3):
            rows = [pixels[i].double().numpy() for i in range(20) if tissue[i] == k]
            if rows:
                mean = sum(rows) / len(rows)
                moved = mean if k not in expected else 0.8 * expected[k] + 0.2 * mean
                expected[k] = moved / np.sqrt((moved**2).sum())
        assert prototypes.initialised.tolist() == [k in expected for k in range(3)]
        for k, vector in expected.items():
            np.testing.assert_allclose(prototypes.vectors[k, 0].numpy(), vector, atol=1e-5)
    assert prototypes.vectors.norm(dim=2) == pytest.approx(1.0, abs=1e-5)


def test_nothing_confident_changes_nothing():
    prototypes = TissuePrototypes(2, 4)
    prototypes.update(unit(0, 4), torch.zeros(0, dtype=torch.long))
    assert not prototypes.initialised.any() and prototypes.vectors.abs().max() == 0
    prototypes.update(unit(5, 4), torch.zeros(5, dtype=torch.long))
    before = prototypes.vectors.clone()
    prototypes.update(unit(0, 4), torch.zeros(0, dtype=torch.long))
    torch.testing.assert_close(prototypes.vectors, before)


def test_several_prototypes_find_clusters():
    centres = torch.eye(6)[:3]
    members = torch.arange(3).repeat_interleave(50)
    pixels = F.normalize(
        centres[members] + 0.05 * torch.randn(150, 6, generator=torch.Generator().manual_seed(0)), dim=1
    )
    tissue = torch.where(members == 2, 1, 0)  # tissue 0 has two clusters
    prototypes = TissuePrototypes(2, 6, prototypes=2, momentum=0.5)
    for _ in range(10):
        prototypes.update(pixels, tissue)
    similarity = prototypes.vectors[0] @ centres[:2].T
    assert sorted(similarity.argmax(dim=1).tolist()) == [0, 1]
    assert similarity.amax(dim=1).min() > 0.95


def test_a_tissue_waits_until_every_prototype_has_pixels():
    prototypes = TissuePrototypes(2, 5, prototypes=4)
    prototypes.update(unit(3, 5), torch.zeros(3, dtype=torch.long))
    assert not prototypes.initialised.any()
    prototypes.update(unit(9, 5), torch.zeros(9, dtype=torch.long))
    assert prototypes.initialised.tolist() == [True, False]
    assert prototypes.vectors[0].norm(dim=1) == pytest.approx(1.0, abs=1e-5)


def test_similarity_is_the_cosine():
    prototypes = TissuePrototypes(3, 4, prototypes=2)
    prototypes.update(unit(60, 4), torch.arange(60) % 3)
    pixels = unit(7, 4, 1)
    expected = torch.einsum("nd,kmd->nkm", pixels, prototypes.vectors)
    torch.testing.assert_close(prototypes.similarity(pixels), expected)


@pytest.mark.parametrize("arguments", [(0, 4), (2, 0), (2, 4, 0), (2, 4, 1, 1.0)])
def test_bad_settings(arguments):
    with pytest.raises(ValueError, match="at least 1"):
        TissuePrototypes(*arguments)


@given(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 9)), max_size=40), st.lists(st.integers(0, 12), max_size=5))
@settings(max_examples=60, deadline=None)
def test_bank_is_a_ring(entries, cuts):
    bank = MemoryBank(3, 2, size=4)
    held: dict[int, list[tuple[float, int]]] = {0: [], 1: [], 2: []}
    start = 0
    for stop in [*sorted(c for c in cuts if c < len(entries)), len(entries)]:
        part = entries[start:stop]
        tissue = torch.tensor([k for k, _ in part], dtype=torch.long)
        images = torch.tensor([i for _, i in part], dtype=torch.long)
        vectors = torch.arange(start, stop, dtype=torch.float32)[:, None].expand(-1, 2)
        bank.push(vectors, tissue, images)
        for offset, (k, image) in enumerate(part):
            held[k] = [*held[k], (float(start + offset), image)][-4:]
        start = stop
    vectors, tissue, images = bank.read()
    got = sorted(zip(tissue.tolist(), vectors[:, 0].tolist(), images.tolist(), strict=True))
    assert got == sorted((k, v, i) for k, rows in held.items() for v, i in rows)
    assert bank.filled.tolist() == [len(held[k]) for k in range(3)]


def test_bank_of_size_zero_is_empty():
    bank = MemoryBank(3, 2, size=0)
    bank.push(torch.ones(3, 2), torch.zeros(3, dtype=torch.long), torch.zeros(3, dtype=torch.long))
    assert [x.shape[0] for x in bank.read()] == [0, 0, 0]


@given(st.lists(st.integers(0, 4), max_size=50), st.integers(0, 6))
@settings(max_examples=60, deadline=None)
def test_choose_per_group(groups, limit):
    given_groups = torch.tensor(groups, dtype=torch.long)
    chosen = choose_per_group(given_groups, limit)
    assert len(set(chosen.tolist())) == len(chosen)
    for group in range(5):
        assert (given_groups[chosen] == group).sum() == min(limit, groups.count(group))


def test_choice_is_fair():
    counts = torch.zeros(10)
    generator = torch.Generator().manual_seed(0)
    groups = torch.tensor([0] * 6 + [1] * 4)
    for _ in range(3000):
        counts[choose_per_group(groups, torch.tensor([3, 1]), generator)] += 1
    expected = torch.tensor([0.5] * 6 + [0.25] * 4)
    assert (counts / 3000 - expected).abs().max() < 0.04


def _updated(pixels, tissue, count):
    prototypes = TissuePrototypes(2, 4, prototypes=count, momentum=0.5)
    place = joined()
    own = slice(None) if place is None else slice(place.rank, None, place.world)
    for _ in range(3):
        prototypes.update(pixels[own], tissue[own])
    return {"vectors": prototypes.vectors, "initialised": prototypes.initialised}


@pytest.mark.parametrize("count", [1, 3])
def test_processes_agree(count):
    pixels, tissue = unit(41, 4), torch.arange(41) % 2
    tissue[::4] = 1  # unequal shares
    alone = _updated(pixels, tissue, count)
    one, other = in_processes(2, _updated, pixels, tissue, count)
    assert torch.equal(one["vectors"], other["vectors"]) and bool(one["initialised"].all())
    torch.testing.assert_close(one["vectors"], alone["vectors"])
