"""Folders of results as `slide predict` leaves them, made without a network."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tests.slides.pictures import blobs, picture, write_tiled

from patch2tissue.slides.pyramid import write_classes_tiff, write_probability_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


def make_slide(folder: Path, name: str = "a", height: int = 600, width: int = 800) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return write_tiled(folder / f"{name}.tif", picture(height, width), (0.5, 0.5))


def make_results(
    folder: Path, slide: Path, height: int = 300, width: int = 400, seed: int = 0, *, probabilities: bool = False
) -> np.ndarray:
    """A map at half the slide's size, its areas and its state; returns the map."""
    classes = blobs(height, width, 4, seed=seed)
    classes[:20] = 255
    work = folder / "work" / slide.stem
    work.mkdir(parents=True)
    write_classes_tiff(folder / f"{slide.stem}_classes.tif", ArrayRows(classes), TISSUES, (1.0, 1.0), scale=(2.0, 2.0))
    tissues = {
        name: {"area_mm2": float((classes == k).sum()) / 1e6, "share": float((classes == k).mean())}
        for k, name in enumerate(TISSUES.names)
    }
    (folder / f"{slide.stem}_areas.json").write_text(json.dumps({"tissues": tissues}), encoding="utf-8")
    (work / "state.json").write_text(json.dumps({"result": {"slide": str(slide)}}), encoding="utf-8")
    if probabilities:
        rows = ArrayRows(make_probabilities(classes))
        write_probability_tiff(folder / f"{slide.stem}_probabilities.ome.tif", rows, TISSUES, (1.0, 1.0))
    return classes


def make_probabilities(classes: np.ndarray) -> np.ndarray:
    """Probabilities uint8 [H, W, K] in which the tissue of each pixel leads."""
    columns = np.linspace(120, 250, classes.shape[1]).astype(np.uint8)
    found = np.zeros((*classes.shape, len(TISSUES)), np.uint8)
    for k in range(len(TISSUES)):
        found[..., k] = np.where(classes == k, columns, (255 - columns) // 3)
    found[classes == 255] = 0
    return found
