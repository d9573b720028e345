"""Four fifths of the training patches to train on, one fifth to judge settings by; no mask and no test image."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from benchmarks.quality.workshop import Workshop, _thinned
from patch2tissue.config import RunConfig
from patch2tissue.data.datasets import canvas_size
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.evaluation.folders import group_names
from patch2tissue.pipeline import prepare_data, training_patches

FOLDS = 5
"""Folds; seed s holds out number s mod 5, so that five seeds in a row hold out every patch once."""


class TuningShop(Workshop):
    """A workshop that sees four fifths of the training patches, and no mask and no test image.

    Args:
        config: resolved recipe; `output` is the folder of artefacts.
        limit: use so many training patches in all, evenly drawn; None: all.
    """

    def __init__(self, config: RunConfig, limit: int | None = None) -> None:
        self.config, self.limit = config, limit
        self.tissues = config.tissue_set()
        prepare_data(config)
        unmasked = [replace(patch, mask=None) for patch in _thinned(training_patches(config), limit)]
        self.patches, self.held_out = split(unmasked, config.seed % FOLDS)
        self.images = []
        self.side = canvas_size(self.patches, config.data.patch_size)
        self.spent = {}


def split(patches: Sequence[Patch], fold: int) -> tuple[list[Patch], list[Patch]]:
    """Patches to train on, and those of one of `FOLDS` folds; patches of one patient, slide or image stay together.

    Raises:
        DataError: if one part is empty or lacks a tissue altogether.
    """
    _, names = group_names([patch.name for patch in patches])
    counts = Counter(names)
    order = [str(name) for name in np.random.default_rng(0).permutation(sorted(counts))]
    sizes = [0] * FOLDS
    fold_of = {}
    for name in sorted(order, key=lambda name: -counts[name]):  # the largest first, each into the emptiest fold
        fold_of[name] = sizes.index(min(sizes))
        sizes[fold_of[name]] += counts[name]
    parts = [[p for p, name in zip(patches, names, strict=True) if (fold_of[name] == fold) == out] for out in (0, 1)]
    for part in parts:
        if not part or not np.array([patch.labels for patch in part]).any(axis=0).all():
            raise DataError(
                f"Fold {fold} of {len(patches)} training patches from {len(order)} patients, slides or images leaves a "
                "part without one of the tissues. Use more patches, or another tuning seed."
            )
    return parts[0], parts[1]
