"""Patches as training batches: deterministic in (seed, epoch, index), whatever the number of worker processes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from patch2tissue.data.augment import SYMMETRIES, apply_symmetry, random_stain_shift
from patch2tissue.data.canvas import place_on_canvas
from patch2tissue.data.images import image_size, read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.data.position_probe import Recolor
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

_CACHE_LIMIT = 2 * 1024**3


class TrainingPatches(Dataset[dict[str, Tensor]]):
    """Augmented training patches.

    An item is asked for by `(epoch, index)` and holds: `image` uint8 [3, S, S]; `labels` float32 [K]; `index` and
    `symmetry` int64; `stain_matrix` float32 [3, 3] and `stain_offset` float32 [3]; and, if `targets` is given,
    `target` uint8 [S, S] (0..K-1 or 255), `inside` bool [S, S] (the patch without padding) and `confidence` uint8
    [S, S] (0..255).

    Args:
        patches: labelled patches.
        tissues: their tissue set.
        side: canvas side S in pixels.
        seed: seed of the augmentation.
        stain: spread of the stain augmentation; brightness: that of the brightness.
        cache: keep decoded images in memory if they fit in 2 GiB, all data-loading processes together.
        targets: one mask file per patch (pseudo labels), or None.
        confidences: one grey PNG per patch, or None.
        colors: changes the colours of each patch, before stain and symmetry.
    """

    def __init__(
        self,
        patches: Sequence[Patch],
        tissues: TissueSet,
        side: int,
        *,
        seed: int,
        stain: float = 0.0,
        brightness: float = 0.0,
        cache: bool = True,
        targets: Sequence[Path] | None = None,
        confidences: Sequence[Path] | None = None,
        colors: Recolor | None = None,
    ) -> None:
        self.patches = list(patches)
        self.tissues = tissues
        self.colors = colors
        self.side = side
        self.seed = seed
        self.stain = stain
        self.brightness = brightness
        self.targets = targets
        self.confidences = confidences
        self._sizes = np.zeros((len(self.patches), 2), np.int32)
        self._cache: dict[int, tuple[np.ndarray, ...]] | None = {} if cache else None
        self.limit_cache(1)

    def __len__(self) -> int:
        return len(self.patches)

    def limit_cache(self, processes: int) -> None:
        """Keep nothing if decoded patches take more than 2 GiB in so many processes; each comes to hold all of them."""
        layers = 3 + (self.targets is not None) + (self.confidences is not None)
        if processes * layers * self.side**2 * len(self.patches) > _CACHE_LIMIT:
            self._cache = None

    def _read(self, index: int) -> tuple[np.ndarray, ...]:
        if self._cache is not None and index in self._cache:
            return self._cache[index]
        arrays = [place_on_canvas(read_image(self.patches[index].path), self.side, 255)]
        if self.targets is not None:
            target = read_mask(self.targets[index], self.tissues)
            arrays.append(place_on_canvas(target, self.side, IGNORE_INDEX))
        if self.confidences is not None:
            grey = read_image(self.confidences[index])[..., 0]
            arrays.append(place_on_canvas(grey, self.side, 0))
        # own, writable copies: torch shares their memory
        read = tuple(np.array(array) for array in arrays)
        if self._cache is not None:
            self._cache[index] = read
        return read

    def _part(self, index: int) -> tuple[slice, slice]:
        """Rows and columns of the canvas that belong to the patch."""
        if not self._sizes[index].any():
            self._sizes[index] = image_size(self.patches[index].path)
        height, width = (min(int(length), self.side) for length in self._sizes[index])
        return slice(height), slice(width)

    def _inside(self, index: int) -> np.ndarray:
        """Which pixels of the canvas belong to the patch, bool [S, S]."""
        inside = np.zeros((self.side, self.side), dtype=bool)
        inside[self._part(index)] = True
        return inside

    def _recolored(self, image: np.ndarray, epoch: int, index: int) -> np.ndarray:
        """A patch with other colours, on the canvas [S, S, 3]; padding stays as it is."""
        if self.colors is None:
            return image
        # apart from `rng` of the symmetry, so that a pipeline changes colours and nothing else
        seed = np.random.SeedSequence((self.seed, epoch, index, 1)).generate_state(1)[0]
        changed, part = image.copy(), self._part(index)
        changed[part] = self.colors(image[part], int(seed))
        return changed

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        epoch, index = key
        rng = np.random.default_rng((self.seed, epoch, index))
        operation = int(rng.integers(SYMMETRIES))
        shift = random_stain_shift(rng, self.stain, self.brightness)
        image, *layers = self._read(index)
        image = self._recolored(image, epoch, index)
        item = {
            "image": apply_symmetry(torch.from_numpy(image).permute(2, 0, 1), operation).contiguous(),
            "index": torch.tensor(index),
            "symmetry": torch.tensor(operation),
            "stain_matrix": torch.from_numpy(shift.matrix),
            "stain_offset": torch.from_numpy(shift.offset),
        }
        labels = self.patches[index].labels
        if labels is not None:
            item["labels"] = torch.tensor(labels, dtype=torch.float32)
        if self.targets is not None:
            item["inside"] = apply_symmetry(torch.from_numpy(self._inside(index)), operation).contiguous()
        for name, layer in zip(("target", "confidence"), layers, strict=False):
            item[name] = apply_symmetry(torch.from_numpy(layer), operation).contiguous()
        return item


class PlainPatches(Dataset[dict[str, Tensor]]):
    """Patches as they are, for inference: `image` uint8 [3, S, S], `index` int64 and `labels` float32 [K]."""

    def __init__(self, patches: Sequence[Patch], side: int) -> None:
        self.patches = list(patches)
        self.side = side

    def __len__(self) -> int:
        return len(self.patches)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        patch = self.patches[index]
        image = place_on_canvas(read_image(patch.path), self.side, 255)
        return {
            "image": torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous(),
            "index": torch.tensor(index),
            "labels": torch.tensor(patch.labels or (), dtype=torch.float32),
        }


class EpochSampler(Sampler[tuple[int, int]]):
    """Shuffled `(epoch, index)` keys; the order depends on `(seed, epoch)` alone, so a resumed run repeats it."""

    def __init__(self, length: int, seed: int) -> None:
        self.length = length
        self.seed = seed
        self.epoch = 0

    def set_epoch(self, epoch: int) -> None:
        """Choose the epoch whose order the next iteration yields."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[tuple[int, int]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.length)
        return ((self.epoch, int(index)) for index in order)


