"""Scoring a folder of predicted masks against a folder of true ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patch2tissue.data.images import read_mask
from patch2tissue.data.labels import patient_of, slide_of
from patch2tissue.data.layouts import image_files
from patch2tissue.errors import DataError
from patch2tissue.evaluation.boundaries import BoundaryCounts
from patch2tissue.evaluation.intervals import bootstrap_miou
from patch2tissue.evaluation.scores import ConfusionMatrix, named
from patch2tissue.tissues import TissueSet

Progress = Callable[[int, int], None]


class Pair(NamedTuple):
    """One image to score: its name, predicted and true mask, and the patient or slide it belongs to."""

    name: str
    prediction: Path
    truth: Path
    group: str


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions, as fractions.

    Attributes:
        values: the machine-readable scores: `miou`, `fwiou`, `acc`, `dice`, `boundary_f_2px`, `boundary_f_5px`, `iou`
            per tissue, `ci95` of MIoU. None where a score is not defined.
        confusion: [K, K + 1] pixels, see `ConfusionMatrix`.
        images: number of images.
        groups: number of patients, slides or images that the interval is drawn over.
        grouped_by: `patient`, `slide` or `image`.
        per_image: name and MIoU of every image.
    """

    values: dict[str, Any]
    confusion: np.ndarray
    images: int
    groups: int
    grouped_by: str
    per_image: list[dict[str, Any]] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """The machine-readable scores."""
        return dict(self.values)

    def detail(self) -> dict[str, Any]:
        """Confusion, per-image scores and label noise, for the report."""
        return {
            "confusion": self.confusion.tolist(),
            "images": self.images,
            "groups": self.groups,
            "grouped_by": self.grouped_by,
            "wrong_share": wrong_share(self.confusion),
            "per_image": self.per_image,
        }


def wrong_share(confusion: np.ndarray) -> float | None:
    """Share of scored pixels with a wrong label: the noise of pseudo labels."""
    total = int(confusion.sum())
    return None if total == 0 else 1.0 - float(np.trace(confusion[:, : len(confusion)])) / total


def group_names(names: Sequence[str]) -> tuple[str, list[str]]:
    """What to draw the bootstrap over: patients if every name tells its patient, else slides, else images."""
    for kind, reader in (("patient", patient_of), ("slide", slide_of)):
        groups = [reader(name) for name in names]
        if all(group is not None for group in groups):
            return kind, [str(group) for group in groups]
    return "image", list(names)


def pair_folders(predictions: Path, masks: Path) -> list[Pair]:
    """Match `NAME_mask.png` or `NAME.*` in `predictions` with `NAME.*` in `masks`.

    Raises:
        DataError: if a folder has no images, or a mask has no prediction.
    """
    truths = image_files(Path(masks))
    found = {path.stem: path for path in image_files(Path(predictions))}
    if not truths:
        raise DataError(f"{masks}: holds no masks.")
    if not found:
        raise DataError(f"{predictions}: holds no predicted masks.")
    chosen = {truth.stem: found.get(f"{truth.stem}_mask", found.get(truth.stem)) for truth in truths}
    missing = [name for name, path in chosen.items() if path is None]
    if missing:
        raise DataError(
            f"{predictions}: {len(missing)} of {len(truths)} masks have no prediction, for example "
            f"{', '.join(missing[:3])} (looked for NAME_mask.png and NAME.png)."
        )
    _, groups = group_names([truth.stem for truth in truths])
    return [
        Pair(truth.stem, path, truth, group)
        for truth, group in zip(truths, groups, strict=True)
        if (path := chosen[truth.stem]) is not None
    ]


def evaluate_folders(predictions: Path, masks: Path, tissues: TissueSet, *, progress: Progress | None = None) -> Scores:
    """Score predicted masks against true ones of the same names.

    Raises:
        DataError: if files are missing, unreadable or of different sizes.
    """
    return evaluate_pairs(pair_folders(predictions, masks), tissues, progress=progress)


def evaluate_pairs(pairs: Sequence[Pair], tissues: TissueSet, *, progress: Progress | None = None) -> Scores:
    """Score pairs of masks; see `evaluate_folders`."""
    count = len(tissues)
    grouped_by, _ = group_names([pair.name for pair in pairs])
    groups: dict[str, ConfusionMatrix] = {}
    boundaries = BoundaryCounts(count)
    per_image = []
    with ThreadPoolExecutor() as pool:
        for done, (pair, (confusion, edges)) in enumerate(
            zip(pairs, pool.map(lambda pair: _score_pair(pair, tissues), pairs), strict=True), start=1
        ):
            groups.setdefault(pair.group, ConfusionMatrix(count)).counts += confusion.counts
            boundaries.merge(edges)
            miou = float(confusion.scores()["miou"])
            per_image.append({"name": pair.name, "miou": None if math.isnan(miou) else miou})
            if progress is not None:
                progress(done, len(pairs))
    per_group = np.stack([matrix.counts for matrix in groups.values()])
    total = ConfusionMatrix(count, per_group.sum(axis=0))
    scores = total.scores()
    values: dict[str, Any] = {key: _number(scores[key]) for key in ("miou", "fwiou", "acc", "dice")}
    values |= {key: _number(value) for key, value in boundaries.scores().items()}
    values["iou"] = named(scores["iou"], tissues)
    interval = [_number(value) for value in bootstrap_miou(per_group)]
    values["ci95"] = None if None in interval else interval
    return Scores(values, total.counts, len(pairs), len(groups), grouped_by, per_image)


def _number(value: Any) -> float | None:
    return None if math.isnan(float(value)) else float(value)


def _score_pair(pair: Pair, tissues: TissueSet) -> tuple[ConfusionMatrix, BoundaryCounts]:
    prediction, truth = read_mask(pair.prediction, tissues), read_mask(pair.truth, tissues)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{pair.prediction}: is {prediction.shape[1]}×{prediction.shape[0]} px, but {pair.truth} is "
            f"{truth.shape[1]}×{truth.shape[0]} px."
        )
    confusion, boundaries = ConfusionMatrix(len(tissues)), BoundaryCounts(len(tissues))
    confusion.update(prediction, truth)
    boundaries.update(prediction, truth)
    return confusion, boundaries
