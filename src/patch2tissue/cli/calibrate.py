"""`patch2tissue calibrate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def calibrate(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Make probabilities and confidences say how often the network is right, without masks.

    The network shall be as sure as it agrees with the last map of stage 1 on training patches of several tissues. Masks
    stay the same. The result is kept in the run folder and used by everything that predicts with the run.
    """
    import json
    from dataclasses import asdict

    from patch2tissue.inference.calibrate import calibrate_run
    from patch2tissue.progress import console

    found = calibrate_run(run, device=device)
    if as_json:
        typer.echo(json.dumps(asdict(found)))
        return
    console.print(
        f"temperature [bold]{found.temperature:.2f}[/bold]: on {found.patches} training patches of several tissues the "
        f"network agrees with stage 1 on {found.agreement:.1%} of the pixels; it was {found.confidence_before:.1%} "
        f"sure of itself, now {found.confidence_after:.1%}",
        highlight=False,
    )
