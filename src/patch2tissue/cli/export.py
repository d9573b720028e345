"""`patch2tissue export`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class Format(StrEnum):
    """What a run can be exported to; `patch2tissue.export.FORMATS`, which takes long to import."""

    onnx = "onnx"
    torchscript = "torchscript"
    monai_bundle = "monai-bundle"
    tiatoolbox = "tiatoolbox"


def export(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    out: Annotated[Path, typer.Option("--out", help="Model folder to make.")],
    to: Annotated[
        list[Format] | None, typer.Option("--to", help="Also in this format. Can be repeated; none: the weights alone.")
    ] = None,
    name: Annotated[str | None, typer.Option("--name", help="Name of the model; default: that of the folder.")] = None,
    licence: Annotated[
        str, typer.Option("--licence", "--license", help="SPDX identifier of the weights' licence: your decision.")
    ] = "other",
    fresh: Annotated[bool, typer.Option("--fresh", help="Replace a model folder that is there.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print what was written as JSON.")] = False,
) -> None:
    """Write a run's model for other programs, with a model card: ONNX, TorchScript, MONAI, TIAToolbox, QuPath.

    Each exported graph takes RGB in 0..1 of any size and gives probabilities of the same size; it is compared with
    PyTorch before it is kept. The folder also serves as a run for `predict`, and `hf upload OWNER/NAME FOLDER` pushes
    it to Hugging Face. It holds no path of this machine and no name of a training patch.
    """
    import json

    from patch2tissue.export import export_run
    from patch2tissue.progress import console

    result = export_run(run, out, [one.value for one in to or ()], name=name, licence=licence, fresh=fresh)
    if as_json:
        typer.echo(json.dumps({"folder": str(result.folder), "name": result.name, "formats": result.formats}))
        return
    console.print(f"Model [bold]{result.name}[/bold] in [bold]{result.folder}[/bold]", highlight=False)
    for kind, facts in result.formats.items():
        checked = facts.get("max_abs_difference")
        told = "" if checked is None else f", differs from PyTorch by at most {checked:.1e}"
        console.print(f"  {kind}: {facts['file']}{told}", highlight=False)
    if licence == "other":
        console.print("  No licence was named: give --licence before you pass the model on.", highlight=False)
