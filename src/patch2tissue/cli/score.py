"""`patch2tissue score`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def score(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print scores.json.")] = False,
) -> None:
    """Compare what a run made with masks: pseudo labels on train, networks on test (or val).

    This is the only step that opens masks, and nothing is learned from it. Writes scores.json into the run folder.
    """
    import json

    from rich.console import Console

    from patch2tissue.evaluation.run_scores import score_run
    from patch2tissue.evaluation.tables import run_tables
    from patch2tissue.run_folder import RunFolder

    folder = RunFolder(run)
    scores = score_run(folder)
    if as_json:
        typer.echo(json.dumps(scores))
        return
    for table in run_tables(scores, folder.config().tissue_set()):
        Console().print(table)
    for note in scores.get("notes", []):
        Console().print(f"Note: {note}.")
