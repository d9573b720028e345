"""`patch2tissue evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from patch2tissue.cli.slide_evaluate import slide_evaluate


def evaluate(
    predictions: Annotated[
        Path, typer.Argument(help="Folder with predicted masks: NAME_mask.png or NAME.png; or maps of slides.")
    ],
    masks: Annotated[
        Path, typer.Argument(help="Folder with true masks of the same names; of slides, as slide evaluate takes it.")
    ],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    group: Annotated[
        str, typer.Option("--group", help="Interval over: patient, slide, image, or auto (first that names tell).")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also write the scores to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score predicted masks against true ones: IoU, MIoU, FwIoU, ACC, Dice and boundary F-score.

    All scores come from one confusion matrix over all scored pixels. The interval of MIoU is a bootstrap over patients,
    or slides, where the file names tell them, else over images. Masks may be palette, grey or coloured. Maps of whole
    slides (NAME_classes.tif) go to `slide evaluate`, which has more options.
    """
    from rich.progress import Progress

    from patch2tissue.cli.show_scores import show_scores
    from patch2tissue.evaluation.folders import evaluate_folders
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    if predictions.is_file() or any(predictions.glob("*_classes*.tif")):
        slide_evaluate(predictions, masks, tissues, group=group, out=out, as_json=as_json)
        return
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
    unknown = (group, scores.grouped_by) == ("auto", "image")
    show_scores(
        scores,
        scores.to_dict(),
        tissue_set,
        title=f"{scores.images} images",
        told=" (the file names tell neither patients nor slides)" if unknown else "",
        out=out,
        as_json=as_json,
    )
