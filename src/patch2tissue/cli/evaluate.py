"""`patch2tissue evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    predictions: Annotated[Path, typer.Argument(help="Folder with predicted masks: NAME_mask.png or NAME.png.")],
    masks: Annotated[Path, typer.Argument(help="Folder with true masks of the same names.")],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    group: Annotated[
        str, typer.Option("--group", help="Interval over: patient, slide, image, or auto (first that names tell).")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also write the scores to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score predicted masks against true ones: IoU, MIoU, FwIoU, ACC, Dice and boundary F-score.

    All scores come from one confusion matrix over all scored pixels. The interval of MIoU is a bootstrap over patients,
    or slides, where the file names tell them, else over images. Masks may be palette, grey or coloured.
    """
    import json

    from rich.console import Console
    from rich.progress import Progress

    from patch2tissue.atomic import write_text
    from patch2tissue.evaluation.folders import evaluate_folders
    from patch2tissue.evaluation.tables import confusion_table, score_tables
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    tissue_set = load_tissue_set(tissues)
    with Progress(console=console) as bars:
        task = bars.add_task("scoring", total=None)
        scores = evaluate_folders(
            predictions,
            masks,
            tissue_set,
            group=group,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    text = json.dumps(scores.to_dict())
    if out is not None:
        write_text(out, text)
    if as_json:
        typer.echo(text)
        return
    for table in score_tables(f"{scores.images} images", {"predictions": scores.to_dict()}, tissue_set):
        Console().print(table)
    Console().print(confusion_table(scores.confusion, tissue_set))
    if scores.values["ci95"] is None:
        console.print(f"No interval of MIoU: it needs two {scores.grouped_by}s or more with scored pixels.")
        return
    told = (
        " (the file names tell neither patients nor slides)" if (group, scores.grouped_by) == ("auto", "image") else ""
    )
    console.print(f"Interval: bootstrap over {scores.groups} {scores.grouped_by}s{told}.")
