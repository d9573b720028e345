"""`patch2tissue rerun`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from rich.table import Table

    from patch2tissue.rerun import Rerun


def rerun(
    run: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    out: Annotated[
        Path | None, typer.Option("--out", help="Folder for the repetition; without it, RUN-rerun beside the run.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            "--tolerance",
            min=0.0,
            max=1.0,
            help="Accept scores that differ by at most this, as a fraction (0.01: one point of MIoU); pixels of maps "
            "where the run is not scored. Without it, everything must be the same bit for bit.",
        ),
    ] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", help="Say where data or weights are now, or the device: data.path=FOLDER. Repeatable."),
    ] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier repetition in that folder first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print rerun.json.")] = False,
) -> None:
    """Repeat a run from its folder alone, and compare: weights, attention, pseudo labels, maps, scores.

    Says first what is another than then: versions, machine, threads; and whether the data are the same. Trains into a
    folder of its own with the same settings, seed and threads; if it is stopped, the same command goes on. The exit
    code is 0 if the same came out (or, with --tolerance, scores as good as the same), 1 if not.
    """
    import json

    from rich.console import Console
    from rich.markup import escape

    from patch2tissue.progress import console as messages
    from patch2tissue.rerun import RECORD, carry_out, plan_rerun
    from patch2tissue.run_folder import RunFolder

    plan = plan_rerun(RunFolder(run), out, settings or [], fresh=fresh)
    told = [str(change) for change in plan.environment] or ["nothing that results may hang on"]
    for line in ("Another than when the run was trained:", *(f"  {line}" for line in told)):
        messages.print(escape(line), highlight=False, soft_wrap=True)
    for note in plan.notes:
        messages.print(f"Note: {escape(note)}.", highlight=False, soft_wrap=True)
    outcome = carry_out(plan, tolerance=tolerance, fresh=fresh)
    if as_json:
        typer.echo(json.dumps(outcome.to_dict()))
    else:
        console = Console()
        console.print(_table(outcome))
        console.print(escape(_verdict(outcome)), highlight=False, soft_wrap=True)
        console.print(f"Written to {plan.config.output / RECORD}", highlight=False, soft_wrap=True)
    raise typer.Exit(1 if outcome.result == "different" else 0)


def _table(outcome: Rerun) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD)
    for title in ("part", "difference", "where"):
        table.add_column(title, overflow="fold")
    for part in outcome.parts:
        if part.same:
            difference = "none"
        elif part.difference is None:
            difference = "not comparable"
        elif part.kind == "numbers":
            difference = f"at most {part.difference:.2g}"
        elif part.kind == "maps":
            difference = f"{100 * part.difference:.3g}% of pixels"
        else:
            difference = f"at most {100 * part.difference:.3g} points"
        table.add_row(part.name, difference, escape(part.where))
    return table


def _verdict(outcome: Rerun) -> str:
    """One line that says whether it is the same, and if not, where first."""
    first = outcome.first_difference
    if first is None:
        return "The same, bit for bit."
    if outcome.result == "within_tolerance":
        return f"Within the tolerance of {outcome.tolerance:g}; not bit for bit, first different: {first.name}."
    hint = "" if outcome.tolerance is not None else " If scores as good as the same are enough, give --tolerance 0.01."
    return f"Different, first in: {first.name}.{hint}"
