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
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.evaluation.folders import Pair, Scores, evaluate_pairs, group_names
from patch2tissue.inference.predict import predict_images
from patch2tissue.progress import console
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.training import is_finished

log = logging.getLogger(__name__)

VARIANTS = ("cam", "last_epoch", "accumulated", "refined")
"""Pseudo labels that are scored, in the order of the method."""

NETWORKS = ("full_method", "cross_entropy_only", "cam_pipeline", "full_supervision")
"""Networks that are scored on the test split."""


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


def network_folder(run: RunFolder, name: str) -> Path:
    """Folder of a stage-2 network by the name it has in `scores.json`."""
    return run.pfscnet if name == "full_method" else run.comparison(name)


def score_run(run: RunFolder, *, progress: bool = True) -> dict[str, Any]:
    """Compare everything a run made with masks, and write `scores.json` and `scores_detail.json`.

    Predictions on the test split are made if they are not there. Parts that were not trained, or have no masks, are
    left out.

    Returns:
        What `scores.json` holds.

    Raises:
        DataError: if the folder is no run, or masks are unusable.
    """
    config = run.config()
    tissues = config.tissue_set()
    supervision = "image-level labels"
    if config.selection == "validation_masks":
        supervision += "; checkpoint chosen on validation masks"
    scores: dict[str, Any] = {"supervision": supervision}
    detail: dict[str, Any] = {}
    with Progress(console=console, disable=not progress) as bars:
        for part, found in (
            ("pseudo_labels", _score_pseudo_labels(run, config, tissues, bars)),
            ("test", _score_networks(run, config, tissues, bars, progress)),
        ):
            if found:
                scores[part] = {name: result.to_dict() for name, result in found.items()}
                detail[part] = {name: result.detail() for name, result in found.items()}
    notes = []
    if "test" in scores and "full_supervision" in scores["test"]:
        notes.append("full_supervision was trained on the masks of train, as a ceiling")
    if "pseudo_labels" not in scores and "test" not in scores:
        notes.append("no masks were found, so there is nothing to score")
        log.warning("%s: no masks were found, so there is nothing to score", config.data.path)
    if notes:
        scores["notes"] = notes
    write_text(run.path / "scores_detail.json", json.dumps(detail))
    write_text(run.scores_file, json.dumps(scores, indent=2))
    return scores


def _score_pseudo_labels(run: RunFolder, config: RunConfig, tissues: TissueSet, bars: Progress) -> dict[str, Scores]:
    if not (run.pseudo_labels / "manifest.csv").is_file():
        return {}
    patches = load_split(Path(config.data.path), "train", tissues, config.data.layout)
    masked = [patch for patch in patches if patch.mask is not None]
    found = {}
    for variant in VARIANTS if masked else ():
        folder = run.pseudo_labels / "variants" / variant
        files = [folder / f"{patch.name}.png" for patch in masked]
        if all(file.is_file() for file in files):
            found[variant] = _score(masked, files, tissues, bars, f"pseudo labels: {variant}")
    return found


def _score_networks(
    run: RunFolder, config: RunConfig, tissues: TissueSet, bars: Progress, progress: bool
) -> dict[str, Scores]:
    patches = test_patches(config, tissues)
    found = {}
    for name in NETWORKS if patches else ():
        if not is_finished(network_folder(run, name)):
            continue
        out = run.predictions(name)
        files = [out / f"{patch.name}_mask.png" for patch in patches]
        missing = [patch.path for patch, file in zip(patches, files, strict=True) if not file.is_file()]
        if missing:
            results = predict_images(
                run.path, missing, out, network=name, progress=False, overlay=name == "full_method"
            )
            failed = [result for result in results if getattr(result, "error", None)]
            if failed:
                raise DataError(f"{failed[0].image}: {failed[0].error}")
        found[name] = _score(patches, files, tissues, bars, f"test: {name}")
    return found


def _score(patches: Sequence[Patch], files: Sequence[Path], tissues: TissueSet, bars: Progress, title: str) -> Scores:
    _, groups = group_names([patch.name for patch in patches])
    pairs = [
        Pair(patch.name, file, patch.mask, group)
        for patch, file, group in zip(patches, files, groups, strict=True)
        if patch.mask is not None
    ]
    task = bars.add_task(title, total=len(pairs))
    return evaluate_pairs(pairs, tissues, progress=lambda done, total: bars.update(task, completed=done))
