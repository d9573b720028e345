"""Numbers of the page: cards, score tables, confusion matrices, labels, areas."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from markupsafe import Markup

from patch2tissue.report.figures import Line, ScoreRow, panel, score_chart
from patch2tissue.report.names import (
    CURVES,
    PREDICTION_NOTES,
    PREDICTIONS,
    PSEUDO_LABEL_NOTES,
    PSEUDO_LABELS,
    SCORES,
    STAGES,
)
from patch2tissue.report.record import RunRecord, mapping, number, read_csv

PARTS: tuple[tuple[str, str, Mapping[str, str], Mapping[str, str]], ...] = (
    ("pseudo_labels", "Pseudo labels on train", PSEUDO_LABELS, PSEUDO_LABEL_NOTES),
    ("test", "Predictions on test", PREDICTIONS, PREDICTION_NOTES),
)
_MAIN = {"pseudo_labels": "accumulated", "test": "full_method"}


@dataclass(frozen=True)
class Card:
    """One key number: `value` and its `unit` large, `title` above, `note` below, `tone` good, bad or nothing."""

    title: str
    value: str
    note: str
    unit: str = ""
    tone: str = ""


def _gain(title: str, difference: float, note: str) -> Card:
    text = f"{100 * difference:+.1f}".replace("-", "−")
    return Card(title, text, note, "points", "good" if difference > 0.0005 else "bad" if difference < -0.0005 else "")


def cards(record: RunRecord) -> dict[str, list[Card]]:
    """The numbers that say whether the method worked, by group; those that were not measured are left out."""
    groups = {"Predictions on test": _test_cards(record), "Pseudo labels on train": _pseudo_label_cards(record)}
    return {title: group for title, group in groups.items() if group}


def _test_cards(record: RunRecord) -> list[Card]:
    full = record.score("test", "full_method")
    if full is None:
        return []
    low, high = interval(mapping(mapping(record.scores.get("test")).get("full_method")))
    note = "against masks" if low is None or high is None else f"95% interval {low:.3f} to {high:.3f}"
    found = [Card("Full method", f"{full:.3f}", note, "MIoU")]
    ceiling = record.score("test", "full_supervision")
    if ceiling:
        note = f"trained on masks, it reaches {ceiling:.3f}"
        found.append(Card("Share of full supervision", f"{100 * full / ceiling:.1f}", note, "%"))
    plain = record.score("test", "cross_entropy_only")
    if plain is not None:
        found.append(_gain("Gain over cross-entropy only", full - plain, f"which reaches {plain:.3f}"))
    cam = record.score("test", "cam_pipeline")
    if cam is not None:
        found.append(_gain("Gain over the CAM pipeline", full - cam, f"which reaches {cam:.3f}"))
    return found


def _pseudo_label_cards(record: RunRecord) -> list[Card]:
    accumulated = record.score("pseudo_labels", "accumulated")
    if accumulated is None:
        return []
    found = [Card("Accumulated attention", f"{accumulated:.3f}", "before refinement", "MIoU")]
    final = record.score("pseudo_labels", "refined")
    if final is not None:
        found.append(Card("Final pseudo labels", f"{final:.3f}", "what stage 2 learned from", "MIoU"))
    for key, title in (("last_epoch", "Accumulated over last epoch"), ("cam", "Accumulated over plain CAM")):
        other = record.score("pseudo_labels", key)
        if other is not None:
            found.append(_gain(title, accumulated - other, f"which reaches {other:.3f}"))
    return found


def interval_note(record: RunRecord) -> str:
    """What the intervals are drawn over, for example 'over 40 patients'; empty if unknown."""
    for part, key in (("test", "full_method"), ("pseudo_labels", "accumulated")):
        entry = mapping(mapping(record.detail.get(part)).get(key))
        groups, kind = number(entry.get("groups")), entry.get("grouped_by")
        if groups and isinstance(kind, str):
            return f"over {groups:.0f} {kind}{'s' if groups != 1 else ''}"
    return ""


def interval(scores: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The 95% interval of a scores entry."""
    ends = scores.get("ci95")
    if not isinstance(ends, list) or len(ends) != 2:
        return None, None
    return number(ends[0]), number(ends[1])


