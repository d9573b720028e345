"""The attention maps of every epoch of training, kept to be looked at; without torch, so that the viewer is quick."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from patch2tissue.atomic import reserve
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_array

EPOCH_MAPS_FILE = "attention_epochs.npy"
"""Its name in the folder of stage 1."""


class EpochMaps:
    """Maps of N patches over E epochs in a memory-mapped file, uint8 [E, N, K, h, w] in 1/255.

    Each epoch has its own place, so that a killed epoch, which is trained again, leaves nothing behind.

    Args:
        path: the file.
        writable: whether maps will be written.

    Raises:
        DataError: if it is no such file.
    """

    def __init__(self, path: Path, *, writable: bool = False) -> None:
        self.path = Path(path)
        self._maps = read_array(self.path, "Train stage craanet again, or delete the file.", "r+" if writable else "r")
        if self._maps.ndim != 5 or self._maps.dtype != np.uint8:
            raise DataError(f"{path}: holds no maps of epochs. Train stage craanet again, or delete the file.")

    @classmethod
    def create_within(cls, path: Path, shape: tuple[int, ...], gib: float) -> EpochMaps | None:
        """Make an empty file, or go on with one of this shape; None, and no file, if it would be larger than `gib`."""
        path = Path(path)
        if int(np.prod(shape, dtype=np.int64)) > gib * 2**30:
            path.unlink(missing_ok=True)
            return None
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            found = cls(path).shape
        except DataError:
            found = None
        if found != shape:
            np.lib.format.open_memmap(path, mode="w+", dtype=np.uint8, shape=shape).flush()
        reserve(path)  # of one that is there, too: a full disk may have ended the call that made it
        return cls(path, writable=True)

    @property
    def shape(self) -> tuple[int, ...]:
        """(E, N, K, h, w)."""
        return tuple(self._maps.shape)

    def write(self, epoch: int, rows: np.ndarray, maps: np.ndarray) -> None:
        """Keep the maps of some patches.

        Args:
            epoch: counted from 0.
            rows: patch numbers, int [B].
            maps: float [B, K, h, w] in 0..1.
        """
        self._maps[epoch, rows] = np.rint(np.clip(maps, 0.0, 1.0) * 255.0).astype(np.uint8)

    def of_patch(self, row: int) -> np.ndarray:
        """Maps of one patch by epoch, float32 [E, K, h, w] in 0..1."""
        return np.asarray(self._maps[:, row], np.float32) / 255.0

    def flush(self) -> None:
        """Have it on disk."""
        assert isinstance(self._maps, np.memmap)
        self._maps.flush()


def replayed(maps: np.ndarray, mode: str, *, first: int, ema_decay: float) -> np.ndarray:
    """The memory after each epoch, from the maps of the epochs.

    Args:
        maps: [E, ...].
        mode: `mean`, `max` or `ema`, see `AttentionMemory`.
        first: first epoch that is overlaid, counted from 0; the memory is empty (0) before.
        ema_decay: share of the old memory that `ema` keeps.

    Returns:
        float32 of the shape of `maps`.
    """
    memory = np.zeros(maps.shape, np.float32)
    for epoch in range(first, len(maps)):
        new, old = maps[epoch], memory[epoch - 1] if epoch > first else None
        if old is None:
            memory[epoch] = new
        elif mode == "max":
            memory[epoch] = np.maximum(old, new)
        elif mode == "mean":
            memory[epoch] = old + (new - old) / (epoch - first + 1)
        else:
            memory[epoch] = ema_decay * old + (1.0 - ema_decay) * new
    return memory
