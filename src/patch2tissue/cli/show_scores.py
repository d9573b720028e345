"""Scores on the terminal, as tables for people or as JSON for programs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from patch2tissue.evaluation.folders import Scores
    from patch2tissue.tissues import TissueSet


def show_scores(
    scores: Scores,
    plain: dict[str, Any],
    tissues: TissueSet,
    *,
    title: str,
    told: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Print scores, and write them to a file if wanted.

    Args:
        scores: the scores.
        plain: what goes into JSON.
        tissues: their tissue set.
        title: of the table.
        told: appended to what the interval is drawn over.
        out: JSON file to write, None for none.
        as_json: print JSON and nothing else.
    """
    import json

    import typer
    from rich.console import Console

    from patch2tissue.atomic import write_text
    from patch2tissue.evaluation.tables import confusion_table, score_tables
    from patch2tissue.progress import console

    text = json.dumps(plain)
    if out is not None:
        write_text(out, text)
    if as_json:
        typer.echo(text)
        return
    for table in score_tables(title, {"predictions": scores.to_dict()}, tissues):
        Console().print(table)
    Console().print(confusion_table(scores.confusion, tissues))
    if scores.values["ci95"] is None:
        console.print(f"No interval of MIoU: it needs two {scores.grouped_by}s or more with scored pixels.")
        return
    console.print(f"Interval: bootstrap over {scores.groups} {scores.grouped_by}s{told}.")
