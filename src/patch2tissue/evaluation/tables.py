"""Scores as tables for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

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
}
"""Columns of a score table, in order."""


def percent(value: Any) -> str:
    """A fraction in percent, `–` where a score is not defined."""
    if value is None:
        return "–"
    if isinstance(value, list):
        return f"{100 * value[0]:.1f}–{100 * value[1]:.1f}"
    return f"{100 * value:.1f}"


def score_table(title: str, rows: Mapping[str, Mapping[str, Any]], tissues: TissueSet | None = None) -> Table:
    """One row of percentages per method; with a tissue set also the IoU of every tissue."""
    table = Table(title=title, title_justify="left")
    table.add_column("")
    names = tissues.names if tissues is not None else ()
    for column in COLUMNS.values():
        table.add_column(column, justify="right")
    for name in tissues.abbreviations if tissues is not None else ():
        table.add_column(name, justify="right")
    for method, scores in rows.items():
        values = [percent(scores.get(key)) for key in COLUMNS]
        table.add_row(method.replace("_", " "), *values, *(percent(scores.get("iou", {}).get(n)) for n in names))
    return table


def run_tables(scores: Mapping[str, Any], tissues: TissueSet | None = None) -> list[Table]:
    """Tables of a run's `scores.json`."""
    titles = {"pseudo_labels": "Pseudo labels, on the masks of train", "test": "Networks, on the test split"}
    return [score_table(title, scores[part], tissues) for part, title in titles.items() if part in scores]
