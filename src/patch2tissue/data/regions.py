"""Cutting large images with masks into labelled patches.

The mask of a training image is asked one thing per patch: which tissues it holds. Validation and test images stay
whole, since scores are taken on them.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import imagecodecs
import numpy as np

from patch2tissue.atomic import remove_abandoned, temporary_prefix
from patch2tissue.data.images import palette_image, read_image, read_mask
from patch2tissue.data.labels import format_name
from patch2tissue.data.layouts import SPLITS, image_files, image_folder
from patch2tissue.data.tables import TableWriter
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

Progress = Callable[[int, int], None]

_WHITE = 255
_PNG_LEVEL = 3


@dataclass(frozen=True)
class CutPatch:
    """One patch that was cut: name, source image, left upper corner in pixels, label, share of each tissue (0..1)."""

    name: str
    source: str
    x: int
    y: int
    labels: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class CutSummary:
    """What `cut_regions` did: the patches by name, and how many were left out because they hold no tissue."""

    patches: list[CutPatch]
    skipped: int


@dataclass(frozen=True)
class _Cutter:
    """What is the same for every image."""

    tissues: TissueSet
    size: int
    stride: int
    least_share: float

    def cut(self, image_path: Path, mask_path: Path, folder: Path) -> tuple[list[CutPatch], int]:
        """Cut one image; return its patches and how many windows held no tissue."""
        image, mask = _read_pair(image_path, mask_path, self.tissues)
        below, right = max(0, self.size - mask.shape[0]), max(0, self.size - mask.shape[1])
        if below or right:
            image = np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=_WHITE)
            mask = np.pad(mask, ((0, below), (0, right)), constant_values=IGNORE_INDEX)
        patches, skipped = [], 0
        for y in positions(mask.shape[0], self.size, self.stride):
            for x in positions(mask.shape[1], self.size, self.stride):
                window = (slice(y, y + self.size), slice(x, x + self.size))
                shares = tissue_shares(mask[window], len(self.tissues))
                labels = tuple(int(share > 0 and share >= self.least_share) for share in shares)
                if not any(labels):
                    skipped += 1
                    continue
                name = format_name(self._base(image_path.stem, x, y), labels)
                _write_pair(folder / f"{name}.png", image[window], folder / "mask", mask[window], self.tissues)
                patches.append(CutPatch(name, image_path.name, x, y, labels, shares))
        return patches, skipped

    def copy(self, image_path: Path, mask_path: Path, folder: Path) -> tuple[list[CutPatch], int]:
        """Write one image whole."""
        image, mask = _read_pair(image_path, mask_path, self.tissues)
        _write_pair(folder / "img" / f"{image_path.stem}.png", image, folder / "mask", mask, self.tissues)
        return [], 0

    def _base(self, stem: str, x: int, y: int) -> str:
        resolution = self.tissues.um_per_pixel
        return f"{stem}_x{x:06d}_y{y:06d}" + ("" if resolution is None else f"_mpp{resolution:g}")


def positions(length: int, size: int, stride: int) -> list[int]:
    """Offsets of windows along one side, in pixels; the last one is shifted inwards so that the border is covered.

    >>> positions(250, 112, 56)
    [0, 56, 112, 138]
    """
    if length <= size:
        return [0]
    return sorted({*range(0, length - size + 1, stride), length - size})


def tissue_shares(mask: np.ndarray, tissues: int) -> tuple[float, ...]:
    """Share of all pixels of a mask [H, W] uint8 that each of the tissues holds, 0..1."""
    counts = np.bincount(mask.ravel(), minlength=256)[:tissues]
    return tuple(float(count) / mask.size for count in counts)


def cut_regions(
    source: Path,
    out: Path,
    tissues: TissueSet,
    *,
    size: int,
    stride: int,
    least_share: float = 0.05,
    progress: Progress | None = None,
) -> CutSummary:
    """Cut a folder of large images with masks into a data set of labelled patches.

    Images smaller than `size` are padded at the right and bottom with white, which is not scored. What is written is
    lossless, whatever the source's format.

    Args:
        source: folder with `train/img` and `train/mask`, and optionally `val` and `test` of the same form.
        out: new folder; gets `train/NAME-[1 0].png` with `train/mask/`, whole `val|test/img` and `mask`, `patches.csv`
            and `patches.json`. It appears when everything is written.
        tissues: tissue set of the masks.
        size: side of a patch in pixels.
        stride: distance between patches in pixels.
        least_share: a tissue is present from this share of the patch's pixels on (0..1).
        progress: called with (images done, images in all).

    Raises:
        DataError: if images or masks are missing or unusable, or `out` is not empty.
        ConfigError: if size, stride or share make no sense.
    """
    source, out = Path(source), Path(out)
    if size < 1 or stride < 1 or not 0 <= least_share <= 1:
        raise ConfigError(f"size {size} and stride {stride} must be at least 1 px, least share {least_share} in 0..1.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out}: is there already and not empty. Choose a new folder, or remove this one.")
    pairs = {split: _pairs(source / split) for split in SPLITS if (source / split).is_dir()}
    if "train" not in pairs:
        raise DataError(f"{source}: has no train/ folder with img/ and mask/.")
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent, below=False)
    building = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), dir=out.parent))
    try:
        summary = _cut_all(pairs, building, _Cutter(tissues, size, stride, least_share), progress)
        if not summary.patches:
            raise DataError(f"{source / 'train'}: no patch holds {least_share:.0%} of any tissue; are these its masks?")
        _write_records(building, summary, tissues, {"size": size, "stride": stride, "least_share": least_share})
        umask = os.umask(0)
        os.umask(umask)
        building.chmod(0o777 & ~umask)
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return summary


def _cut_all(
    pairs: dict[str, list[tuple[Path, Path]]], folder: Path, cutter: _Cutter, progress: Progress | None
) -> CutSummary:
    """Cut or copy every image, in threads: decoding and encoding leave Python's lock alone."""
    for split in pairs:
        for part in ("mask",) if split == "train" else ("img", "mask"):
            (folder / split / part).mkdir(parents=True)
    pool = ThreadPoolExecutor(min(8, os.cpu_count() or 1))
    try:
        tasks = [
            pool.submit(cutter.cut if split == "train" else cutter.copy, image, mask, folder / split)
            for split, files in pairs.items()
            for image, mask in files
        ]
        patches, skipped = [], 0
        for done, task in enumerate(as_completed(tasks), start=1):
            found, empty = task.result()
            patches.extend(found)
            skipped += empty
            if progress is not None:
                progress(done, len(tasks))
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    return CutSummary(sorted(patches, key=lambda patch: patch.name), skipped)


