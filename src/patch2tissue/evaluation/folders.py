"""Scoring a folder of predicted masks against a folder of true ones."""

from __future__ import annotations

import logging
import math
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from patch2tissue.data.images import read_mask
from patch2tissue.data.labels import patient_of, slide_of
from patch2tissue.data.layouts import image_files
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.evaluation.boundaries import BoundaryCounts
from patch2tissue.evaluation.calibration import CalibrationCounts
from patch2tissue.evaluation.intervals import bootstrap_miou
from patch2tissue.evaluation.scores import ConfusionMatrix, named
from patch2tissue.inference.confidence import confidence_beside, read_confidence
from patch2tissue.tissues import TissueSet

log = logging.getLogger(__name__)

Progress = Callable[[int, int], None]
"""Called with how many images are scored, of how many."""

GROUPINGS = ("auto", "patient", "slide", "image")
"""What the bootstrap can be drawn over; auto: the first of the others that every name tells."""


class Pair(NamedTuple):
    """One image to score: its name, predicted and true mask, the patient or slide it belongs to, and the confidence."""

    name: str
    prediction: Path
    truth: Path
    group: str
    confidence: Path | None = None


@dataclass(frozen=True)
class Scores:
    """Scores of one set of predictions, as fractions.

    Attributes:
        values: the machine-readable scores: `miou`, `fwiou`, `acc`, `dice`, `boundary_f_2px`, `boundary_f_5px`, `iou`
            per tissue, `ci95` of MIoU; `ece`, the expected calibration error, where every prediction has a confidence
            picture. None where a score is not defined.
        confusion: [K, K + 1] pixels, see `ConfusionMatrix`.
        images: number of images.
        groups: number of patients, slides or images that the interval is drawn over.
        grouped_by: `patient`, `slide` or `image`.
        per_image: name and MIoU of every image.
        reliability: see `CalibrationCounts.bins`; None without confidence pictures.
    """

    values: dict[str, Any]
    confusion: np.ndarray
    images: int
    groups: int
    grouped_by: str
    per_image: list[dict[str, Any]] = field(default_factory=list)
    reliability: dict[str, list[float]] | None = None

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
            "reliability": self.reliability,
        }


def wrong_share(confusion: np.ndarray) -> float | None:
    """Share of scored pixels with a wrong label or none."""
    total = int(confusion.sum())
    return None if total == 0 else 1.0 - float(np.trace(confusion[:, : len(confusion)])) / total


def group_names(names: Sequence[str], by: str = "auto") -> tuple[str, list[str]]:
    """What to draw the bootstrap over: patients if every name tells its patient, else slides, else images.

    Args:
        names: names of the images, without extension.
        by: one of `GROUPINGS`.

    Returns:
        `patient`, `slide` or `image`, and the group of every name.

    Raises:
        ConfigError: if `by` is none of them.
        DataError: if patients or slides were asked for and a name does not tell its own.
    """
    if by not in GROUPINGS:
        raise ConfigError(f"Cannot group images by '{by}'. Choose one of {', '.join(GROUPINGS)}.")
    for kind, reader in (("patient", patient_of), ("slide", slide_of)):
        if by not in ("auto", kind):
            continue
        groups = [reader(name) for name in names]
        unknown = [name for name, group in zip(names, groups, strict=True) if group is None]
        if not unknown:
            return kind, [str(group) for group in groups]
        if by == kind:
            raise DataError(
                f"{len(unknown)} of {len(names)} names do not tell their {kind}, for example {unknown[0]}. "
                "Group by image, or use names such as TCGA-A1-A0SK-DX1_x0_y0."
            )
    return "image", list(names)


def pair_folders(predictions: Path, masks: Path, group: str = "auto") -> list[Pair]:
    """Match `NAME_mask.png` or `NAME.*` in `predictions` with `NAME.*` in `masks`.

    Predictions without a mask are left out, with a warning. Confidence pictures beside the predictions are taken along.

    Raises:
        DataError: if a folder is missing or has no images, a mask has no prediction, or two files share a name.
    """
    truths, found = _files(masks, "masks"), _files(predictions, "predicted masks")
    chosen = {name: next((n for n in (f"{name}_mask", name) if n in found), None) for name in truths}
    missing = [name for name, match in chosen.items() if match is None]
    if missing:
        raise DataError(
            f"{predictions}: {len(missing)} of {len(truths)} masks have no prediction, for example "
            f"{', '.join(missing[:3])} (looked for NAME_mask.png and NAME.png)."
        )
    matched = {name: match for name, match in chosen.items() if match is not None}
    _warn_of_unused(Path(predictions), set(found) - set(matched.values()), matched)
    _, groups = group_names(list(matched), group)
    return [
        Pair(name, found[match], truths[name], which, confidence_beside(found[match]))
        for (name, match), which in zip(matched.items(), groups, strict=True)
    ]


def _files(folder: Path, what: str) -> dict[str, Path]:
    """Image files of a folder by name."""
    folder = Path(folder)
    if not folder.is_dir():
        raise DataError(f"{folder}: there is no such folder.")
    files: dict[str, Path] = {}
    for path in image_files(folder):
        if path.stem in files:
            raise DataError(f"{folder}: holds both {files[path.stem].name} and {path.name}. Remove one of them.")
        files[path.stem] = path
    if not files:
        raise DataError(f"{folder}: holds no {what}.")
    return files


