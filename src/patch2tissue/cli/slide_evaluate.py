"""`patch2tissue slide evaluate`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from patch2tissue.errors import ConfigError

if TYPE_CHECKING:
    from rich.table import Table


def slide_evaluate(
    maps: Annotated[Path, typer.Argument(help="A tissue map (NAME_classes.tif), or a folder of them.")],
    annotations: Annotated[
        Path,
        typer.Argument(
            help="What is true: GeoJSON or a mask image of the whole slide, or a folder with NAME.geojson, NAME.tif "
            "or NAME.png for each map."
        ),
    ],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set: a name or a YAML file.")],
    region: Annotated[
        Path | None,
        typer.Option(
            "--region",
            help="GeoJSON of the region to score, or a folder of them; default: annotations of the class Region*.",
        ),
    ] = None,
    classes: Annotated[
        list[str] | None,
        typer.Option("--class", metavar="NAME=TISSUE", help="Tissue of a class of the annotations; none: not scored."),
    ] = None,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel of the annotations, if the map does not tell its own.")
    ] = None,
    group: Annotated[
        str, typer.Option("--group", help="Interval over: patient, slide, image, or auto (first that names tell).")
    ] = "auto",
    out: Annotated[Path | None, typer.Option("--out", help="Also write the scores to this JSON file.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the scores as JSON.")] = False,
) -> None:
    """Score tissue maps of whole slides against annotations drawn in QuPath, or against masks.

    Scored is what is annotated; where annotations overlap the smaller one counts. The map is read a few rows at a
    time, so that its size does not matter.
    """
    from rich.console import Console
    from rich.progress import Progress

    from patch2tissue.cli.show_scores import show_scores
    from patch2tissue.evaluation.slides import Annotations, evaluate_slides
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    tissue_set = load_tissue_set(tissues)
    with Progress(console=console) as bars:
        task = bars.add_task("scoring", total=None)
        found = evaluate_slides(
            maps,
            Annotations(annotations, _classes(classes or []), region, mpp),
            tissue_set,
            group=group,
            progress=lambda name, done, total: bars.update(task, description=name, completed=done, total=total),
        )
    scores = found.scores
    if not as_json and found.areas:
        Console().print(_areas(found.areas))
    show_scores(
        scores,
        found.to_dict(),
        tissue_set,
        title=f"{scores.images} {'slide' if scores.images == 1 else 'slides'}",
        told="",
        out=out,
        as_json=as_json,
    )


def _classes(pairs: list[str]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        name, equals, tissue = pair.rpartition("=")
        if not equals or not name.strip() or not tissue.strip():
            raise ConfigError(f"--class {pair}: write NAME=TISSUE, for example --class Tumor=tumour.")
        found[name.strip()] = tissue.strip()
    return found


def _areas(areas: list[dict[str, Any]]) -> Table:
    """Areas in the scored pixels."""
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(title="Areas in what is scored, mm²", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for column in ("slide", "tissue"):
        table.add_column(column)
    for column in ("annotated", "predicted"):
        table.add_column(column, justify="right")
    last = None
    for area in areas:
        slide = "" if area["slide"] == last else area["slide"]
        table.add_row(slide, area["tissue"], f"{area['true_mm2']:.4f}", f"{area['predicted_mm2']:.4f}")
        last = area["slide"]
    return table
