"""`patch2tissue patches`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def patches(
    source: Annotated[
        Path, typer.Argument(help="Folder with train/img, train/mask and optionally val and test of the same form.")
    ],
    out: Annotated[Path, typer.Option("--out", help="New folder for the patches.")],
    tissues: Annotated[str, typer.Option("--tissues", help="Tissue set of the masks: a name or a YAML file.")],
    size: Annotated[int, typer.Option("--size", min=1, help="Side of a patch in pixels.")] = 224,
    stride: Annotated[
        int | None, typer.Option("--stride", min=1, help="Distance between patches in pixels; without it, the size.")
    ] = None,
    least_share: Annotated[
        float,
        typer.Option("--least-share", min=0, max=1, help="Share of a patch from which a tissue counts as present."),
    ] = 0.05,
    as_json: Annotated[bool, typer.Option("--json", help="Print the summary as JSON.")] = False,
) -> None:
    """Cut large images with masks into patches whose names carry the tissues they hold.

    Images of train are cut; those of val and test stay whole, since scores are taken on them. patches.csv lists where
    each patch comes from. Patches that hold no tissue are left out.
    """
    import json

    from rich.progress import Progress

    from patch2tissue.data.regions import cut_regions
    from patch2tissue.progress import console
    from patch2tissue.tissues import load_tissue_set

    tissue_set = load_tissue_set(tissues)
    with Progress(console=console) as bars:
        task = bars.add_task("cutting", total=None)
        summary = cut_regions(
            source,
            out,
            tissue_set,
            size=size,
            stride=stride or size,
            least_share=least_share,
            progress=lambda done, total: bars.update(task, completed=done, total=total),
        )
    counts = {name: sum(patch.labels[k] for patch in summary.patches) for k, name in enumerate(tissue_set.names)}
    if as_json:
        answer = {"out": str(out), "patches": len(summary.patches), "skipped": summary.skipped, "with_tissue": counts}
        typer.echo(json.dumps(answer))
        return
    console.print(f"{len(summary.patches)} patches in [bold]{out}[/bold]; {summary.skipped} without tissue left out")
    for name, count in counts.items():
        console.print(f"  {name}: in {count} patches")
