"""Attention memory against a replay of all epochs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.errors import DataError

SHAPE = (7, 3, 4, 4)


def epochs(number: int, seed: int = 0) -> torch.Tensor:
    """Maps of every epoch, [E, N, K, h, w]."""
    return torch.rand(number, *SHAPE, generator=torch.Generator().manual_seed(seed))


def replay(maps: torch.Tensor, mode: str, decay: float) -> torch.Tensor:
    """The memory by definition, from all maps at once."""
    if mode == "max":
        return maps.amax(0)
    if mode == "mean":
        return maps.mean(0)
    result = maps[0]
    for new in maps[1:]:
        result = decay * result + (1 - decay) * new
    return result


def feed(memory: AttentionMemory, maps: torch.Tensor, seed: int) -> None:
    """One epoch, in batches of a shuffled order."""
    order = torch.randperm(SHAPE[0], generator=torch.Generator().manual_seed(seed))
    for batch in order.split(3):
        memory.accumulate(batch, maps[batch])


@settings(deadline=None, max_examples=20)
@given(number=st.integers(1, 12), seed=st.integers(0, 999), mode=st.sampled_from(["max", "mean", "ema"]))
def test_equals_replay(tmp_path_factory: pytest.TempPathFactory, number: int, seed: int, mode: str) -> None:
    memory = AttentionMemory.create(tmp_path_factory.mktemp("m") / "memory", SHAPE, mode=mode, ema_decay=0.6)
    maps = epochs(number, seed)
    for epoch in range(number):
        feed(memory, maps[epoch], seed + epoch)
    torch.testing.assert_close(memory.read(), replay(maps, mode, 0.6), atol=5e-3, rtol=0)
    assert (np.asarray(memory.counts) == number).all()


def test_uint8_maximum_is_exact_to_a_step_and_mean_does_not_freeze(tmp_path: Path) -> None:
    maps = epochs(40)
    largest = AttentionMemory.create(tmp_path / "max", SHAPE, mode="max", dtype="uint8")
    mean = AttentionMemory.create(tmp_path / "mean", SHAPE, mode="mean", dtype="uint8")
    for epoch, new in enumerate(maps):
        feed(largest, new, epoch)
        feed(mean, new, epoch)
    assert (tmp_path / "mean" / "maps.npy").stat().st_size < 1.2 * np.prod(SHAPE) + 128
    torch.testing.assert_close(largest.read(), maps.amax(0), atol=0.5 / 255 + 1e-6, rtol=0)
    error = mean.read() - maps.mean(0)
    assert error.abs().max() < 0.03 and error.mean().abs() < 0.003
    # a late, small change moves the mean even when it is below half a step: 41st map of ones on a mean near 0.5
    before = mean.read()
    for _ in range(60):
        feed(mean, torch.ones(SHAPE), 0)
    assert (mean.read() - before).mean() > 0.25


@pytest.mark.parametrize("mode", ["max", "mean", "ema"])
@pytest.mark.parametrize("dtype", ["float16", "uint8"])
def test_snapshot_and_restore_undo_a_killed_epoch(tmp_path: Path, mode: str, dtype: str) -> None:
    maps = epochs(5)
    whole = AttentionMemory.create(tmp_path / "whole", SHAPE, mode=mode, dtype=dtype)
    for epoch in range(5):
        feed(whole, maps[epoch], epoch)
    broken = AttentionMemory.create(tmp_path / "broken", SHAPE, mode=mode, dtype=dtype)
    for epoch in range(3):
        feed(broken, maps[epoch], epoch)
    broken.save_snapshot(tmp_path / "snapshot")
    broken.accumulate(torch.tensor([0, 1]), maps[3][:2])  # the epoch that is killed
    resumed = AttentionMemory.restore_snapshot(tmp_path / "snapshot", tmp_path / "broken")
    for epoch in (3, 4):
        feed(resumed, maps[epoch], epoch)
    assert np.array_equal(resumed.maps, whole.maps)
    assert np.array_equal(resumed.counts, whole.counts)


def test_rows_are_independent_of_batches(tmp_path: Path) -> None:
    maps = epochs(1)[0]
    one = AttentionMemory.create(tmp_path / "one", SHAPE, mode="mean", dtype="uint8")
    one.accumulate(torch.arange(7), maps)
    many = AttentionMemory.create(tmp_path / "many", SHAPE, mode="mean", dtype="uint8")
    for row in (6, 2, 0, 1, 5, 3, 4):
        many.accumulate(torch.tensor([row]), maps[row : row + 1])
    assert np.array_equal(one.maps, many.maps)


def test_wrong_shape_and_missing_folder(tmp_path: Path) -> None:
    memory = AttentionMemory.create(tmp_path / "memory", SHAPE)
    with pytest.raises(ValueError, match="does not fit"):
        memory.accumulate(torch.tensor([0]), torch.rand(1, 3, 5, 5))
    with pytest.raises(DataError, match="not an attention memory"):
        AttentionMemory(tmp_path / "nothing")
    (memory.folder / "maps.npy").write_bytes(b"\x93NUMPY half a file")
    with pytest.raises(DataError, match=r"maps\.npy: cannot be read .* Train stage craanet again"):
        AttentionMemory(memory.folder)
    with pytest.raises(DataError, match="incomplete"):
        AttentionMemory.restore_snapshot(tmp_path / "no-snapshot", tmp_path / "memory")
