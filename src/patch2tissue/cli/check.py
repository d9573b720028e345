"""`patch2tissue check`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

_SHOWN = 50


def check(
    data: Annotated[Path, typer.Argument(help="Data folder with train/, and val/ or test/.")],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    layout: Annotated[str, typer.Option("--layout", help="auto, luad-histoseg, bcss-wsss, wsss4luad or csv.")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
) -> None:
    """Look through a data set before training: what it holds, and every file that is wrong, with the reason.

    The exit code is 0 if everything can be used (there may be warnings) and 2 if not.
    """
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.progress import Progress
    from rich.table import Table

    from patch2tissue.data.check import check_data
    from patch2tissue.data.layouts import LAYOUTS
    from patch2tissue.errors import ConfigError
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    if layout not in ("auto", *LAYOUTS):
        raise ConfigError(f"--layout {layout}: is unknown. Layouts are auto, {', '.join(LAYOUTS)}.")
    with Progress(console=console) as bars:
        task = bars.add_task("checking", total=None)
        report = check_data(
            data,
            load_tissue_set(tissues),
            layout,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    if as_json:
        typer.echo(json.dumps(report.to_dict()))
        raise typer.Exit(2 if report.errors else 0)
    output = Console()
    for split, summary in report.splits.items():
        title = f"{split}: {summary.images} images, {summary.masks} masks"
        if summary.patients:
            title += f", {summary.patients} patients or regions"
        table = Table("", "patches", title=title, title_justify="left")
        for name, count in summary.per_tissue.items():
            table.add_row(f"with {name}", str(count))
        table.add_section()
        for name, count in summary.per_label.items():
            table.add_row(f"labelled {name}", str(count))
        table.add_section()
        for name, count in list(summary.sizes.items())[:8]:
            table.add_row(f"{name} px", str(count))
        output.print(table)
    for title, problems in (("Errors", report.errors), ("Warnings", report.warnings)):
        if problems:
            output.print(f"[bold]{title}: {len(problems)}[/bold]")
        for problem in problems[:_SHOWN]:
            reason = problem.reason.removeprefix(f"{problem.file}: ")
            output.print(f"  {escape(problem.file)}: {escape(reason)}", highlight=False, soft_wrap=True)
        if len(problems) > _SHOWN:
            output.print(f"  … and {len(problems) - _SHOWN} more; --json lists all")
    if not report.errors:
        output.print("Everything can be used.")
    raise typer.Exit(2 if report.errors else 0)