def overview_chart(record: RunRecord) -> Markup | None:
    """Chart of all MIoU values; None if there are none."""
    groups = {}
    for part, title, names, _ in PARTS:
        rows = []
        for key, label in names.items():
            value = record.score(part, key)
            if value is not None:
                low, high = interval(record.scores[part][key])
                rows.append(ScoreRow(key, label, value, low, high, key == _MAIN[part]))
        if rows:
            groups[title] = rows
    return score_chart(groups) if groups else None


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
    best = [
        max((v for v in (values[key][i] for key in weak) if v is not None), default=None) for i in range(len(columns))
    ]
    lines = []
    for key in entries:
        cells = [
            (
                "–" if value is None else f"{value:.3f}",
                key in weak and len(weak) > 1 and value is not None and value == best[i],
            )
            for i, value in enumerate(values[key])
        ]
        if not by_tissue:
            low, high = interval(entries[key])
            cells.insert(1, ("–" if low is None or high is None else f"{low:.3f}–{high:.3f}", False))
        lines.append(ScoreLine(names[key], notes[key], cells, key == "full_supervision"))
    headings = list(columns.values())
    if not by_tissue:
        headings.insert(1, "95% interval")
    return ScoreTable(title, headings, lines)


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
        if counts.ndim != 2 or counts.shape[0] != size or counts.shape[1] not in (size, size + 1):
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


def data_summary(record: RunRecord) -> DataSummary:
    """Counts of labels in train, and of images in test."""
    train, test = list(record.train.values()), list(record.test.values())
    counts = np.array([patch.labels for patch in train], dtype=np.int64).reshape(-1, len(record.tissues)).sum(axis=0)
    numbers = Counter(sum(patch.labels or ()) for patch in train)
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
    )


@dataclass(frozen=True)
class CurveGroup:
    """Panels of one stage, and which lines are in them as (label, series key, dashed)."""

    title: str
    legend: list[tuple[str, str, bool]]
    panels: list[Markup]


def curve_groups(record: RunRecord) -> list[CurveGroup]:
    """Training curves as small multiples, one group per stage of the method."""
    config = record.config
    started = int(config.craanet.accumulation.start * config.craanet.epochs) + 1
    losses = int(config.pfscnet.losses_start * config.pfscnet.epochs) + 1
    first = _curve_group(record, "Stage 1: CRAANet, from patch labels", ("craanet", "cam"), (started, "memory starts"))
    folders = ("pfscnet", "cross_entropy_only", "cam_pipeline", "full_supervision")
    second = _curve_group(record, "Stage 2: PFSCNet, from pseudo labels", folders, (losses, "losses start"))
    return [group for group in (first, second) if group is not None]


_SERIES_OF_STAGE = {"pfscnet": "full_method"}


def _curve_group(record: RunRecord, title: str, folders: Sequence[str], start: tuple[int, str]) -> CurveGroup | None:
    present = [folder for folder in folders if record.curves.get(folder)]
    if not present:
        return None
    seen = {name for folder in present for name in record.curves[folder]}
    names = [name for name in CURVES if name in seen] + sorted(seen - set(CURVES))
    panels: list[Markup] = []
    for name in names:
        lines = [
            Line(
                _SERIES_OF_STAGE.get(folder, folder),
                STAGES[folder],
                record.curves[folder][name],
                folder == "full_supervision",
            )
            for folder in present
            if name in record.curves[folder]
        ]
        if name == "learning_rate":
            lines = [replace(lines[0], points=[(epoch, 1000.0 * value) for epoch, value in lines[0].points])]
        mark = (float(start[0]), start[1]) if name in ("loss", "loss_ce") and start[0] > 1 else None
        panels.append(panel(f"curve-{present[0]}-{len(panels)}", CURVES.get(name, name), lines, start=mark))
    legend = [(STAGES[f], _SERIES_OF_STAGE.get(f, f), f == "full_supervision") for f in present]
    return CurveGroup(title, legend, panels)
