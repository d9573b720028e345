"""`patch2tissue report`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def report(
    run: Annotated[Path, typer.Argument(help="Run folder, as `patch2tissue train` wrote it.", show_default=False)],
    open_page: Annotated[bool, typer.Option("--open/--no-open", help="Show the page in the browser.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print where the page is as JSON.")] = False,
) -> None:
    """Write one page with everything about a run: scores, curves, attention, pseudo labels, predictions, settings.

    The page is RUN/report.html, a single file that needs no network and can be mailed. A run that was not scored yet
    is compared with the masks of its data first, where there are any.
    """
    import json

    from rich.console import Console
    from rich.markup import escape

    from patch2tissue.progress import console as messages
    from patch2tissue.run_folder import RunFolder

    folder = RunFolder(run)
    folder.config()  # fails early, and says so, if this is no run folder

    from patch2tissue.errors import DataError
    from patch2tissue.report.build import build_report

    if not folder.scores_file.is_file():
        from patch2tissue.evaluation.run_scores import score_run

        try:
            score_run(folder)
        except DataError as error:
            # the rest of the run can still be shown, and the page says what is missing
            messages.print("[yellow]Not scored:[/]", escape(str(error)), highlight=False)
    with messages.status("Writing the report ..."):
        page = build_report(folder)
    if as_json:
        typer.echo(json.dumps({"report": str(page)}))
    else:
        Console().print(f"[bold green]{page}[/]", highlight=False, soft_wrap=True)
    if open_page:
        typer.launch(page.resolve().as_uri())
