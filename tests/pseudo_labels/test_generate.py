"""Rules that turn scores into pseudo labels."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.craanet.attention_maps import attention_maps
from patch2tissue.craanet.network import CRAANet
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.pseudo_labels.generate import label_from_scores, predicted_maps


@settings(deadline=None, max_examples=50)
@given(seed=st.integers(0, 10_000), tissues=st.integers(2, 5))
def test_absent_tissues_are_never_chosen(seed: int, tissues: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    scores = torch.rand(3, tissues, 6, 6, generator=generator)
    present = (torch.rand(3, tissues, generator=generator) > 0.5).float()
    present[:, 0] = torch.maximum(present[:, 0], (present.sum(1) == 0).float())
    found = label_from_scores(scores, present)
    chosen = present[torch.arange(3)[:, None, None], found.labels.long()]
    assert (chosen == 1).all()
    assert found.confidence.min() >= 0 and found.confidence.max() <= 1


def test_argmax_and_margin_by_hand() -> None:
    scores = torch.tensor([0.2, 0.6, 0.9]).view(1, 3, 1, 1)
    found = label_from_scores(scores, torch.tensor([[1.0, 1.0, 0.0]]))
    assert found.labels.item() == 1
    assert math.isclose(found.confidence.item(), 0.6 / 0.8 - 0.2 / 0.8, abs_tol=1e-4)


def test_one_tissue_is_certain_even_where_attention_is_nothing() -> None:
    found = label_from_scores(torch.zeros(1, 3, 4, 4), torch.tensor([[0.0, 1.0, 0.0]]))
    assert (found.labels == 1).all()
    assert (found.confidence > 0.99).all()


def test_symmetries_are_mapped_back() -> None:
    # a network that sees only single pixels commutes with every symmetry: averaging eight views changes nothing
    network = CRAANet("resnet10t", 2).eval()

    class Pixelwise(torch.nn.Module):
        output_stride = 4

        def forward(self, images: torch.Tensor) -> list[torch.Tensor]:
            return [torch.nn.functional.avg_pool2d(images, 4)]

    network.encoder = Pixelwise()  # type: ignore[assignment]
    network.heads.classifiers[0] = torch.nn.Conv2d(3, 2, 1, bias=False)
    images, labels = torch.rand(2, 3, 16, 16), torch.ones(2, 2)
    one = predicted_maps(network, images, labels, form="softmax")
    eight = predicted_maps(network, images, labels, form="softmax", symmetries=True)
    torch.testing.assert_close(one, eight)
    assert one.shape == (2, 2, 8, 8)
    expected = attention_maps(network(images).attention, labels, "softmax")
    torch.testing.assert_close(torch.nn.functional.interpolate(expected, (8, 8), mode="bilinear"), one)


def test_scales_keep_the_size() -> None:
    network = CRAANet("resnet10t", 2).eval()
    maps = predicted_maps(network, torch.rand(1, 3, 32, 32), torch.ones(1, 2), form="plain", scales=(0.75, 1.0, 1.25))
    assert maps.shape == (1, 2, 16, 16)
    assert maps.min() >= 0 and maps.max() <= 1


def test_white_is_white_and_single_pixels_do_not_count() -> None:
    image = np.full((9, 9, 3), 180, dtype=np.uint8)
    image[:, 5:] = 240
    image[2, 2] = 255
    image[4, 7] = (240, 100, 240)
    white = white_pixels(image, 215)
    assert not white[2, 2]
    assert white[:, 6:].all()
    assert not white[:, :4].any()
