"""Tiles, blending and padding against whole-image passes and brute force."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from patch2tissue.inference.tiling import blending_window, pad_to_multiple, predict_batch, predict_tiled, tile_grid

SIZES = [(1, 1), (2, 31), (17, 300), (300, 17), (33, 64), (64, 64), (65, 64), (130, 97)]


def picture(height: int, width: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def pixelwise(images: Tensor) -> Tensor:
    """Three "tissues" that look at their own pixel alone."""
    return torch.softmax(4.0 * images, dim=1)


def expected_pixelwise(image: np.ndarray) -> np.ndarray:
    exponentials = np.exp(4.0 * image.astype(np.float64).transpose(2, 0, 1) / 255.0)
    return exponentials / exponentials.sum(axis=0)


@settings(deadline=None)
@given(
    height=st.integers(1, 200),
    width=st.integers(1, 200),
    tile=st.integers(1, 96),
    overlap=st.floats(0.0, 0.95),
)
def test_tiles_cover_every_pixel_and_stay_inside(height: int, width: int, tile: int, overlap: float) -> None:
    covered = np.zeros((height, width), dtype=bool)
    corners = tile_grid(height, width, tile, overlap)
    tile_height, tile_width = min(tile, height), min(tile, width)
    for y, x in corners:
        assert 0 <= y <= height - tile_height
        assert 0 <= x <= width - tile_width
        covered[y : y + tile_height, x : x + tile_width] = True
    assert covered.all()
    assert len(set(corners)) == len(corners)
    assert corners == sorted(corners)


@given(length=st.integers(1, 400), tile=st.integers(4, 96), overlap=st.floats(0.0, 0.9))
def test_neighbouring_tiles_overlap_by_at_least_the_given_share(length: int, tile: int, overlap: float) -> None:
    starts = [x for _, x in tile_grid(1, length, tile, overlap)]
    steps = np.diff(starts)
    # a tile cannot move by less than a pixel
    assert (tile - steps >= overlap * tile - 1e-6).all() or set(steps.tolist()) == {1}


def test_a_side_not_longer_than_a_tile_has_one_position() -> None:
    assert tile_grid(64, 64, 64, 0.25) == [(0, 0)]
    assert tile_grid(10, 65, 64, 0.25) == [(0, 0), (0, 1)]
    assert tile_grid(10, 112, 64, 0.25) == [(0, 0), (0, 48)]


@pytest.mark.parametrize(("height", "width"), [(1, 1), (1, 9), (32, 32), (512, 512), (77, 512)])
def test_window_is_symmetric_smooth_and_above_zero(height: int, width: int) -> None:
    window = blending_window(height, width)
    assert window.shape == (height, width)
    assert window.min() > 0
    torch.testing.assert_close(window, window.flip(0))
    torch.testing.assert_close(window, window.flip(1))
    assert window.max() == pytest.approx(float(window[height // 2, width // 2]))


@pytest.mark.parametrize(("height", "width"), SIZES)
def test_padding_goes_to_the_next_multiple_and_keeps_the_image(height: int, width: int) -> None:
    images = torch.rand(2, 3, height, width)
    padded = pad_to_multiple(images, 32)
    assert padded.shape[-2] % 32 == padded.shape[-1] % 32 == 0
    assert padded.shape[-2] - height < 32
    assert padded.shape[-1] - width < 32
    assert torch.equal(padded[..., :height, :width], images)


def test_padding_mirrors_where_it_can() -> None:
    image = torch.arange(6.0).reshape(1, 1, 1, 6).expand(1, 1, 6, 6)
    assert pad_to_multiple(image, 8)[0, 0, 0].tolist() == [0, 1, 2, 3, 4, 5, 4, 3]
    narrow = torch.tensor([[[[1.0, 2.0]]]])
    assert pad_to_multiple(narrow, 4)[0, 0].tolist() == [[1.0, 2.0, 2.0, 2.0]] * 4


@pytest.mark.parametrize(("height", "width"), SIZES)
@pytest.mark.parametrize("overlap", [0.0, 0.25, 0.6])
def test_a_pixelwise_network_gives_the_same_with_and_without_tiles(height: int, width: int, overlap: float) -> None:
    image = picture(height, width)
    found = predict_tiled(pixelwise, image, tile=64, overlap=overlap, batch_size=3)
    assert found.dtype == np.float32
    assert found.shape == (3, height, width)
    assert found.flags.c_contiguous
    np.testing.assert_allclose(found, expected_pixelwise(image), atol=2e-6)


@settings(deadline=None, max_examples=25)
@given(height=st.integers(1, 90), width=st.integers(1, 90), batch=st.integers(1, 5), overlap=st.floats(0, 0.8))
def test_any_size_any_batch(height: int, width: int, batch: int, overlap: float) -> None:
    image = picture(height, width, seed=height * 100 + width)
    found = predict_tiled(pixelwise, image, tile=32, overlap=overlap, batch_size=batch, multiple=16)
    np.testing.assert_allclose(found, expected_pixelwise(image), atol=2e-6)


def test_a_constant_network_gives_a_constant_map() -> None:
    def constant(images: Tensor) -> Tensor:
        shape = (len(images), 2, *images.shape[-2:])
        return torch.tensor([0.25, 0.75])[None, :, None, None].expand(shape)

    found = predict_tiled(constant, picture(150, 211), tile=48, overlap=0.3)
    np.testing.assert_allclose(found[0], 0.25, atol=1e-6)
    np.testing.assert_allclose(found[1], 0.75, atol=1e-6)


def test_blending_is_the_weighted_mean_of_the_tiles() -> None:
    """A network that tells its tiles apart, against sums made pixel by pixel."""
    height, width, tile, overlap = 40, 55, 24, 0.5
    count = 0

    def numbered(images: Tensor) -> Tensor:
        nonlocal count
        values = torch.arange(count, count + len(images), dtype=torch.float32)
        count += len(images)
        return values[:, None, None, None].expand(len(images), 1, *images.shape[-2:])

    found = predict_tiled(numbered, picture(height, width), tile=tile, overlap=overlap, batch_size=4)
    window = blending_window(tile, tile).double().numpy()
    total, weights = np.zeros((height, width)), np.zeros((height, width))
    for number, (y, x) in enumerate(tile_grid(height, width, tile, overlap)):
        for i in range(tile):
            for j in range(tile):
                total[y + i, x + j] += number * window[i, j]
                weights[y + i, x + j] += window[i, j]
    np.testing.assert_allclose(found[0], total / weights, rtol=1e-4, atol=1e-4)


def test_tiles_of_a_convolution_agree_with_the_whole_image() -> None:
    """With every pixel seen by a tile that holds its receptive field, only the smallest weights can differ."""
    torch.manual_seed(0)
    network = nn.Sequential(  # receptive field 9×9, so 4 pixels from an edge the edge is not felt
        *[layer for i in range(4) for layer in (nn.Conv2d(8 if i else 3, 8, 3, padding=1), nn.ReLU())],
        nn.Conv2d(8, 3, 1),
        nn.Softmax(dim=1),
    ).eval()
    image = picture(160, 180)
    whole = predict_tiled(network, image, tile=512, multiple=1)
    tiled = predict_tiled(network, image, tile=64, overlap=0.5, batch_size=5, multiple=1)
    contrast = whole.max() - whole.min()
    assert contrast > 0.01
    assert np.abs(tiled - whole).max() < 0.02 * contrast
    # well inside the first tile and away from every other tile's edge zone it is exact
    np.testing.assert_allclose(tiled[:, 4:28, 4:28], whole[:, 4:28, 4:28], atol=1e-6)


def test_no_seam_shows_where_tiles_disagree() -> None:
    """Every tile has its own level; between neighbouring pixels the blend moves in small steps only."""
    levels = iter(np.tile([0.0, 1.0], 50))

    def alternating(images: Tensor) -> Tensor:
        values = torch.tensor([next(levels) for _ in images], dtype=torch.float32)
        return values[:, None, None, None].expand(len(images), 1, *images.shape[-2:])

    found = predict_tiled(alternating, picture(128, 500), tile=128, overlap=0.5, batch_size=4)[0]
    assert found.min() < 0.05
    assert found.max() > 0.95
    assert np.abs(np.diff(found, axis=1)).max() < 0.1


def test_batches_are_no_larger_than_asked_for_and_inputs_fit_the_stride() -> None:
    seen: list[tuple[int, ...]] = []

    def watching(images: Tensor) -> Tensor:
        seen.append(tuple(images.shape))
        assert images.dtype == torch.float32
        assert 0 <= images.min() <= images.max() <= 1
        return images

    predict_tiled(watching, picture(100, 70), tile=50, overlap=0.25, batch_size=3, multiple=32)
    assert all(shape[0] <= 3 and shape[1:] == (3, 64, 64) for shape in seen)
    assert sum(shape[0] for shape in seen) == len(tile_grid(100, 70, 50, 0.25))


def test_a_batch_of_whole_images_is_each_image_alone() -> None:
    images = np.stack([picture(17, 23, seed) for seed in range(3)])
    together = predict_batch(pixelwise, images)
    assert together.shape == (3, 3, 17, 23)
    for image, found in zip(images, together, strict=True):
        np.testing.assert_array_equal(found, predict_tiled(pixelwise, image))


def test_half_precision_gives_float32_close_to_full_precision() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Softmax(dim=1))
    image = picture(40, 50)
    full = predict_tiled(network, image, tile=32)
    half = predict_tiled(network, image, tile=32, dtype=torch.bfloat16)
    assert half.dtype == np.float32
    np.testing.assert_allclose(half, full, atol=0.02)


def test_no_gradient_is_kept_and_the_image_stays_as_it_is() -> None:
    network = nn.Conv2d(3, 2, 1)
    image = picture(20, 20)
    before = image.copy()
    predict_tiled(network, image, tile=16)
    np.testing.assert_array_equal(image, before)
    assert network.weight.grad is None
