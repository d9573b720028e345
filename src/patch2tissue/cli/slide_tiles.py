"""`patch2tissue slide tiles`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class TileFormat(StrEnum):
    """Formats of tiles."""

    png = "png"
    jpg = "jpg"


def slide_tiles(
    slides: Annotated[
        list[str],
        typer.Argument(help="Slides, folders of slides, quoted patterns such as 'a/*.svs', or a CSV with wsi,mpp."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Data folder to make: train/ gets the tiles.")],
    tile_mpp: Annotated[float, typer.Option("--tile-mpp", help="Resolution of the tiles in µm per pixel.")] = 0.5,
    size: Annotated[int, typer.Option(help="Side of a tile in pixels.")] = 224,
    stride: Annotated[int | None, typer.Option(help="Distance between tiles in pixels; default: the size.")] = None,
    tissue_share: Annotated[
        float, typer.Option("--tissue-share", min=0.0, max=1.0, help="Least share of a tile that is tissue.")
    ] = 0.5,
    sample: Annotated[
        int | None, typer.Option("--sample", min=1, help="Draw so many tiles per slide, evenly over its tissue.")
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of that draw.")] = 0,
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel of the slides' full size, where they do not tell.")
    ] = None,
    tissue_mask: Annotated[
        Path | None,
        typer.Option("--tissue-mask", help="Your own mask (image or GeoJSON), or a folder of them by slide name."),
    ] = None,
    everywhere: Annotated[bool, typer.Option("--everywhere", help="Do not look for tissue: cut all of it.")] = False,
    image_format: Annotated[
        TileFormat, typer.Option("--format", help="png keeps every value; jpg takes a fifth of the room.")
    ] = TileFormat.png,
    as_json: Annotated[bool, typer.Option("--json", help="Print the result as JSON.")] = False,
) -> None:
    """Cut tiles of tissue from whole slides: the patches that you then label and train on.

    Tissue is found at 8 µm per pixel; slides/NAME_tissue.png shows its contour. tiles.csv lists where each tile comes
    from. A call that was stopped goes on where it was.
    """
    import json

    from rich.progress import Progress

    from patch2tissue.errors import ConfigError, DataError
    from patch2tissue.progress import console
    from patch2tissue.slides.cut_tiles import TileSettings, cut_tiles
    from patch2tissue.slides.opening import find_slides

    if everywhere and tissue_mask is not None:
        raise ConfigError("--everywhere and --tissue-mask exclude each other.")
    settings = TileSettings(
        tile_mpp,
        size,
        stride or size,
        tissue_share,
        sample,
        seed,
        image_format.value,
        "everywhere" if everywhere else str(tissue_mask or "found"),
    )
    with Progress(console=console) as bars:
        task = bars.add_task("looking for tissue", total=None)
        summary = cut_tiles(
            find_slides(slides, mpp),
            out,
            settings,
            progress=lambda name, done, total: bars.update(task, description=name, completed=done, total=total),
        )
    if as_json:
        answer = {
            "out": str(out),
            "tiles": len(summary.tiles),
            "slides": summary.per_slide,
            "errors": summary.errors,
        }
        typer.echo(json.dumps(answer))
    else:
        for name, count in summary.per_slide.items():
            console.print(f"  {name}: {count} tiles", highlight=False)
        console.print(f"{len(summary.tiles)} tiles in [bold]{out / 'train'}[/bold]", highlight=False)
        console.print(
            f"Look at {out / 'slides'} for what was taken for tissue; then label the tiles: patch2tissue label {out}",
            highlight=False,
        )
    if summary.errors:
        listed = "\n".join(f"  {error}" for error in summary.errors)
        count = len(summary.errors)
        raise DataError(f"{count} of {count + len(summary.per_slide)} slides could not be cut:\n{listed}")
