"""Pseudo labels of a run whose first stage is trained, and those of the maps that they are compared with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch

from patch2tissue.config import RunConfig
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.network import CRAANet, load_craanet
from patch2tissue.data.patches import Patch
from patch2tissue.distributed.group import of_first
from patch2tissue.errors import DataError
from patch2tissue.pseudo_labels.baselines import generate_cam_labels
from patch2tissue.pseudo_labels.generate import generate_pseudo_labels
from patch2tissue.run_folder import RunFolder, is_finished
from patch2tissue.tissues import TissueSet
from patch2tissue.weights import refuse_other_tissues


def make_pseudo_labels(config: RunConfig, run: RunFolder, patches: Sequence[Patch], side: int) -> None:
    """Write pseudo labels from the trained stage 1, and those of plain CAM if it was asked for.

    Processes that train together share the patches.
    """
    if not of_first(lambda: is_finished(run.craanet)):
        raise DataError(f"{run.craanet}: stage craanet is not trained yet. Run `patch2tissue train` without --stage.")
    tissues = config.tissue_set()
    if not of_first((run.pseudo_labels / "manifest.csv").is_file):
        torch.manual_seed(config.seed)
        generate_pseudo_labels(
            patches,
            tissues,
            _trained_craanet(run.craanet, tissues),
            AttentionMemory(run.craanet / "attention_memory"),
            run.pseudo_labels,
            side=side,
            config=config.pseudo_labels,
            form=config.craanet.accumulation.form,
            hardware=config.hardware,
        )
    if config.comparisons.cam and of_first(lambda: is_finished(run.cam)):
        generate_cam_labels(
            patches,
            tissues,
            _trained_craanet(run.cam, tissues),
            run.pseudo_labels,
            side=side,
            hardware=config.hardware,
        )
    if config.comparisons.grad_cam:
        generate_cam_labels(
            patches,
            tissues,
            _trained_craanet(run.craanet, tissues),
            run.pseudo_labels,
            side=side,
            hardware=config.hardware,
            method="grad_cam",
        )


def _trained_craanet(folder: Path, tissues: TissueSet) -> CRAANet:
    network = load_craanet(folder)
    refuse_other_tissues(network, tissues, folder)
    return network
