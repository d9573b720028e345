"""`patch2tissue doctor`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def doctor(
    folder: Annotated[
        Path, typer.Option("--folder", help="Folder you want to work in; its disk space and permissions are checked.")
    ] = Path(),
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="List every package, not only those that matter.")] = False,
) -> None:
    """Check this installation and machine, and say what to do about anything that is wrong.

    Looks at Python, the packages and their versions, OpenSlide, the processor and graphics card, memory, disk space
    and whether a small network trains. The exit code is 0 if patch2tissue can be used and 1 if something fails.
    """
    import json

    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from patch2tissue.doctor import Status, examine, usable
    from patch2tissue.progress import console as messages

    with messages.status("Looking at this machine (some seconds) ..."):
        checks = examine(folder)
    fine = usable(checks)
    if as_json:
        typer.echo(json.dumps({"usable": fine, "checks": [check.to_dict() for check in checks]}, indent=2))
        raise typer.Exit(0 if fine else 1)

    styles = {Status.OK: "green", Status.WARN: "yellow", Status.FAIL: "bold red"}
    table = Table(title="patch2tissue doctor", title_justify="left")
    for title in ("", "what", "found", "what to do"):
        table.add_column(title, overflow="fold")
    boring = [c for c in checks if c.package and c.status is Status.OK and not everything]
    for check in checks:
        if check not in boring:
            mark = f"[{styles[check.status]}]{check.status.value}[/]"
            table.add_row(mark, escape(check.name), escape(check.found), escape(check.advice))
        elif check is boring[0]:
            table.add_row("[green]OK[/]", "packages", f"{len(boring)} importable, versions fit", "")
    console = Console()
    console.print(table)
    if not fine:
        console.print("[bold red]patch2tissue cannot be used yet:[/] see the lines marked FAIL.")
    elif any(check.status is Status.WARN for check in checks):
        console.print("[green]patch2tissue can be used.[/] The lines marked WARN say what could be better.")
    else:
        console.print("[green]patch2tissue can be used.[/]")
    raise typer.Exit(0 if fine else 1)
