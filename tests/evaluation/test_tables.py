"""Tables for people."""

from __future__ import annotations

import io

import numpy as np
from rich.console import Console

from patch2tissue.evaluation.tables import confusion_table, percent, run_tables, score_tables
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("glas")
VALUES = {
    "miou": 0.8123,
    "fwiou": 0.8,
    "acc": 0.9,
    "dice": None,
    "boundary_f_2px": 0.5,
    "boundary_f_5px": 0.75,
    "ci95": [0.79, 0.8349],
    "iou": {"gland": 0.7, "surrounding tissue": None},
}


def text_of(*tables: object, width: int = 160) -> str:
    console = Console(file=io.StringIO(), width=width)
    for table in tables:
        console.print(table)
    return console.file.getvalue()  # type: ignore[attr-defined,no-any-return]


def test_percent() -> None:
    assert [percent(value) for value in (None, 0.8123, [0.79, 0.8349], 0, 1)] == [
        "–",
        "81.2",
        "79.0–83.5",
        "0.0",
        "100.0",
    ]


def test_one_row_per_method_one_column_per_tissue() -> None:
    text = text_of(*score_tables("scores", {"full_method": VALUES, "cam": {"miou": 0.5}}, TISSUES))
    assert all(word in text for word in ("full method", "81.2", "79.0–83.5", "GLA", "70.0", "cam", "50.0", "–"))
    assert "GLA" not in text_of(*score_tables("scores", {"full_method": VALUES}))


def test_no_number_is_cut_off_in_a_narrow_terminal() -> None:
    rows = {"cross_entropy_only": {**VALUES, "dice": 1.0}, "full_supervision": {**VALUES, "iou": {"gland": 1.0}}}
    text = text_of(*score_tables("scores", rows, TISSUES), width=80)
    assert "…" not in text
    assert all(word in text for word in ("cross entropy only", "full supervision", "79.0–83.5", "100.0", "75.0"))


def test_parts_that_are_absent_have_no_table() -> None:
    assert run_tables({"supervision": "image-level labels"}) == []
    both = run_tables({"pseudo_labels": {"cam": VALUES}, "test": {"full_method": VALUES}}, TISSUES)
    titles = [str(table.title).split(",")[0] for table in both]
    assert titles == ["Pseudo labels", "IoU by tissue", "Networks", "IoU by tissue"]


def test_confusion_is_in_percent_of_the_true_tissue() -> None:
    tissues = load_tissue_set("glas")
    table = confusion_table(np.array([[30, 10, 0], [0, 0, 0]]), tissues)
    assert [column.header for column in table.columns] == ["", "GLA", "SUR", "no tissue"]
    rows = list(zip(*(column.cells for column in table.columns), strict=True))
    assert rows == [("gland", "75.0", "25.0", "0.0"), ("surrounding tissue", "–", "–", "–")]
