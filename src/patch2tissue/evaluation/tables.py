"""Scores as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from rich.box import SIMPLE_HEAD
from rich.table import Table

from patch2tissue.tissues import TissueSet

COLUMNS = {
    "miou": "MIoU",
    "ci95": "95% interval",
    "fwiou": "FwIoU",
    "acc": "ACC",
    "dice": "Dice",
    "boundary_f_2px": "BF 2 px",
    "boundary_f_5px": "BF 5 px",
    "ece": "ECE",
}
"""Columns of a score table, in order."""


def percent(value: Any) -> str:
    """A fraction in percent, `–` where a score is not defined."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"{100 * value[0]:.1f}–{100 * value[1]:.1f}"
    return f"{100 * value:.1f}"


def score_tables(title: str, rows: Mapping[str, Mapping[str, Any]], tissues: TissueSet | None = None) -> list[Table]:
    """One row of percentages per method; with a tissue set a second table with the IoU of every tissue.

    Two narrow tables, since no number may be cut off in a terminal of 80 columns, or where output goes to a file.
    """
    tables = [_table(title, COLUMNS, rows)]
    if tissues is not None:
        ious = {method: scores.get("iou", {}) for method, scores in rows.items()}
        tables.append(_table("IoU by tissue", dict(zip(tissues.names, tissues.abbreviations, strict=True)), ious))
    return tables


def _table(title: str, columns: Mapping[str, str], rows: Mapping[str, Mapping[str, Any]]) -> Table:
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, padding=(0, 0, 0, 1), pad_edge=False)
    table.add_column("", no_wrap=True)
    for key, head in columns.items():
        table.add_column(head, justify="right", min_width=10 if key == "ci95" else 5)
    for method, values in rows.items():
        table.add_row(method.replace("_", " "), *(percent(values.get(key)) for key in columns))
    return table


def confusion_table(confusion: np.ndarray, tissues: TissueSet) -> Table:
    """Where the scored pixels of each tissue went, in percent of the tissue.

    Args:
        confusion: pixel counts [K, K + 1], see `ConfusionMatrix`.
        tissues: names the rows and columns.
    """
    table = Table(title="Confusion: truth in rows, prediction in columns", title_justify="left", box=SIMPLE_HEAD)
    table.add_column("")
    for name in (*tissues.abbreviations, "no tissue"):
        table.add_column(name, justify="right")
    for name, counts in zip(tissues.names, confusion, strict=True):
        total = counts.sum()
        table.add_row(name, *(percent(count / total if total else None) for count in counts))
    return table


def run_tables(scores: Mapping[str, Any], tissues: TissueSet | None = None) -> list[Table]:
    """Tables of a run's `scores.json`."""
    titles = {"pseudo_labels": "Pseudo labels, on the masks of train", "test": "Networks, on the test split"}
    return [t for part, title in titles.items() if part in scores for t in score_tables(title, scores[part], tissues)]
