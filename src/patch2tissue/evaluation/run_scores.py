"""Scoring a run: its pseudo labels on the masks of train, its networks on the masks of the test split."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.progress import Progress

from patch2tissue.atomic import write_text
from patch2tissue.config import RunConfig
from patch2tissue.data.layouts import load_images_and_masks, load_split
from patch2tissue.data.patches import Patch, shared_patients
from patch2tissue.errors import DataError
from patch2tissue.evaluation.folders import Pair, Scores, evaluate_pairs, group_names
from patch2tissue.evaluation.label_noise import pseudo_label_noise
from patch2tissue.evaluation.predictions import ensure_predictions, network_folder
from patch2tissue.inference.confidence import confidence_beside
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.progress import console
from patch2tissue.run_folder import ROUND_VARIANTS, RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.training import is_finished

log = logging.getLogger(__name__)

VARIANTS = ("cam", "grad_cam", "last_epoch", "accumulated", "refined", *ROUND_VARIANTS.values())
"""Pseudo labels that are scored, in the order of the method."""

FINAL = "final"
"""What the first round of stage 2 learns from, with ignored pixels: no variant, but the noise is in the detail."""

NETWORKS = ("full_method", "cross_entropy_only", "cam_pipeline", "full_supervision")
"""Networks that are scored on the test split."""

Compared = dict[str, tuple[list[Patch], list[Path]]]
"""By name: patches with masks, and what is compared with them."""


def test_patches(config: RunConfig, tissues: TissueSet) -> list[Patch]:
    """Images with masks to score on: `data.test_path`, else `test`, else `val` of the data folder; empty if none."""
    if config.data.test_path is not None:
        return [p for p in load_images_and_masks(Path(config.data.test_path), tissues) if p.mask is not None]
    for split in ("test", "val"):
        if (Path(config.data.path) / split).is_dir():
            patches = load_images_and_masks(Path(config.data.path) / split, tissues)
            masked = [patch for patch in patches if patch.mask is not None]
            if masked:
                return masked
    return []


def score_run(run: RunFolder, *, progress: bool = True) -> dict[str, Any]:
    """Compare everything a run made with masks, and write `scores.json` and `scores_detail.json`.

    Predictions on the test split are made if they are not there, or not of the network and the settings that the run
    has now. Parts that were not trained, or have no masks, are left out. `scores_detail.json` holds, by the same names,
    confusion, scores of every image and what the interval is drawn over, and the noise of the pseudo labels.

    Args:
        run: run folder.
        progress: show bars.

    Returns:
        What `scores.json` holds.

    Raises:
        DataError: if the folder is no run, or masks are unusable.
    """
    config = run.config()
    refuse_to_write_through_links(run.path)
    tissues = config.tissue_set()
    supervision = "image-level labels"
    if config.selection == "validation_masks":
        supervision += "; checkpoint chosen on validation masks"
    scores: dict[str, Any] = {"supervision": supervision}
    detail: dict[str, Any] = {}
    predicted = _predict(run, config, tissues, progress)
    with Progress(console=console, disable=not progress) as bars:
        labels = _score_all(_pseudo_labels(run, config, tissues), tissues, bars, "pseudo labels")
        if labels:
            detail["pseudo_label_noise"] = {n: pseudo_label_noise(s.confusion, tissues) for n, s in labels.items()}
        labels.pop(FINAL, None)
        for part, found in (("pseudo_labels", labels), ("test", _score_all(predicted, tissues, bars, "test"))):
            if found:
                scores[part] = {name: result.to_dict() for name, result in found.items()}
                detail[part] = {name: result.detail() for name, result in found.items()}
    notes = []
    if "full_supervision" in scores.get("test", {}):
        notes.append("full_supervision was trained on the masks of train, as a ceiling")
    if "pseudo_labels" not in scores and "test" not in scores:
        notes.append(f"there is nothing to score: {_why_nothing(run, config, tissues)}")
    notes += _notes_on_split(config, [patch for patches, _ in predicted.values() for patch in patches])
    notes += _notes_on_patients(config, tissues, [patch for patches, _ in predicted.values() for patch in patches])
    if notes:
        scores["notes"] = notes
    write_text(run.path / "scores_detail.json", json.dumps(detail))
    write_text(run.scores_file, json.dumps(scores, indent=2))
    return scores


def _pseudo_labels(run: RunFolder, config: RunConfig, tissues: TissueSet) -> Compared:
    """Pseudo labels and masks of train: every variant that is there, and the final labels for their noise."""
    if not (run.pseudo_labels / "manifest.csv").is_file():
        return {}
    patches = load_split(Path(config.data.path), "train", tissues, config.data.layout)
    masked = [patch for patch in patches if patch.mask is not None]
    folders = {variant: run.pseudo_labels / "variants" / variant for variant in VARIANTS}
    for number, name in ROUND_VARIANTS.items():
        folders[name] = run.round_labels(number) / "variants" / name
    folders[FINAL] = run.pseudo_labels / "masks"
    found = {}
    for name, folder in folders.items() if masked else ():
        files = [folder / f"{patch.name}.png" for patch in masked]
        there = sum(file.is_file() for file in files)
        if there == len(files):
            found[name] = (masked, files)
        elif there:
            log.warning("%s: holds %d of %d pseudo labels and is not scored", folder, there, len(files))
    return found


def _predict(run: RunFolder, config: RunConfig, tissues: TissueSet, progress: bool) -> Compared:
    """Predictions of every trained network on the test split."""
    patches = test_patches(config, tissues)
    networks = [name for name in NETWORKS if patches and is_finished(network_folder(run, name))]
    return {name: (patches, ensure_predictions(run, config, name, patches, progress=progress)) for name in networks}


def _notes_on_split(config: RunConfig, patches: Sequence[Patch]) -> list[str]:
    """Say so where val stands in for test, since val may have had a say in training."""
    val = (Path(config.data.path) / "val").resolve()
    if not any(val in patch.path.resolve().parents for patch in patches):
        return []
    chosen = ", whose masks also chose the checkpoint" if config.selection == "validation_masks" else ""
    return [f"the test scores are of val{chosen}: there is no test split with masks"]


def _notes_on_patients(config: RunConfig, tissues: TissueSet, patches: Sequence[Patch]) -> list[str]:
    """Say so where images that scores come from are of patients, or slides, that the run was trained on."""
    if not patches:
        return []
    try:
        train = load_split(Path(config.data.path), "train", tissues, config.data.layout)
    except DataError:
        return []  # the data are gone; there is nothing to compare with
    shared = shared_patients(train, patches)
    if not shared:
        return []
    example = next(iter(shared))
    return [f"the test scores flatter: {len(shared)} of the test images' patients or slides ({example}) are in train"]


def _why_nothing(run: RunFolder, config: RunConfig, tissues: TissueSet) -> str:
    if test_patches(config, tissues):
        return f"no network of {run.path} is trained yet"
    return f"{config.data.path} holds no masks"


def _score_all(compared: Compared, tissues: TissueSet, bars: Progress, part: str) -> dict[str, Scores]:
    return {
        name: _score(patches, files, tissues, bars, f"{part}: {name.replace('_', ' ')}")
        for name, (patches, files) in compared.items()
    }


def _score(patches: Sequence[Patch], files: Sequence[Path], tissues: TissueSet, bars: Progress, title: str) -> Scores:
    grouped_by, groups = group_names([patch.name for patch in patches])
    pairs = [
        Pair(patch.name, file, patch.mask, group, confidence_beside(file))
        for patch, file, group in zip(patches, files, groups, strict=True)
        if patch.mask is not None
    ]
    task = bars.add_task(title, total=len(pairs))
    return evaluate_pairs(
        pairs, tissues, grouped_by=grouped_by, progress=lambda done, total: bars.update(task, completed=done)
    )