def training_loader(dataset: TrainingPatches, batch_size: int, workers: int, pin_memory: bool) -> DataLoader[Any]:
    """Loader in the order of an `EpochSampler` seeded as the data set; a last single patch is dropped.

    Batch normalisation cannot be trained on one patch, so a last batch of one is left out unless it is the only one.
    """
    sampler = EpochSampler(len(dataset), dataset.seed)
    dataset.limit_cache(max(1, workers))
    return DataLoader(
        dataset,
        batch_size=min(batch_size, len(dataset)),
        sampler=sampler,
        num_workers=workers,
        persistent_workers=workers > 0,
        pin_memory=pin_memory,
        drop_last=len(dataset) > batch_size and len(dataset) % batch_size == 1,
        # An iteration draws a number only when it starts workers. From torch's own generator, what the training draws
        # next would depend on whether there are workers, and whether they are new.
        generator=torch.Generator(),
    )


def read_ahead(loader: DataLoader[Any]) -> Iterator[dict[str, Tensor]]:
    """Batches, the next one of which a thread reads while the network is at work; workers read ahead by themselves."""
    # what draws from the generators of the whole process must not do so while the training draws from them
    if loader.num_workers > 0 or getattr(getattr(loader.dataset, "colors", None), "draws_globally", False):
        yield from loader
        return
    batches = iter(loader)
    # one thread for what it computes: it shall not take cores from the network (the setting is each thread's own)
    with ThreadPoolExecutor(1, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        coming = pool.submit(next, batches, None)
        while (batch := coming.result()) is not None:
            coming = pool.submit(next, batches, None)
            yield batch
