"""The patches that a run learns from: made from their source, read, and looked at for what would spoil the training."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from patch2tissue.config import RegionSource, RunConfig, SyntheticSource
from patch2tissue.data.canvas import Longest
from patch2tissue.data.fingerprint import Content
from patch2tissue.data.layouts import load_images_and_masks, load_split
from patch2tissue.data.patches import Patch, shared_patients
from patch2tissue.data.readable import refuse_unreadable
from patch2tissue.data.regions import cut_regions
from patch2tissue.errors import DataError
from patch2tissue.progress import console, counted
from patch2tissue.tissues import TissueSet

log = logging.getLogger(__name__)


def prepare_data(config: RunConfig) -> None:
    """Make the data folder from its source if it does not exist yet."""
    source, target = config.data.source, Path(config.data.path)
    filled = target.is_dir() and any(target.iterdir())
    if source is None or (filled and isinstance(source, RegionSource)):
        return
    if isinstance(source, SyntheticSource):
        from patch2tissue.data.synthetic import make_synthetic

        if not filled:
            console.print(f"making {source.train + source.val + source.test} synthetic patches in {target}")
        # a folder that is there is accepted only if it was made with the same settings
        with counted("drawing patches") as show:
            make_synthetic(
                target,
                train=source.train,
                val=source.val,
                test=source.test,
                size=source.size,
                difficulty=source.difficulty,
                seed=source.seed,
                progress=show,
            )
    elif isinstance(source, RegionSource):
        console.print(f"cutting labelled patches from {source.path} into {target}")
        cut_regions(
            Path(source.path),
            target,
            config.tissue_set(),
            size=source.size,
            stride=source.stride,
            least_share=source.least_share,
        )


def training_patches(config: RunConfig) -> list[Patch]:
    """Labelled training patches in the order used everywhere in a run.

    Raises:
        DataError: if there is none, or a tissue never occurs or occurs in every patch.
    """
    tissues = config.tissue_set()
    patches = load_split(Path(config.data.path), "train", tissues, config.data.layout)
    if not patches:
        raise DataError(f"{Path(config.data.path) / 'train'}: holds no patches to train on.")
    labels = np.array([patch.labels for patch in patches])
    counts = labels.sum(axis=0)
    if len(patches) > 1 and (labels == labels[0]).all():
        raise DataError(
            f"{config.data.path}: all {len(patches)} training patches have the same label "
            f"({_label_words(tissues, labels[0])}), so that nothing tells the tissues apart. Label patches that differ."
        )
    for tissue, count in zip(tissues.names, counts, strict=True):
        if count == 0:
            raise DataError(
                f"{config.data.path}: no training patch is labelled '{tissue}', so it cannot be learned. Add such "
                "patches, or use a tissue set without it."
            )
        if count == len(patches):
            log.warning(
                "every training patch is labelled '%s': the classifier cannot learn where it is from labels that never "
                "differ",
                tissue,
            )
    return patches


def _label_words(tissues: TissueSet, label: Sequence[int]) -> str:
    return " + ".join(name for name, there in zip(tissues.names, label, strict=True) if there) or "no tissue"


def patients_in_both(config: RunConfig, patches: Sequence[Patch]) -> list[str]:
    """Warnings of patients (or slides) of train that are also among the images that scores or checkpoints come from."""
    root, tissues = Path(config.data.path), config.tissue_set()
    warnings = []
    for split in ("val", "test"):
        folder = root / split
        if split == "test" and config.data.test_path is not None:
            folder = Path(config.data.test_path)
        if not folder.is_dir():
            continue
        try:
            shared = shared_patients(patches, load_images_and_masks(folder, tissues))
        except DataError:
            continue  # scoring will say what is wrong with it
        if shared:
            what = "chooses the checkpoint and " if split == "val" and config.selection == "validation_masks" else ""
            warnings.append(
                f"{folder}: shares {len(shared)} with train, for example {next(iter(shared))}. It {what}gives scores "
                "that flatter; keep each patient in one split (`patch2tissue check` lists them)."
            )
    return warnings


def refuse_bad_pictures(
    config: RunConfig,
    patches: Sequence[Patch],
    stages: Sequence[str],
    contents: dict[str, Content] | None = None,
    *,
    progress: bool = True,
) -> Longest:
    """Read whatever training will read, before hours are spent on it; returns the longest side of the patches.

    Args:
        config: the run.
        patches: its training patches.
        stages: which of `craanet`, `pseudo`, `pfscnet` will run.
        contents: gets to know the files that were read, see `refuse_unreadable`.
        progress: show a bar.

    Raises:
        DataError: if something cannot be read.
    """
    tissues, folder = config.tissue_set(), Path(config.data.path)
    supervised = config.comparisons.full_supervision and "pfscnet" in stages
    if supervised:
        unmasked = [patch.name for patch in patches if patch.mask is None]
        if unmasked:
            raise DataError(
                f"{config.data.path}: comparisons.full_supervision needs a mask for every training patch; "
                f"{len(unmasked)} have none, first {unmasked[0]}. Add them, or set it to false."
            )
    longest = refuse_unreadable(patches, tissues, folder, masks=supervised, contents=contents, progress=progress)
    if config.selection == "validation_masks" and "pfscnet" in stages:
        refuse_unreadable(validation_patches(config), tissues, folder, masks=True, contents=contents)
    return longest


def validation_patches(config: RunConfig) -> list[Patch]:
    """Patches of val with masks, which `selection: validation_masks` asks for; DataError if there are none."""
    patches = load_split(Path(config.data.path), "val", config.tissue_set(), config.data.layout)
    masked = [patch for patch in patches if patch.mask is not None]
    if not masked:
        raise DataError(
            f"{config.data.path}: selection is validation_masks, but val/mask holds no masks. Add some, or set it to "
            "last."
        )
    return masked
