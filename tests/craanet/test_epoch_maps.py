"""Maps of every epoch: what is kept, and the memory replayed from it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.epoch_maps import EpochMaps, replayed
from patch2tissue.errors import DataError

SHAPE = (5, 3, 2, 4, 4)


def maps_of(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).random(SHAPE, np.float32)


def test_what_is_written_is_read(tmp_path: Path) -> None:
    kept = EpochMaps.create_within(tmp_path / "e.npy", SHAPE, 1.0)
    assert kept is not None
    maps = maps_of(0)
    for epoch in range(len(maps)):
        kept.write(epoch, np.array([2, 0]), maps[epoch, [2, 0]])
    kept.flush()
    again = EpochMaps(tmp_path / "e.npy")
    for row in (0, 2):
        assert np.abs(again.of_patch(row) - maps[:, row]).max() <= 0.5 / 255 + 1e-6
    assert not again.of_patch(1).any()
    with pytest.raises(ValueError, match="read-only"):
        again.write(0, np.array([0]), maps[0, :1])


def test_an_interrupted_training_goes_on_with_the_file(tmp_path: Path) -> None:
    maps = maps_of(1)
    first = EpochMaps.create_within(tmp_path / "e.npy", SHAPE, 1.0)
    assert first is not None
    first.write(0, np.arange(3), maps[0])
    first.flush()
    second = EpochMaps.create_within(tmp_path / "e.npy", SHAPE, 1.0)
    assert second is not None and second.of_patch(1)[0].any()
    other = EpochMaps.create_within(tmp_path / "e.npy", (6, *SHAPE[1:]), 1.0)
    assert other is not None and not other.of_patch(1).any()


def test_too_much_is_not_kept(tmp_path: Path) -> None:
    assert EpochMaps.create_within(tmp_path / "e.npy", SHAPE, 1.0) is not None
    assert EpochMaps.create_within(tmp_path / "e.npy", SHAPE, 1e-9) is None
    assert not (tmp_path / "e.npy").exists()


@pytest.mark.parametrize("content", [b"", b"nothing", None])
def test_what_is_no_such_file_is_told(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "e.npy"
    if content is None:
        np.save(path, np.zeros((2, 2), np.uint8))
    else:
        path.write_bytes(content)
    with pytest.raises(DataError, match=r"e\.npy: "):
        EpochMaps(path)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=30)
@given(st.sampled_from(["mean", "max", "ema"]), st.integers(0, 4), st.floats(0, 0.95), st.integers(0, 99))
def test_replay_is_what_the_memory_held(tmp_path: Path, mode: str, first: int, decay: float, seed: int) -> None:
    maps = maps_of(seed)
    memory = AttentionMemory.create(tmp_path / "memory", SHAPE[1:], mode=mode, ema_decay=decay)  # type: ignore[arg-type]
    found = replayed(maps, mode, first=first, ema_decay=decay)
    assert not found[:first].any()
    for epoch in range(first, len(maps)):
        memory.accumulate(torch.arange(3), torch.from_numpy(maps[epoch]))
        np.testing.assert_allclose(found[epoch], memory.read().numpy(), atol=3e-3)
