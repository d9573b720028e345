"""Tissues of patches: masks from files, attention of training, and what a run's network draws."""

from __future__ import annotations

from abc import abstractmethod
from functools import lru_cache
from pathlib import Path

import numpy as np

from patch2tissue.data.images import image_size, read_mask
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_arrays
from patch2tissue.report.pictures import resize_maps, strongest_tissue
from patch2tissue.tissues import TissueSet
from patch2tissue.viewer.layers import Box, TissueLayer
from patch2tissue.viewer.runs import ViewedRun

_KEPT = 3
"""Whole pictures that a layer keeps."""


class PatchLayer(TissueLayer):
    """Tissues of one patch, which fits into memory whole.

    Args:
        image: the patch, which gives the size.
        tissues: its tissue set.
        um_per_pixel: of the patch, None if it is not known.

    Raises:
        DataError: if the image cannot be read.
    """

    def __init__(self, image: Path, tissues: TissueSet, um_per_pixel: float | None = None) -> None:
        height, width = image_size(image)
        self.names, self.colours, self.size = tissues.names, tissues.colors, (width, height)
        self._tissues, self._um_per_pixel = tissues, um_per_pixel
        # an image of several tiles is asked for tile by tile
        self._whole = lru_cache(_KEPT)(self._of)

    def _of(self, tissue: int | None, epoch: int | None) -> np.ndarray:
        return self.whole_classes(epoch) if tissue is None else self.whole_probabilities(tissue, epoch)

    @abstractmethod
    def whole_classes(self, epoch: int | None) -> np.ndarray:
        """Tissue indices, uint8 [H, W]; larger than any index where there is none."""

    def whole_probabilities(self, tissue: int, epoch: int | None) -> np.ndarray:
        """Probabilities of a tissue, uint8 [H, W] in 1/255; of layers that have them."""
        raise IndexError(tissue)

    def classes(self, box: Box, epoch: int | None) -> np.ndarray:
        """See `TissueLayer.classes`."""
        return _cut(self._whole(None, epoch), box)

    def probabilities(self, box: Box, tissue: int, epoch: int | None) -> np.ndarray:
        """See `TissueLayer.probabilities`."""
        return _cut(self._whole(tissue, epoch), box)

    def shares(self, epoch: int | None) -> list[dict[str, float]]:
        """See `TissueLayer.shares`."""
        counts = np.bincount(self._whole(None, epoch).ravel(), minlength=256)[: len(self.names)]
        total = max(1, int(counts.sum()))
        found = [{"share": int(count) / total} for count in counts]
        if self._um_per_pixel is not None:
            for one, count in zip(found, counts, strict=True):
                one["area_mm2"] = int(count) * self._um_per_pixel**2 / 1e6
        return found


def _cut(whole: np.ndarray, box: Box) -> np.ndarray:
    left, top = box.left * box.factor, box.top * box.factor
    rows = slice(top, top + box.height * box.factor, box.factor)
    return whole[rows, left : left + box.width * box.factor : box.factor]


def _of_size(pixels: np.ndarray, size: tuple[int, int], path: Path) -> np.ndarray:
    """Refuse what has another size than the patch."""
    height, width = pixels.shape[-2:]
    if (width, height) != size:
        raise DataError(f"{path}: has {width} × {height} pixels, its image {size[0]} × {size[1]}. Make it again.")
    return pixels


class MaskLayer(PatchLayer):
    """A mask in a file, with probabilities where `predict --probabilities` wrote them beside it.

    Args:
        image: see `PatchLayer`; likewise tissues and um_per_pixel.
        tissues: see `PatchLayer`.
        um_per_pixel: see `PatchLayer`.
        path: the mask.
    """

    def __init__(self, image: Path, tissues: TissueSet, um_per_pixel: float | None, path: Path) -> None:
        super().__init__(image, tissues, um_per_pixel)
        self.path = path
        self._probabilities = path.with_name(f"{path.stem.removesuffix('_mask')}_probabilities.npz")
        self.has_heat = path.stem.endswith("_mask") and self._probabilities.is_file()

    def whole_classes(self, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_classes`.

        Raises:
            DataError: if the mask is unreadable or of another size than the image.
        """
        return _of_size(read_mask(self.path, self._tissues), self.size, self.path)

    def whole_probabilities(self, tissue: int, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_probabilities`; likewise for errors."""
        again = "Predict the image again."
        found = read_arrays(self._probabilities, ["probabilities"], again)["probabilities"]
        if found.ndim != 3 or found.dtype.kind != "f" or len(found) != len(self.names):
            raise DataError(f"{self._probabilities}: holds no probabilities of these tissues. {again}")
        return _of_size(_bytes(np.asarray(found[tissue], np.float32)), self.size, self._probabilities)


class NetworkLayer(PatchLayer):
    """What a run's network draws, when it is first looked at.

    Args:
        image: see `PatchLayer`; likewise um_per_pixel.
        run: the run.
        um_per_pixel: see `PatchLayer`.
    """

    has_heat = True

    def __init__(self, image: Path, run: ViewedRun, um_per_pixel: float | None) -> None:
        super().__init__(image, run.tissues, um_per_pixel)
        self._image, self._run = image, run

    def whole_classes(self, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_classes`."""
        return self._run.drawn(self._image).classes

    def whole_probabilities(self, tissue: int, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_probabilities`."""
        return np.asarray(self._run.drawn(self._image).probabilities[tissue])


class AttentionLayer(PatchLayer):
    """Attention of a training patch, epoch by epoch; as tissues, the one that attends most of those in its label.

    Args:
        image: see `PatchLayer`; likewise um_per_pixel.
        run: the run; it has attention maps of the patch.
        um_per_pixel: see `PatchLayer`.
        accumulated: the memory, else the map of the epoch itself.
    """

    has_heat = True

    def __init__(self, image: Path, run: ViewedRun, um_per_pixel: float | None, *, accumulated: bool) -> None:
        super().__init__(image, run.tissues, um_per_pixel)
        memory, current = run.attention(image)
        maps = memory if accumulated or current is None else current
        self._maps, self._side = maps, run.side
        self.epochs = len(maps) if current is not None else 0
        # tissues that are not in the label have no attention in any epoch
        self._present = [int(value) for value in maps.max(axis=(0, 2, 3)) > 0]

    def _enlarged(self, epoch: int | None) -> np.ndarray:
        maps = self._maps[-1 if epoch is None else epoch]
        return resize_maps(maps, self._side, (self.size[1], self.size[0]))

    def whole_classes(self, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_classes`; 255 before there was any attention."""
        maps = self._enlarged(epoch)
        if not maps.any():
            return np.full((self.size[1], self.size[0]), 255, np.uint8)
        return strongest_tissue(maps, self._present)[0]

    def whole_probabilities(self, tissue: int, epoch: int | None) -> np.ndarray:
        """See `PatchLayer.whole_probabilities`; here the attention."""
        return _bytes(self._enlarged(epoch)[tissue])


def _bytes(values: np.ndarray) -> np.ndarray:
    return np.asarray(np.rint(np.clip(values, 0.0, 1.0) * 255.0), np.uint8)
