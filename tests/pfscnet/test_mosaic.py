"""Mosaics: each pixel keeps its label, tissues come together only as labels say, nothing else is touched."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.pfscnet.mosaic import LabelSets, make_mosaics, smooth_regions


def batch_of(labels: list[list[int]], side: int = 24) -> tuple[torch.Tensor, ...]:
    """Every picture has one value, its number; targets are what the label says, with one ignored column."""
    count = len(labels)
    images = (torch.arange(count).float() / 100)[:, None, None, None].expand(count, 3, side, side).contiguous()
    present = torch.tensor(labels).float()
    target = present.argmax(dim=1)[:, None, None].expand(count, side, side).clone()
    target[:, :, -1] = 255
    inside = torch.ones(count, side, side)
    inside[:, -1] = 0
    return images, target, present, inside


@given(seed=st.integers(0, 10_000), kinds=st.lists(st.sampled_from([(1, 0, 0), (0, 1, 0), (0, 0, 1)]), max_size=8))
@settings(max_examples=40, deadline=None)
def test_each_pixel_keeps_the_tissue_of_the_picture_it_comes_from(seed: int, kinds: list[tuple[int, ...]]) -> None:
    labels = [[1, 1, 0], *map(list, kinds), [0, 1, 1]]
    images, target, present, inside = batch_of(labels)
    before = [x.clone() for x in (images, target, present, inside)]
    torch.manual_seed(seed)
    result = make_mosaics(images, target, present, inside, 0.8)
    assert all(torch.equal(a, b) for a, b in zip((images, target, present, inside), before, strict=True))
    source = (result.images[:, 0] * 100).round().long()
    assert torch.equal(result.images[:, 0], result.images[:, 2])
    expected = torch.where(target[0] == 255, 255, torch.tensor(labels).argmax(dim=1)[source])
    assert torch.equal(result.target, expected)
    assert not result.changed[0] and not result.changed[-1]
    for i, changed in enumerate(result.changed.tolist()):
        sources = source[i].unique().tolist()
        assert changed == (sources != [i])
        assert len(sources) <= 2 and i in sources
        named = torch.tensor([labels[j] for j in sources]).amax(dim=0).float()
        assert torch.equal(result.labels[i], named)
    assert torch.equal(result.inside, inside)
    assert torch.equal(result.part, source != torch.arange(len(labels))[:, None, None])


def test_off_and_too_few_patches_change_nothing() -> None:
    given = batch_of([[1, 0], [0, 1], [1, 0]])
    for share, arguments in ((0.0, given), (1.0, batch_of([[1, 1], [1, 0], [1, 1]]))):
        result = make_mosaics(*arguments, share)
        assert not result.changed.any()
        assert torch.equal(result.images, arguments[0]) and torch.equal(result.target, arguments[1])


def test_regions_take_the_share_they_are_said_to_and_have_smooth_outlines() -> None:
    torch.manual_seed(0)
    regions = smooth_regions(200, 64)
    shares = regions.float().mean(dim=(1, 2))
    assert 0.29 < shares.min() < 0.35 and 0.65 < shares.max() < 0.71
    edges = (regions[:, 1:] != regions[:, :-1]).float().mean()
    assert edges < 0.04  # noise without smoothing would have about a half


@given(seed=st.integers(0, 10_000), kinds=st.lists(st.sampled_from([0, 1, 2, 3]), min_size=1, max_size=8))
@settings(max_examples=40, deadline=None)
def test_any_patches_are_joined_only_if_their_tissues_together_are_a_label(seed: int, kinds: list[int]) -> None:
    every = [[1, 0, 0], [0, 1, 0], [1, 1, 0], [0, 0, 1]]  # the third tissue never lies beside another one
    labels = [every[kind] for kind in kinds]
    images, target, present, inside = batch_of(labels)
    confidence = images[:, 0] * 0.5
    torch.manual_seed(seed)
    known = LabelSets(torch.tensor(every))
    result = make_mosaics(images, target, present, inside, 1.0, label_sets=known, confidence=confidence)
    source = (result.images[:, 0] * 100).round().long()
    rows = torch.arange(target.shape[1])[:, None]
    columns = torch.arange(target.shape[2])
    assert torch.equal(result.target, target[source, rows, columns])
    assert result.confidence is not None and torch.allclose(result.confidence, result.images[:, 0] * 0.5)
    for i in range(len(labels)):
        assert result.labels[i].long().tolist() in every
        possible = any(
            j != i and torch.maximum(present[i], present[j]).long().tolist() in every for j in range(len(labels))
        )
        assert bool(result.changed[i]) == possible == (len(source[i].unique()) == 2)


def test_partners_are_drawn_as_often_as_their_tissues_occur_together() -> None:
    labels = torch.tensor([[1, 0], [0, 1], [1, 0]])
    known = LabelSets(torch.tensor([[1, 0]] * 6 + [[1, 1]] * 2 + [[0, 1]]))
    assert known.of_unions(labels).tolist() == [[6, 2, 6], [2, 1, 2], [6, 2, 6]]
    images, target, present, inside = batch_of(labels.tolist())
    torch.manual_seed(0)
    partners = [
        make_mosaics(images, target, present, inside, 1.0, label_sets=known).labels[0].sum().item() for _ in range(400)
    ]
    # the first joins the second with chance 2 in 8, the third with 6 in 8
    assert 0.18 < partners.count(2.0) / 400 < 0.32
