"""`patch2tissue slide predict`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer


class MapForm(StrEnum):
    """Forms of the tissue map."""

    tiff = "tiff"
    ome = "ome"


def slide_predict(
    run: Annotated[Path, typer.Argument(help="Run folder that `train` wrote.")],
    slides: Annotated[
        list[str],
        typer.Argument(help="Slides, folders of slides, quoted patterns such as 'a/*.svs', or a CSV with wsi,mpp."),
    ],
    out: Annotated[Path, typer.Option("--out", help="Folder for the maps, GeoJSON, areas and overlays.")],
    mpp: Annotated[
        float | None, typer.Option("--mpp", help="µm per pixel of the slides' full size, where they do not tell.")
    ] = None,
    model_mpp: Annotated[
        float | None, typer.Option("--model-mpp", help="µm per pixel of the network's training, if the run lacks it.")
    ] = None,
    tissue_mask: Annotated[
        Path | None,
        typer.Option("--tissue-mask", help="Your own mask (image or GeoJSON), or a folder of them by slide name."),
    ] = None,
    everywhere: Annotated[
        bool, typer.Option("--everywhere", help="Do not look for tissue: predict all of the slide.")
    ] = False,
    form: Annotated[
        MapForm, typer.Option("--format", help="tiff: for OpenSlide and QuPath; ome: OME-TIFF.")
    ] = MapForm.tiff,
    polygons: Annotated[bool, typer.Option("--polygons/--no-polygons", help="Write GeoJSON for QuPath.")] = True,
    simplify: Annotated[
        float,
        typer.Option("--simplify", min=0.0, help="Tolerance of the polygons in map pixels; 0: along pixel edges."),
    ] = 1.0,
    compress: Annotated[bool, typer.Option("--gzip", help="Write .geojson.gz, which QuPath opens as well.")] = False,
    confidence: Annotated[
        bool, typer.Option("--confidence/--no-confidence", help="Write a pyramid of how sure each place is.")
    ] = True,
    probabilities: Annotated[
        bool, typer.Option("--probabilities", help="Also write a pyramid of probabilities (OME-TIFF).")
    ] = False,
    symmetries: Annotated[
        bool | None, typer.Option("--symmetries/--no-symmetries", help="Average over the 8 flips and turns (slower).")
    ] = None,
    gate: Annotated[
        float | None,
        typer.Option("--gate", min=0.0, max=1.0, help="Drop tissues that the classifier finds less likely than this."),
    ] = None,
    workers: Annotated[
        int | None, typer.Option("--workers", min=0, help="Processes that read tiles; default: by the cores.")
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    engine: Annotated[
        str | None,
        typer.Option("--engine", help="auto, torch, compile, onnxruntime or openvino: what computes the network."),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Draw tissue maps of whole slides, with outlines that QuPath imports and areas in mm².

    Only tissue goes through the network, at the resolution it was trained at. Stopped work goes on where it was, also
    when several processes share a folder of slides. One bad slide does not stop the others: summary.md tells.
    """
    import json

    from patch2tissue.errors import ConfigError, DataError, Patch2TissueError
    from patch2tissue.inference.slides.outputs import OutputOptions
    from patch2tissue.inference.slides.predict import SlideOptions, predict_slides
    from patch2tissue.progress import console

    if everywhere and tissue_mask is not None:
        raise ConfigError("--everywhere and --tissue-mask exclude each other.")
    results = predict_slides(
        run,
        slides,
        out,
        um_per_pixel=mpp,
        options=SlideOptions(
            um_per_pixel=model_mpp,
            tissue="everywhere" if everywhere else tissue_mask or "found",
            workers=workers,
            outputs=OutputOptions(form.value, polygons, simplify, compress, probabilities, confidence),
        ),
        symmetries=symmetries,
        gate=gate,
        device=device,
        engine=engine,
    )
    failed = [result for result in results if result.status == "failed"]
    busy = [result for result in results if result.status == "busy"]
    if as_json:
        typer.echo(json.dumps([result.to_dict() for result in results]))
    else:
        done = len(results) - len(failed) - len(busy)
        console.print(
            f"{done} tissue map{'' if done == 1 else 's'} in [bold]{out}[/bold]; see {out / 'summary.md'}",
            highlight=False,
        )
        for result in busy:
            console.print(f"  {result.slide.name}: another process works on it", highlight=False)
    if failed:
        listed = "\n".join(f"  {result.error}" for result in failed)
        kind = Patch2TissueError if any(result.no_room for result in failed) else DataError
        raise kind(f"{len(failed)} of {len(results)} slides could not be predicted:\n{listed}")