def _warn_of_unused(folder: Path, unused: set[str], matched: dict[str, str]) -> None:
    """Say which predictions were not scored; pictures that lie beside the masks of `predict` are none."""
    suffixed = any(name != match for name, match in matched.items())
    left = sorted(name for name in unused if name.endswith("_mask") or not suffixed)
    left = [name for name in left if not name.endswith(("_overlay", "_confidence"))]
    if left:
        log.warning("%s: %d predictions have no mask and are not scored, for example %s", folder, len(left), left[0])


def evaluate_folders(
    predictions: Path, masks: Path, tissues: TissueSet, *, group: str = "auto", progress: Progress | None = None
) -> Scores:
    """Score predicted masks against true ones of the same names.

    Args:
        predictions: folder with `NAME_mask.png` or `NAME.png`.
        masks: folder with the true masks: palette, grey or coloured.
        tissues: tissue set of both.
        group: what the interval is drawn over: `patient`, `slide`, `image`, or `auto`, the first of them that the file
            names tell.
        progress: called after every image.

    Raises:
        DataError: if files are missing, unreadable or of different sizes.
    """
    pairs = pair_folders(Path(predictions), Path(masks), group)
    grouped_by, _ = group_names([pair.name for pair in pairs], group)
    return evaluate_pairs(pairs, tissues, grouped_by=grouped_by, progress=progress)


def evaluate_pairs(
    pairs: Sequence[Pair],
    tissues: TissueSet,
    *,
    grouped_by: str,
    progress: Progress | None = None,
    each: Callable[[Pair, ConfusionMatrix, BoundaryCounts], None] | None = None,
) -> Scores:
    """Score pairs of masks; see `evaluate_folders`.

    Args:
        pairs: predicted and true masks.
        tissues: tissue set of both.
        grouped_by: what `group` of the pairs is, in a word.
        progress: called after every image.
        each: called with the counts of every image, in order, for example to draw intervals of a difference.
    """
    if not pairs:
        raise DataError("There are no masks to score.")
    count = len(tissues)
    groups: dict[str, ConfusionMatrix] = {}
    boundaries = BoundaryCounts(count)
    calibration = CalibrationCounts()
    per_image = []
    counted = zip(pairs, _each_pair(pairs, tissues), strict=True)
    for done, (pair, (confusion, edges, sureness)) in enumerate(counted, start=1):
        groups.setdefault(pair.group, ConfusionMatrix(count)).counts += confusion.counts
        boundaries.merge(edges)
        calibration.merge(sureness)
        per_image.append({"name": pair.name, "miou": number_or_none(confusion.scores()["miou"])})
        if each is not None:
            each(pair, confusion, edges)
        if progress is not None:
            progress(done, len(pairs))
    scores = scores_of(groups, boundaries, tissues, len(pairs), grouped_by, per_image)
    if any(pair.confidence is None for pair in pairs):
        return scores
    return replace(scores, values=scores.values | {"ece": calibration.ece()}, reliability=calibration.bins())


def scores_of(
    groups: Mapping[str, ConfusionMatrix],
    boundaries: BoundaryCounts,
    tissues: TissueSet,
    images: int,
    grouped_by: str,
    per_image: list[dict[str, Any]],
) -> Scores:
    """Scores of counts.

    Args:
        groups: pixels of each patient, slide or image.
        boundaries: edges of all of them.
        tissues: the tissue set.
        images: number of images.
        grouped_by: what a group is, in a word.
        per_image: see `Scores`.
    """
    per_group = np.stack([matrix.counts for matrix in groups.values()])
    total = ConfusionMatrix(len(tissues), per_group.sum(axis=0))
    scores = total.scores()
    values: dict[str, Any] = {key: number_or_none(scores[key]) for key in ("miou", "fwiou", "acc", "dice")}
    values |= {key: number_or_none(value) for key, value in boundaries.scores().items()}
    values["iou"] = named(scores["iou"], tissues)
    interval = [number_or_none(value) for value in bootstrap_miou(per_group)]
    values["ci95"] = None if None in interval else interval
    return Scores(values, total.counts, images, len(groups), grouped_by, per_image)


_Counts = tuple[ConfusionMatrix, BoundaryCounts, CalibrationCounts]


def _each_pair(pairs: Sequence[Pair], tissues: TissueSet) -> Iterator[_Counts]:
    """Score pairs in threads, in order; the first error stops the rest."""
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        jobs = [pool.submit(_score_pair, pair, tissues) for pair in pairs]
        try:
            for job in jobs:
                yield job.result()
        finally:
            pool.shutdown(cancel_futures=True)


def number_or_none(value: Any) -> float | None:
    """A plain number, None for NaN."""
    return None if math.isnan(float(value)) else float(value)


def _score_pair(pair: Pair, tissues: TissueSet) -> _Counts:
    prediction, truth = read_mask(pair.prediction, tissues), read_mask(pair.truth, tissues)
    if prediction.shape != truth.shape:
        raise DataError(
            f"{pair.prediction}: is {prediction.shape[1]}×{prediction.shape[0]} px, but {pair.truth} is "
            f"{truth.shape[1]}×{truth.shape[0]} px."
        )
    confusion, boundaries, calibration = (
        ConfusionMatrix(len(tissues)),
        BoundaryCounts(len(tissues)),
        CalibrationCounts(),
    )
    confusion.update(prediction, truth)
    boundaries.update(prediction, truth)
    if pair.confidence is not None:
        calibration.update(prediction, truth, read_confidence(pair.confidence, truth.shape), len(tissues))
    return confusion, boundaries, calibration
