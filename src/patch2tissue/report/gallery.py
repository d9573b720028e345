"""Rows of pictures: pseudo labels beside masks on train, predictions beside masks on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
from PIL import Image

from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.report.names import PREDICTIONS, PSEUDO_LABELS
from patch2tissue.report.pictures import (
    Picture,
    color_mask,
    describe_mask,
    error_map,
    heat,
    mean_iou,
    photo,
)
from patch2tissue.report.record import RunRecord, mapping, number
from patch2tissue.tissues import IGNORE_INDEX

SHOWN_TRAIN = 6
SHOWN_BEST, SHOWN_MIDDLE, SHOWN_WORST = 2, 2, 3


@dataclass(frozen=True)
class Row:
    """One patch: its name, the tissues of its label, one picture per column (None where there is none)."""

    name: str
    present: tuple[int, ...] | None
    pictures: list[Picture | None]


@dataclass(frozen=True)
class Group:
    """Rows under one heading."""

    title: str
    rows: list[Row]


@dataclass(frozen=True)
class Gallery:
    """A table of pictures; `columns` are its headings."""

    columns: list[str]
    groups: list[Group]
    scored: bool = False
    note: str = ""


def spread(items: Sequence[Patch], count: int) -> list[Patch]:
    """`count` items at even distances, so that nobody chose them for their looks."""
    if len(items) <= count:
        return list(items)
    return [items[round((i + 0.5) * len(items) / count - 0.5)] for i in range(count)]


def pseudo_label_gallery(record: RunRecord) -> Gallery | None:
    """Image, pseudo labels step by step, confidence and mask of a few training patches; None without pseudo labels."""
    folder = record.run.pseudo_labels
    candidates = [p for p in record.train.values() if (folder / "masks" / f"{p.name}.png").is_file()]
    if not candidates:
        return None
    mixed = [patch for patch in candidates if sum(patch.labels or ()) > 1] or candidates
    chosen = spread(mixed, SHOWN_TRAIN)
    variants = [key for key in PSEUDO_LABELS if (folder / "variants" / key).is_dir()]
    masked = any(patch.mask is not None for patch in chosen)
    columns = ["Image", *(PSEUDO_LABELS[key] for key in variants if key != "refined")]
    keys = [key for key in variants if key != "refined"]
    columns += ["Final, as trained on", "Confidence"] + (["Mask"] if masked else [])
    rows = []
    for patch in chosen:
        image, truth = read_image(patch.path), _mask_of(patch, record)
        files = [folder / "variants" / key / f"{patch.name}.png" for key in keys]
        pictures: list[Picture | None] = [photo(image, f"{patch.name}, image")]
        for column, file in zip(columns[1:], [*files, folder / "masks" / f"{patch.name}.png"], strict=False):
            pictures.append(_label_picture(file, f"{patch.name}, {column}", image, truth, record))
        pictures.append(_confidence(folder / "confidence" / f"{patch.name}.png", patch.name))
        if masked:
            pictures.append(None if truth is None else _truth_picture(patch.name, image, truth, record))
        rows.append(Row(patch.name, patch.labels, pictures))
    return Gallery(columns, [Group("", rows)], scored=masked)


def prediction_gallery(record: RunRecord) -> Gallery | None:
    """Predictions beside masks on test, best and worst by the full method; None without predictions or test images."""
    run = record.run
    methods = [key for key in PREDICTIONS if run.predictions(key).is_dir()]
    main = "full_method" if "full_method" in methods else (methods[0] if methods else None)
    if main is None:
        return None
    predicted = [p for p in record.test.values() if _prediction(run.predictions(main), p.name).is_file()]
    if not predicted:
        return None
    scores = {key: per_image_scores(record, key) for key in methods}
    ranked = sorted(
        (patch for patch in predicted if patch.name in scores[main]), key=lambda patch: -scores[main][patch.name]
    )
    masked = any(patch.mask is not None for patch in predicted)
    columns = ["Image", *(PREDICTIONS[key] for key in methods)] + (["Mask", "Wrong pixels"] if masked else [])

    def row(patch: Patch) -> Row:
        image, truth = read_image(patch.path), _mask_of(patch, record)
        pictures: list[Picture | None] = [photo(image, f"{patch.name}, image")]
        for key in methods:
            file = _prediction(run.predictions(key), patch.name)
            scored = {"value": scores[key].get(patch.name)} if scores[key] else {}
            pictures.append(_label_picture(file, f"{patch.name}, {PREDICTIONS[key]}", image, truth, record, **scored))
        if truth is None:
            return Row(patch.name, patch.labels, pictures + [None, None] * masked)
        predicted = read_mask(_prediction(run.predictions(main), patch.name), record.tissues)
        pictures.append(_truth_picture(patch.name, image, truth, record))
        pictures.append(_error_picture(patch.name, image, predicted, truth))
        return Row(patch.name, _tissues_in(truth, record), pictures)

    groups = [Group(title, [row(p) for p in patches]) for title, patches in _picked(ranked, predicted, record)]
    return Gallery(columns, groups, scored=masked, note=PREDICTIONS[main])


def _picked(ranked: list[Patch], predicted: list[Patch], record: RunRecord) -> list[tuple[str, list[Patch]]]:
    """Headings and images: best and middle of those with several tissues, one alone being easy, and worst of all."""
    total = SHOWN_BEST + SHOWN_MIDDLE + SHOWN_WORST
    if not ranked:
        return [("", spread(predicted, total))]
    if len(ranked) <= total:
        return [("All, from best to worst", ranked)]
    worst, others = ranked[-SHOWN_WORST:], ranked[:-SHOWN_WORST]
    mixed = (patch for patch in others if sum(_tissues_in(_mask_of(patch, record), record)) > 1)
    best = list(islice(mixed, SHOWN_BEST))
    middle = (patch for patch in others[len(others) // 2 :] if patch not in best)
    middle = (patch for patch in middle if sum(_tissues_in(_mask_of(patch, record), record)) > 1)
    groups = [
        ("Best of those with more than one tissue", best or others[:SHOWN_BEST]),
        ("In the middle", list(islice(middle, SHOWN_MIDDLE))),
        ("Worst", worst),
    ]
    return [group for group in groups if group[1]]


def _tissues_in(mask: np.ndarray | None, record: RunRecord) -> tuple[int, ...]:
    """1 for each tissue that the mask holds."""
    found = set() if mask is None else set(np.unique(mask).tolist())
    return tuple(int(k in found) for k in range(len(record.tissues)))


def per_image_scores(record: RunRecord, method: str) -> dict[str, float]:
    """MIoU of every test image by name, from `scores_detail.json`."""
    rows = mapping(mapping(record.detail.get("test")).get(method)).get("per_image")
    scores: dict[str, float] = {}
    for row in rows if isinstance(rows, list) else []:
        value = number(mapping(row).get("miou"))
        if value is not None:
            scores[str(mapping(row).get("name"))] = value
    return scores


def _prediction(folder: Path, name: str) -> Path:
    return folder / f"{name}_mask.png"


def _mask_of(patch: Patch, record: RunRecord) -> np.ndarray | None:
    return None if patch.mask is None else read_mask(patch.mask, record.tissues)


def _label_picture(
    file: Path, what: str, image: np.ndarray, truth: np.ndarray | None, record: RunRecord, **scored: float | None
) -> Picture | None:
    """A label map with its MIoU under it: `value` if it is given, even as None, else computed here."""
    if not file.is_file():
        return None
    labels = read_mask(file, record.tissues)
    value = scored.get("value")
    if "value" not in scored and truth is not None and truth.shape == labels.shape:
        value = mean_iou(labels, truth, len(record.tissues))
    alt = f"{what}: {describe_mask(labels, record.tissues)}"
    return photo(color_mask(labels, record.tissues, image), alt, None if value is None else f"{value:.2f}")


def _truth_picture(name: str, image: np.ndarray, truth: np.ndarray, record: RunRecord) -> Picture:
    alt = f"{name}, mask: {describe_mask(truth, record.tissues)}"
    return photo(color_mask(truth, record.tissues, image), alt)


def _error_picture(name: str, image: np.ndarray, predicted: np.ndarray, truth: np.ndarray) -> Picture | None:
    if predicted.shape != truth.shape or image.shape[:2] != truth.shape:
        return None
    scored = truth != IGNORE_INDEX
    share = float((predicted[scored] != truth[scored]).mean()) if scored.any() else 0.0
    text = f"{100 * share:.0f}% wrong"
    return photo(error_map(image, predicted, truth), f"{name}, wrong pixels marked: {text}", text)


def _confidence(file: Path, name: str) -> Picture | None:
    if not file.is_file():
        return None
    try:
        with Image.open(file) as opened:
            values = np.asarray(opened.convert("L"), dtype=np.float32) / 255.0
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: cannot be read as an image ({error}). Make the pseudo labels again.") from None
    return photo(heat(values), f"{name}, confidence, mean {values.mean():.2f}", f"mean {values.mean():.2f}")
