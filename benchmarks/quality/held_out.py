"""Four fifths of the training patches to train on, one fifth to judge settings by; no mask and no test image."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from benchmarks.quality.workshop import Workshop, _thinned
from patch2tissue.config import RunConfig
from patch2tissue.data.canvas import canvas_size
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.evaluation.folders import group_names
from patch2tissue.training_data import prepare_data, training_patches

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
        unmasked = [_without_mask(patch) for patch in _thinned(training_patches(config), limit)]
        self.patches, self.held_out = split(unmasked, config.seed % FOLDS)
        self.images = []
        self.side = canvas_size(self.patches, config.data.patch_size)
        self.spent = {}


def _without_mask(patch: Patch) -> Patch:
    return Patch(patch.path, patch.name, patch.labels, patient=patch.patient, slide=patch.slide)


def split(patches: Sequence[Patch], fold: int) -> tuple[list[Patch], list[Patch]]:
    """Patches to train on, and those of one of `FOLDS` folds.

    Patches of one patient, slide or image stay together, if there are as many of these as folds. Folds are balanced in
    patches and in labels of every tissue, as far as that goes.

    Raises:
        DataError: if nothing is held out, or more than half of the patches with one of the tissues, which would be
            another task than that of the table.
    """
    _, names = group_names([patch.name for patch in patches])
    if len(set(names)) < FOLDS:  # next to nothing, as with --quick
        names = [patch.name for patch in patches]
    order = [str(name) for name in np.random.default_rng(0).permutation(sorted(set(names)))]
    labels = np.array([(*(patch.labels or ()), 1) for patch in patches], dtype=np.float64)
    place = {name: number for number, name in enumerate(order)}
    amounts = np.zeros((len(order), labels.shape[1]))
    np.add.at(amounts, [place[name] for name in names], labels / np.maximum(1, labels.sum(axis=0)))
    filled = np.zeros((FOLDS, labels.shape[1]))
    fold_of = {}
    # the largest first, each into the fold that has least of what it brings: keeps the sum of squares of shares small
    for number in np.argsort(-np.square(amounts).sum(axis=1), kind="stable"):
        fold_of[order[number]] = best = int(np.argmin(filled @ amounts[number]))
        filled[best] += amounts[number]
    kept, out = ([p for p, name in zip(patches, names, strict=True) if (fold_of[name] == fold) == o] for o in (0, 1))
    # a tissue that the held-out part lacks is left out of its criteria
    if not out or (np.sum([patch.labels or () for patch in kept], axis=0) < labels.sum(axis=0)[:-1] / 2).any():
        raise DataError(
            f"Fold {fold} of {len(patches)} training patches from {len(order)} patients, slides or images holds out "
            "nothing, or more than half of the patches with one of the tissues. Use other tuning seeds."
        )
    return kept, out
