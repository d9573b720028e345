"""`patch2tissue train`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class StageName(StrEnum):
    """Stages that can be run alone."""

    craanet = "craanet"
    pseudo = "pseudo"
    pfscnet = "pfscnet"


def train(
    config: Annotated[Path, typer.Argument(help="Recipe (YAML), for example configs/glas.yaml.")],
    overrides: Annotated[
        list[str] | None, typer.Option("--set", help="Change one field: section.field=value. Can be repeated.")
    ] = None,
    stage: Annotated[
        list[StageName] | None, typer.Option("--stage", help="Run only this stage. Can be repeated.")
    ] = None,
    devices: Annotated[
        str | None, typer.Option("--devices", help="Training processes on each machine, one per GPU; or auto.")
    ] = None,
    nodes: Annotated[int | None, typer.Option("--nodes", min=1, help="Machines that train together.")] = None,
    fresh: Annotated[bool, typer.Option("--fresh", help="Delete an earlier run in the same folder first.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the run folder as JSON when done.")] = False,
) -> None:
    """Learn tissue maps from patch labels: CRAANet, pseudo labels, PFSCNet.

    Needs nothing but patches and which tissues each one holds. A training that was stopped, even killed, goes on where
    it was when the same command is given again. Masks are not read; `patch2tissue score RUN` compares with them after.
    """
    import json

    from patch2tissue.config import load_config
    from patch2tissue.distributed.place import place_of_process
    from patch2tissue.pipeline import STAGES, run_training
    from patch2tissue.progress import console

    chosen = STAGES if not stage else tuple(name for name in STAGES if name in {item.value for item in stage})
    settings = list(overrides or [])
    settings += [f"hardware.{name}={value}" for name, value in (("devices", devices), ("nodes", nodes)) if value]
    run = run_training(load_config(config, settings), stages=chosen, resume=not fresh)
    place = place_of_process()
    if place is not None and place.rank > 0:
        return  # the first process says it
    if as_json:
        typer.echo(json.dumps({"run": str(run.path), "stages": list(chosen)}))
        return
    console.print(f"\nDone: [bold]{run.path}[/bold]")
    if "pfscnet" in chosen:
        console.print(f"  patch2tissue predict {run.path} IMAGES… --out maps   draw tissue maps of new images")
        console.print(f"  patch2tissue score {run.path}                        compare with masks, where there are any")
        console.print(f"  patch2tissue report {run.path}                       one page with everything")