def _pairs(split: Path) -> list[tuple[Path, Path]]:
    """Images of a split with their masks."""
    images, masks = _by_stem(image_folder(split)), _by_stem(split / "mask")
    if not images:
        raise DataError(f"{split}: holds no images, neither directly nor in img/.")
    lacking = next((path for stem, path in images.items() if stem not in masks), None)
    if lacking is not None:
        raise DataError(f"{lacking}: has no mask of the same name in {split / 'mask'}.")
    return [(path, masks[stem]) for stem, path in images.items()]


def _by_stem(folder: Path) -> dict[str, Path]:
    found: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in found:
            raise DataError(f"{path}: differs from {found[path.stem].name} only in its extension. Remove one of them.")
        found[path.stem] = path
    return found


def _read_pair(image_path: Path, mask_path: Path, tissues: TissueSet) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read_image(image_path), read_mask(mask_path, tissues)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{mask_path}: is {mask.shape[1]}×{mask.shape[0]} px, but its image is "
            f"{image.shape[1]}×{image.shape[0]} px."
        )
    return image, mask


def _write_pair(path: Path, image: np.ndarray, masks: Path, mask: np.ndarray, tissues: TissueSet) -> None:
    """Write image and mask as PNG; the folder as a whole is atomic, so the files need not be."""
    path.write_bytes(imagecodecs.png_encode(np.ascontiguousarray(image), level=_PNG_LEVEL))
    palette_image(mask, tissues).save(masks / path.name, format="PNG", compress_level=_PNG_LEVEL)


def _write_records(folder: Path, summary: CutSummary, tissues: TissueSet, settings: dict[str, float]) -> None:
    """Write patches.csv, one line per patch, and patches.json with the settings."""
    with (folder / "patches.csv").open("w", encoding="utf-8", newline="") as file:
        writer = TableWriter(file)
        shares = [f"{name} share" for name in tissues.names]
        writer.writerow(["name", "source", "x", "y", "size", *tissues.names, *shares])
        for patch in summary.patches:
            values = [f"{share:.4f}" for share in patch.shares]
            writer.writerow([patch.name, patch.source, patch.x, patch.y, settings["size"], *patch.labels, *values])
    record = {**settings, "tissues": tissues.to_dict(), "patches": len(summary.patches), "skipped": summary.skipped}
    (folder / "patches.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
