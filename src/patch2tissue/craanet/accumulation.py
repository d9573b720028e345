"""Attention accumulation: one memory of attention maps, overlaid epoch after epoch in the training pass itself.

The idea is published (Jiang et al., Integral Object Mining via Online Attention Accumulation, ICCV 2019; Han et al.
2023); the storage, and mean and ema beside max, are our reading.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from patch2tissue.atomic import reserve, write_text
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_array, read_json

AccumulationMode = Literal["mean", "max", "ema"]
MapDtype = Literal["float16", "uint8"]


class AttentionMemory:
    """Accumulated attention of N patches, [N, K, h, w] in 0..1, in a memory-mapped file.

    Each patch is overlaid once per epoch, so `counts[i]` is the number of epochs that patch i has seen. Rows are
    independent: processes that own different patches may write the same file.

    Args:
        folder: folder made by `AttentionMemory.create`.

    Raises:
        DataError: if the folder holds no memory.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        try:
            settings = read_json(self.folder / "memory.json")
            self.mode: AccumulationMode = settings["mode"]
            self.ema_decay: float = settings["ema_decay"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise DataError(f"{self.folder}: not an attention memory ({error}). Train stage craanet again.") from None
        again = "Train stage craanet again."
        self.maps: np.ndarray = read_array(self.folder / "maps.npy", again, "r+")
        self.counts: np.ndarray = read_array(self.folder / "counts.npy", again, "r+")
        if (
            self.maps.ndim != 4
            or self.maps.dtype not in (np.float16, np.uint8)
            or self.counts.shape != self.maps.shape[:1]
        ):
            raise DataError(f"{self.folder / 'maps.npy'}: holds no attention maps of patches. {again}")

    @classmethod
    def create(
        cls,
        folder: Path,
        shape: tuple[int, int, int, int],
        *,
        mode: AccumulationMode = "mean",
        ema_decay: float = 0.7,
        dtype: MapDtype = "float16",
    ) -> AttentionMemory:
        """Make an empty memory, replacing one that is there.

        Args:
            folder: where `maps.npy`, `counts.npy` and `memory.json` are written.
            shape: (N, K, h, w).
            mode: `max` keeps the largest value ever seen; `mean` the mean over epochs; `ema` decays the old one.
            ema_decay: share of the old memory that `ema` keeps.
            dtype: `float16` (2 bytes a value) or `uint8` (1 byte, in steps of 1/255, rounded without bias).
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "memory.json").unlink(missing_ok=True)
        for name, kind, size in (("maps", dtype, shape), ("counts", "uint16", shape[:1])):
            np.lib.format.open_memmap(folder / f"{name}.npy", mode="w+", dtype=np.dtype(kind), shape=size).flush()
            reserve(folder / f"{name}.npy")
        write_text(folder / "memory.json", json.dumps({"mode": mode, "ema_decay": ema_decay, "shape": list(shape)}))
        return cls(folder)

    def __len__(self) -> int:
        return int(self.maps.shape[0])

    def accumulate(self, index: Tensor, attention: Tensor) -> None:
        """Overlay one map on each patch of `index`.

        Args:
            index: distinct patch numbers, int64 [B].
            attention: maps in 0..1 on the patch's own grid (augmentation undone), float [B, K, h, w].

        Raises:
            ValueError: if the maps have another size than the memory.
        """
        rows = index.cpu().numpy()
        new = attention.detach().float().cpu().numpy()
        if new.shape[1:] != self.maps.shape[1:]:
            raise ValueError(f"attention {new.shape[1:]} does not fit the memory's {self.maps.shape[1:]}")
        old = self._decode(self.maps[rows])
        seen = self.counts[rows].astype(np.float32)[:, None, None, None]
        if self.mode == "max":
            merged = np.maximum(old, new)
        elif self.mode == "mean":
            merged = old + (new - old) / (seen + 1.0)
        else:
            merged = np.where(seen > 0, self.ema_decay * old + (1.0 - self.ema_decay) * new, new)
        self.maps[rows] = self._encode(merged, rows)
        self.counts[rows] += 1

    def read(self, index: Tensor | np.ndarray | slice | None = None) -> Tensor:
        """Return accumulated maps of some patches (default: all), float32 [n, K, h, w] in 0..1."""
        key = slice(None) if index is None else index
        if isinstance(key, Tensor):
            key = key.cpu().numpy()
        return torch.from_numpy(self._decode(np.asarray(self.maps[key])))

    def _decode(self, stored: np.ndarray) -> np.ndarray:
        values = stored.astype(np.float32)
        return values / 255.0 if self.maps.dtype == np.uint8 else values

    def _encode(self, values: np.ndarray, rows: np.ndarray) -> np.ndarray:
        if self.maps.dtype != np.uint8:
            return values.astype(self.maps.dtype)
        if self.mode == "max":
            return np.rint(values * 255.0).astype(np.uint8)
        # A running mean moves by less than half a step in late epochs: plain rounding would freeze it. Rounding up
        # with the probability of the remainder has no bias; the draw depends on patch and epoch alone.
        noise = np.stack(
            [np.random.default_rng((int(r), int(self.counts[r]))).random(values.shape[1:], np.float32) for r in rows]
        )
        return np.clip(np.floor(values * 255.0 + noise), 0, 255).astype(np.uint8)

    def save_snapshot(self, folder: Path) -> None:
        """Copy the memory into `folder`; complete once `memory.json` is there."""
        assert isinstance(self.maps, np.memmap) and isinstance(self.counts, np.memmap)
        self.maps.flush()
        self.counts.flush()
        copy_memory(self.folder, folder)

    @classmethod
    def restore_snapshot(cls, snapshot: Path, folder: Path) -> AttentionMemory:
        """Replace the memory in `folder` by a snapshot of it, as when training resumes.

        Raises:
            DataError: if the snapshot is incomplete.
        """
        if not (snapshot / "memory.json").is_file():
            raise DataError(f"{snapshot}: incomplete snapshot of the attention memory; train again with --fresh.")
        copy_memory(snapshot, folder)
        return cls(folder)


def copy_memory(source: Path, target: Path) -> None:
    """Copy the files of a memory, the marking `memory.json` last."""
    target.mkdir(parents=True, exist_ok=True)
    (target / "memory.json").unlink(missing_ok=True)
    for name in ("maps.npy", "counts.npy", "memory.json"):
        shutil.copyfile(source / name, target / name)
