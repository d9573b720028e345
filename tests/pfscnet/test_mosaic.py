"""Mosaics of patches of one tissue: exact labels, nothing invented, patches of several tissues untouched."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.pfscnet.mosaic import make_mosaics, smooth_regions


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
