"""`patch2tissue compare`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Run folders that were scored.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the comparison as JSON.")] = False,
) -> None:
    """Put runs side by side; runs that differ only in their seed are given as mean and spread."""
    import json

    from rich.console import Console
    from rich.table import Table

    from patch2tissue.evaluation.compare import compare_runs
    from patch2tissue.evaluation.tables import percent

    rows = [compared.to_dict() for compared in compare_runs(runs)]
    if as_json:
        typer.echo(json.dumps(rows))
        return
    table = Table(title="MIoU", title_justify="left")
    for column in ("runs", "on", "method", "MIoU", "± over seeds", "of full supervision"):
        table.add_column(column)
    for row in rows:
        names = row["runs"][0] if row["seeds"] == 1 else f"{row['runs'][0]} … ({row['seeds']} seeds)"
        part = "pseudo labels" if row["part"] == "pseudo_labels" else "test"
        values = [percent(row[key]) for key in ("miou", "spread", "share_of_full_supervision")]
        table.add_row(names, part, row["method"].replace("_", " "), *values)
    Console().print(table)
