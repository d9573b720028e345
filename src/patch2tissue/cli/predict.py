"""`patch2tissue predict`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def predict(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    images: Annotated[
        list[str], typer.Argument(help="Images, folders of images, or quoted patterns such as 'a/*.tif'.")
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for masks, overlays and areas.csv.")],
    symmetries: Annotated[
        bool | None, typer.Option("--symmetries/--no-symmetries", help="Average over the 8 flips and turns (slower).")
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option("--gate", min=0.0, max=1.0, help="Drop tissues that the classifier finds less likely than this."),
    ] = None,
    mpp: Annotated[float | None, typer.Option("--mpp", min=1e-6, help="Resolution in µm per pixel, for areas.")] = None,
    overlay: Annotated[bool, typer.Option("--overlay/--no-overlay", help="Also write a picture to look at.")] = True,
    confidence: Annotated[
        bool, typer.Option("--confidence/--no-confidence", help="Also write how sure each pixel is (grey PNG).")
    ] = True,
    probabilities: Annotated[bool, typer.Option("--probabilities", help="Also write probabilities (npz).")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Keep masks that are there already.")] = False,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="auto, torch, compile, onnxruntime or openvino: what computes the network."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Draw tissue maps of new images: a palette mask, its confidence and an overlay each, and one table of areas.

    Images may have any size and any common format; large ones are cut into overlapping tiles that are blended. They
    should have the resolution the run was trained at.
    """
    import json

    from patch2tissue.errors import DataError
    from patch2tissue.progress import console

    with console.status("Loading the network ..."):
        from patch2tissue.inference.predict import predict_images
    results = predict_images(
        run,
        images,
        out,
        symmetries=symmetries,
        gate=gate,
        device=device,
        engine=engine,
        um_per_pixel=mpp,
        overlay=overlay,
        confidence=confidence,
        probabilities=probabilities,
        resume=resume,
    )
    failed = [result for result in results if result.error is not None]
    if as_json:
        answer = [
            {
                "image": str(result.image),
                "mask": None if result.mask is None else str(result.mask),
                "shares": {area.tissue: area.share for area in result.areas},
                "area_um2": {area.tissue: area.area_um2 for area in result.areas},
                "confidence": result.confidence,
                "familiarity": None if result.familiarity is None else result.familiarity._asdict(),
                "error": result.error,
            }
            for result in results
        ]
        typer.echo(json.dumps(answer))
    else:
        console.print(f"{len(results) - len(failed)} tissue maps in [bold]{out}[/bold]; areas in {out / 'areas.csv'}")
    if failed:
        listed = "\n".join(f"  {result.error}" for result in failed)
        raise DataError(f"{len(failed)} of {len(results)} images could not be read; the others are done:\n{listed}")
