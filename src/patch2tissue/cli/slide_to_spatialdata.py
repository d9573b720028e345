"""`patch2tissue slide to-spatialdata`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def slide_to_spatialdata(
    maps: Annotated[Path, typer.Argument(help="Folder that `slide predict` wrote, or NAME_classes.tif.")],
    out: Annotated[Path, typer.Argument(help="Zarr folder to write, for example a.zarr.")],
    slide: Annotated[
        str | None, typer.Option("--slide", help="Which slide of the folder, without extension; default: the only one.")
    ] = None,
) -> None:
    """Write a slide's map, outlines and areas as SpatialData, for scverse's tools (extra `spatial`)."""
    from patch2tissue.progress import console
    from patch2tissue.spatial.spatial_data import write_spatialdata

    with console.status("Writing the map and its regions ..."):
        made = write_spatialdata(maps, out, slide)
    elements = ", ".join(name for _, name, _ in made.gen_elements())
    console.print(f"[bold]{out}[/bold]: {elements}", highlight=False)
