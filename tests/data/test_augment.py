"""Augmentation: symmetries are exactly invertible, stain shifts are what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import hed2rgb, rgb2hed

from patch2tissue.data.augment import (
    SYMMETRIES,
    apply_symmetry,
    invert_symmetries,
    invert_symmetry,
    random_stain_shift,
    shift_stain,
)


@given(operation=st.integers(0, 7), height=st.integers(1, 9), width=st.integers(1, 9))
def test_inverse_is_exact(operation: int, height: int, width: int) -> None:
    x = torch.arange(2 * height * width).reshape(2, height, width)
    assert torch.equal(invert_symmetry(apply_symmetry(x, operation), operation), x)


def test_all_eight_are_different_and_commute_with_pooling() -> None:
    image = torch.rand(1, 1, 16, 16)
    seen = {tuple(apply_symmetry(image, op).flatten().tolist()) for op in range(SYMMETRIES)}
    assert len(seen) == 8
    for op in range(SYMMETRIES):
        # a map computed on the augmented patch, mapped back, is the map of the patch: exact on the grid
        pooled = torch.nn.functional.avg_pool2d(apply_symmetry(image, op), 4)
        torch.testing.assert_close(invert_symmetry(pooled, op), torch.nn.functional.avg_pool2d(image, 4))


def test_per_sample_inverse() -> None:
    x = torch.rand(16, 3, 5, 5)
    operations = torch.arange(16) % 8
    augmented = torch.stack([apply_symmetry(s, int(o)) for s, o in zip(x, operations, strict=True)])
    assert torch.equal(invert_symmetries(augmented, operations), x)


@pytest.mark.parametrize("operation", [-1, 8])
def test_unknown_operation(operation: int) -> None:
    with pytest.raises(ValueError, match=r"0\.\.7"):
        apply_symmetry(torch.zeros(2, 2), operation)


def test_no_jitter_changes_nothing() -> None:
    images = torch.rand(2, 3, 8, 8).clamp(min=1 / 255)
    shift = random_stain_shift(np.random.default_rng(0), 0.0, 0.0)
    matrix, offset = torch.from_numpy(shift.matrix), torch.from_numpy(shift.offset)
    found = shift_stain(images, matrix.expand(2, 3, 3), offset.expand(2, 3))
    torch.testing.assert_close(found, images, atol=1e-5, rtol=0)


def test_scaling_haematoxylin_is_what_skimage_does() -> None:
    rng = np.random.default_rng(1)
    # colours made of haematoxylin and eosin, so that nothing is clipped
    hed = np.stack([rng.uniform(0.02, 0.1, (6, 6)), rng.uniform(0.02, 0.1, (6, 6)), np.zeros((6, 6))], axis=-1)
    image = hed2rgb(hed).astype(np.float32)
    from skimage.color.colorconv import hed_from_rgb, rgb_from_hed

    matrix = (hed_from_rgb @ np.diag([1.2, 1.0, 1.0]) @ rgb_from_hed).astype(np.float32)
    found = shift_stain(
        torch.from_numpy(image).permute(2, 0, 1)[None], torch.from_numpy(matrix)[None], torch.zeros(1, 3)
    )
    expected = rgb2hed(image) * np.array([1.2, 1.0, 1.0])
    np.testing.assert_allclose(rgb2hed(found[0].permute(1, 2, 0).numpy()), expected, atol=2e-3)


def test_range_and_determinism() -> None:
    images = torch.rand(3, 3, 8, 8)
    shifts = [random_stain_shift(np.random.default_rng(5), 0.2, 0.2) for _ in range(2)]
    assert np.array_equal(shifts[0].matrix, shifts[1].matrix)
    matrix, offset = torch.from_numpy(shifts[0].matrix), torch.from_numpy(shifts[0].offset)
    found = shift_stain(images, matrix.expand(3, 3, 3), offset.expand(3, 3))
    assert found.min() >= 0 and found.max() <= 1 and not torch.equal(found, images)
