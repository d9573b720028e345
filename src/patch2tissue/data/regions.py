"""Cutting large images with masks into labelled patches.

The mask of a training image is asked one thing per patch: which tissues it holds. Validation and test images stay
whole, since scores are taken on them.
"""

from __future__ import annotations

import csv
import io
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from patch2tissue.data.images import read_image, read_mask, write_mask
from patch2tissue.data.labels import format_label
from patch2tissue.data.layouts import image_files, image_folder, mask_files
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class CutPatch:
    """One patch that was cut: name, source image, left upper corner in pixels, label, share of each tissue."""

    name: str
    source: str
    x: int
    y: int
    labels: tuple[int, ...]
    shares: tuple[float, ...]


@dataclass(frozen=True)
class CutSummary:
    """What `cut_regions` did: the patches, and how many were left out because they hold no tissue."""

    patches: list[CutPatch]
    skipped: int


def positions(length: int, size: int, stride: int) -> list[int]:
    """Offsets of windows along one side, in pixels; the last one is shifted inwards so that the border is covered."""
    if length <= size:
        return [0]
    return sorted({*range(0, length - size + 1, stride), length - size})


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

    Args:
        source: folder with `train/img` and `train/mask`, and optionally `val` and `test` of the same form.
        out: new folder; gets `train/NAME-[1 0].png` with `train/mask/`, whole `val|test/img` and `mask`, `patches.csv`
            and `patches.json`. It appears when everything is written.
        tissues: tissue set of the masks.
        size: side of a patch in pixels; smaller images are padded with white, which is not scored.
        stride: distance between patches in pixels.
        least_share: a tissue is present from this share of the patch's pixels on.
        progress: called with (images done, images in all).

    Raises:
        DataError: if images or masks are missing or unusable, or `out` is not empty.
        ConfigError: if size, stride or share make no sense.
    """
    source, out = Path(source), Path(out)
    if size < 1 or stride < 1 or not 0 <= least_share <= 1:
        raise ConfigError(f"size {size} and stride {stride} must be at least 1 px, least share {least_share} in 0..1.")
    if out.exists() and any(out.iterdir()):
        raise DataError(f"{out}: is not empty. Choose a new folder, or remove this one.")
    pairs = {split: _pairs(source / split) for split in ("train", "val", "test") if (source / split).is_dir()}
    if "train" not in pairs:
        raise DataError(f"{source}: has no train/ folder with img/ and mask/.")
    total, done = sum(len(p) for p in pairs.values()), 0
    out.parent.mkdir(parents=True, exist_ok=True)
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    patches: list[CutPatch] = []
    skipped = 0
    try:
        with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
            cuts = [
                pool.submit(_cut, image, mask, building / "train", tissues, size, stride, least_share)
                for image, mask in pairs["train"]
            ]
            copies = [
                pool.submit(_copy_whole, image, mask, building / split, tissues)
                for split in ("val", "test")
                for image, mask in pairs.get(split, [])
            ]
            for cut in cuts:
                found, empty = cut.result()
                patches.extend(found)
                skipped += empty
                done += 1
                if progress is not None:
                    progress(done, total)
            for copy in copies:
                copy.result()
                done += 1
                if progress is not None:
                    progress(done, total)
        if not patches:
            raise DataError(f"{source / 'train'}: no patch holds {least_share:.0%} of any tissue; are these its masks?")
        _write_manifest(building, patches, tissues)
        settings = {"size": size, "stride": stride, "least_share": least_share, "tissues": tissues.to_dict()}
        (building / "patches.json").write_text(json.dumps({**settings, "skipped": skipped}, indent=2), encoding="utf-8")
        building.chmod(0o755)
        if out.exists():
            out.rmdir()
        building.rename(out)
    finally:
        shutil.rmtree(building, ignore_errors=True)
    return CutSummary(patches, skipped)


def _pairs(split: Path) -> list[tuple[Path, Path]]:
    """Images of a split with their masks."""
    images, masks = image_files(image_folder(split)), mask_files(split)
    if not images:
        raise DataError(f"{split}: holds no images.")
    for image in images:
        if image.stem not in masks:
            raise DataError(f"{image}: has no mask of the same name in {split / 'mask'}.")
    return [(image, masks[image.stem]) for image in images]


def _read_pair(image_path: Path, mask_path: Path, tissues: TissueSet) -> tuple[np.ndarray, np.ndarray]:
    image, mask = read_image(image_path), read_mask(mask_path, tissues)
    if image.shape[:2] != mask.shape:
        raise DataError(
            f"{mask_path}: is {mask.shape[1]}×{mask.shape[0]} px, but its image is "
            f"{image.shape[1]}×{image.shape[0]} px."
        )
    return image, mask


def _cut(
    image_path: Path, mask_path: Path, folder: Path, tissues: TissueSet, size: int, stride: int, least_share: float
) -> tuple[list[CutPatch], int]:
    image, mask = _read_pair(image_path, mask_path, tissues)
    below, right = max(0, size - mask.shape[0]), max(0, size - mask.shape[1])
    if below or right:
        image = np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=255)
        mask = np.pad(mask, ((0, below), (0, right)), constant_values=IGNORE_INDEX)
    folder.mkdir(parents=True, exist_ok=True)
    patches, skipped = [], 0
    for y in positions(mask.shape[0], size, stride):
        for x in positions(mask.shape[1], size, stride):
            window = (slice(y, y + size), slice(x, x + size))
            counts = np.bincount(mask[window].ravel(), minlength=256)[: len(tissues)]
            shares = counts / float(size * size)
            labels = tuple(int(share > 0 and share >= least_share) for share in shares)
            if not any(labels):
                skipped += 1
                continue
            name = f"{image_path.stem}_x{x:05d}_y{y:05d}-{format_label(labels, 'luad-histoseg')}"
            Image.fromarray(image[window]).save(folder / f"{name}.png", compress_level=3)
            write_mask(folder / "mask" / f"{name}.png", mask[window], tissues)
            patches.append(CutPatch(name, image_path.name, x, y, labels, tuple(float(s) for s in shares)))
    return patches, skipped


def _copy_whole(image_path: Path, mask_path: Path, folder: Path, tissues: TissueSet) -> None:
    image, mask = _read_pair(image_path, mask_path, tissues)
    (folder / "img").mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(folder / "img" / f"{image_path.stem}.png", compress_level=3)
    write_mask(folder / "mask" / f"{image_path.stem}.png", mask, tissues)


def _write_manifest(folder: Path, patches: list[CutPatch], tissues: TissueSet) -> None:
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    shares = [f"{name} share" for name in tissues.names]
    writer.writerow(["name", "source", "x", "y", *tissues.names, *shares])
    for patch in patches:
        row = [f"{share:.4f}" for share in patch.shares]
        writer.writerow([patch.name, patch.source, patch.x, patch.y, *patch.labels, *row])
    (folder / "patches.csv").write_text(buffer.getvalue(), encoding="utf-8")
