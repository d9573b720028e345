"""Tables of the page: scores, confusion matrices, labels, areas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patch2tissue.report.names import LOWER_IS_BETTER, PARTS, SCORES
from patch2tissue.report.record import RunRecord, interval, mapping, number, read_csv


@dataclass(frozen=True)
class ScoreLine:
    """One method in a table: cells are (text, whether it is the best of the weakly supervised ones)."""

    label: str
    note: str
    cells: list[tuple[str, bool]]
    ceiling: bool = False


@dataclass(frozen=True)
class ScoreTable:
    """Table of scores of one part."""

    title: str
    columns: list[str]
    lines: list[ScoreLine]


def _table(
    record: RunRecord, part: str, title: str, columns: Mapping[str, str], *, by_tissue: bool
) -> ScoreTable | None:
    _, _, names, notes = next(item for item in PARTS if item[0] == part)
    entries = {key: mapping(mapping(record.scores.get(part)).get(key)) for key in names}
    entries = {key: entry for key, entry in entries.items() if entry}
    if not entries:
        return None
    values = {
        key: [number((mapping(entry.get("iou")) if by_tissue else entry).get(column)) for column in columns]
        for key, entry in entries.items()
    }
    weak = [key for key in entries if key != "full_supervision"]
    bold = [
        _best({key: values[key][i] for key in weak}, lowest=column in LOWER_IS_BETTER)
        for i, column in enumerate(columns)
    ]
    lines = []
    for key in entries:
        cells = [("–" if value is None else f"{value:.3f}", key in bold[i]) for i, value in enumerate(values[key])]
        if not by_tissue:
            low, high = interval(entries[key])
            cells.insert(1, ("–" if low is None or high is None else f"{low:.3f}–{high:.3f}", False))
        lines.append(ScoreLine(names[key], notes[key], cells, key == "full_supervision"))
    headings = list(columns.values())
    if not by_tissue:
        headings.insert(1, "95% interval")
    return ScoreTable(title, headings, lines)


def _best(values: Mapping[str, float | None], *, lowest: bool) -> set[str]:
    """Methods with the best value, none if all are alike."""
    known = {key: value for key, value in values.items() if value is not None}
    best = {key for key, value in known.items() if value == (min if lowest else max)(known.values())}
    return best if len(best) < len(known) else set()


def score_tables(record: RunRecord) -> list[ScoreTable]:
    """All scores, one table per part."""
    tables = [_table(record, part, title, SCORES, by_tissue=False) for part, title, _, _ in PARTS]
    return [table for table in tables if table is not None]


def tissue_tables(record: RunRecord) -> list[ScoreTable]:
    """IoU of every tissue, one table per part."""
    columns = {name: name for name in record.tissues.names}
    tables = [_table(record, part, title, columns, by_tissue=True) for part, title, _, _ in PARTS]
    return [table for table in tables if table is not None]


@dataclass(frozen=True)
class Confusion:
    """A confusion matrix.

    Attributes:
        key: method, as in scores.json.
        title: what was compared with the masks.
        shares: `shares[i][j]` of the pixels of tissue i were called j, in 0..1; a last column, if any, holds those
            that were given no tissue.
        pixels: number of pixels of every tissue.
    """

    key: str
    title: str
    shares: list[list[float]]
    pixels: list[int]


def confusions(record: RunRecord) -> list[Confusion]:
    """Row-normalised confusion matrices of the final pseudo labels, the full method and the ceiling."""
    found = []
    for part, key, title in (
        ("pseudo_labels", "refined", "Final pseudo labels, train"),
        ("test", "full_method", "Full method, test"),
        ("test", "full_supervision", "Full supervision, test"),
    ):
        matrix = mapping(mapping(record.detail.get(part)).get(key)).get("confusion")
        if not isinstance(matrix, list):
            continue
        try:
            counts = np.asarray(matrix, dtype=np.float64)
        except (TypeError, ValueError):
            continue
        size = len(record.tissues)
        if (
            counts.ndim != 2
            or counts.shape[0] != size
            or counts.shape[1] not in (size, size + 1)
            or not np.isfinite(counts).all()
        ):
            continue
        totals = counts.sum(axis=1)
        if counts.shape[1] > size and not counts[:, size].any():
            counts = counts[:, :size]
        shares = counts / totals.clip(min=1.0)[:, None]
        found.append(Confusion(key, title, shares.tolist(), [int(total) for total in totals]))
    return found


@dataclass(frozen=True)
class Area:
    """Share of one tissue on the test images: in the predictions, in the masks (None unknown), and its area in mm²."""

    index: int
    name: str
    predicted: float
    true: float | None
    mm2: float | None


def tissue_areas(record: RunRecord) -> list[Area]:
    """Tissue areas over all test images from `areas.csv` of the full method; empty without it."""
    rows = read_csv(record.run.predictions() / "areas.csv")
    pixels: dict[str, float] = dict.fromkeys(record.tissues.names, 0.0)
    areas: dict[str, float | None] = dict.fromkeys(record.tissues.names, 0.0)
    for row in rows:
        name = row.get("tissue", "")
        if name not in pixels:
            continue
        try:
            pixels[name] += float(row["pixels"])
        except (KeyError, ValueError):
            return []
        known = areas[name]
        text = row.get("area_mm2", "")
        areas[name] = known + float(text) if known is not None and _is_number(text) else None
    total = sum(pixels.values())
    if not total:
        return []
    truth = next((c.pixels for c in confusions(record) if c.key == "full_method"), None)
    scored = sum(truth) if truth else 0
    return [
        Area(k, name, pixels[name] / total, truth[k] / scored if truth and scored else None, areas[name])
        for k, name in enumerate(record.tissues.names)
    ]


def _is_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False


@dataclass(frozen=True)
class LabelCount:
    """How many training patches hold a tissue."""

    index: int
    name: str
    abbreviation: str
    count: int
    share: float


@dataclass(frozen=True)
class DataSummary:
    """What the run learned from."""

    patches: int
    tissues: list[LabelCount]
    by_number: list[tuple[int, int]]
    patients: int
    slides: int
    masks: int
    test: int
    test_masks: int
    test_folder: str
    tested_on_val: bool


def data_summary(record: RunRecord) -> DataSummary:
    """Counts of labels in train, and of images in test."""
    train, test = list(record.train.values()), list(record.test.values())
    counts = np.array([patch.labels for patch in train], dtype=np.int64).reshape(-1, len(record.tissues)).sum(axis=0)
    numbers = Counter(sum(patch.labels or ()) for patch in train)
    folder = test[0].path.parent if test else None
    if folder is not None and folder.name == "img":
        folder = folder.parent
    return DataSummary(
        patches=len(train),
        tissues=[
            LabelCount(k, tissue.name, tissue.abbreviation, int(counts[k]), float(counts[k]) / max(1, len(train)))
            for k, tissue in enumerate(record.tissues.tissues)
        ],
        by_number=sorted(numbers.items()),
        patients=len({patch.patient for patch in train if patch.patient}),
        slides=len({patch.slide for patch in train if patch.slide}),
        masks=sum(patch.mask is not None for patch in train),
        test=len(test),
        test_masks=sum(patch.mask is not None for patch in test),
        test_folder=folder.as_posix() if folder else "",
        tested_on_val=folder == Path(record.config.data.path) / "val",
    )
