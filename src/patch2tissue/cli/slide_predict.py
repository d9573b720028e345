"""`patch2tissue slide predict`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

if TYPE_CHECKING:
    from patch2tissue.inference.slides.result import SlideResult

_CLUSTER = "With --engine ray"
_OF_CLUSTER = {"cpus": "--actor-cpus", "gpus": "--actor-gpus", "strip_tiles": "--strip-tiles"}


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
        int | None,
        typer.Option("--workers", min=0, help="Processes that read tiles (of each actor); default: by the cores."),
    ] = None,
    device: Annotated[str | None, typer.Option("--device", help="auto, cpu, cuda or mps.")] = None,
    engine: Annotated[
        str,
        typer.Option(
            "--engine",
            help="Where the work runs. local: in this process; ray: over a Ray cluster. The name of what computes the "
            "network (see --compute) means local with it.",
        ),
    ] = "local",
    compute: Annotated[
        str | None,
        typer.Option("--compute", help="auto, torch, compile, onnxruntime or openvino: what computes the network."),
    ] = None,
    part: Annotated[
        str | None,
        typer.Option("--part", help="Only this part of the slides, such as 3/100: for arrays of jobs without Ray."),
    ] = None,
    address: Annotated[
        str | None,
        typer.Option(
            "--address",
            help="Cluster to join, or auto: the one on this machine; default: RAY_ADDRESS, else one is started.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    actors: Annotated[
        int | None,
        typer.Option(
            "--actors",
            min=1,
            help="Processes that hold the network; default: as many as fit.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    actor_cpus: Annotated[
        int | None,
        typer.Option(
            "--actor-cpus",
            min=1,
            help="CPU cores of each; default: by the machines.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    actor_gpus: Annotated[
        float | None,
        typer.Option(
            "--actor-gpus",
            min=0.0,
            help="GPUs of each, such as 0.5; default: 1 if there are any.",
            rich_help_panel=_CLUSTER,
        ),
    ] = None,
    retries: Annotated[
        int | None,
        typer.Option(
            "--retries", min=0, help="Times that lost work is begun again; default: 3.", rich_help_panel=_CLUSTER
        ),
    ] = None,
    strip_tiles: Annotated[
        int | None,
        typer.Option("--strip-tiles", min=1, help="Tiles of a strip, about; default: 512.", rich_help_panel=_CLUSTER),
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the results as JSON.")] = False,
) -> None:
    """Draw tissue maps of whole slides, with outlines that QuPath imports and areas in mm².

    Only tissue goes through the network, at the resolution it was trained at. Stopped work goes on where it was, also
    when several processes share a folder of slides. One bad slide does not stop the others: summary.md tells.
    """
    from patch2tissue.errors import ConfigError
    from patch2tissue.inference.slides.outputs import OutputOptions
    from patch2tissue.inference.slides.predict import SlideOptions, predict_slides

    if everywhere and tissue_mask is not None:
        raise ConfigError("--everywhere and --tissue-mask exclude each other.")
    where, compute = _engines(engine, compute)
    settings: dict[str, Any] = {
        "um_per_pixel": mpp,
        "options": SlideOptions(
            um_per_pixel=model_mpp,
            tissue="everywhere" if everywhere else tissue_mask or "found",
            workers=workers,
            outputs=OutputOptions(form.value, polygons, simplify, compress, probabilities, confidence),
        ),
        "symmetries": symmetries,
        "gate": gate,
        "device": device,
        "engine": compute,
    }
    wanted = {
        "address": address,
        "actors": actors,
        "cpus": actor_cpus,
        "gpus": actor_gpus,
        "retries": retries,
        "strip_tiles": strip_tiles,
    }
    cluster = {name: value for name, value in wanted.items() if value is not None}
    if where == "ray":
        if part is not None:
            raise ConfigError("--part is for work without Ray, which shares the slides out by itself. Leave it out.")
        results = _over_a_cluster(run, slides, out, settings, cluster, as_json)
        _report(results, out, "summary.md", as_json)
        return
    if cluster:
        raise ConfigError(
            f"{', '.join(_OF_CLUSTER.get(name, f'--{name}') for name in cluster)}: only with --engine ray."
        )
    from patch2tissue.inference.slides.parts import Part

    chosen = None if part is None else Part.parse(part)
    results = predict_slides(run, slides, out, part=chosen, **settings)
    _report(results, out, "summary.md" if chosen is None else f"summary_{chosen.name}.md", as_json)


def _engines(engine: str, compute: str | None) -> tuple[str, str | None]:
    """Where the work runs, and what computes the network."""
    from patch2tissue.errors import ConfigError
    from patch2tissue.inference.engines.engine import ENGINES

    if engine in ("local", "ray"):
        if compute is not None and compute not in ENGINES:
            raise ConfigError(f"--compute is one of {', '.join(ENGINES)}; not '{compute}'.")
        return engine, compute
    if engine not in ENGINES:
        raise ConfigError(f"--engine is local or ray, or what computes: {', '.join(ENGINES)}; not '{engine}'.")
    if compute not in (None, engine):
        raise ConfigError(f"--engine {engine} and --compute {compute} contradict each other.")
    return "local", engine


def _over_a_cluster(
    run: Path, slides: list[str], out: Path, settings: dict[str, Any], cluster: dict[str, Any], as_json: bool
) -> list[SlideResult]:
    """Predict with Ray, and show the table."""
    from patch2tissue.inference.cohort.predict import predict_cohort
    from patch2tissue.inference.cohort.ray_cluster import ClusterOptions
    from patch2tissue.inference.cohort.summary import cohort_table
    from patch2tissue.progress import console

    found = predict_cohort(run, slides, out, cluster=ClusterOptions(**cluster), **settings)
    if not as_json:
        console.print(cohort_table(found))
    return [slide.result for slide in found]


def _report(results: list[SlideResult], out: Path, summary: str, as_json: bool) -> None:
    """Say what was done, and raise if something failed."""
    import json

    from patch2tissue.errors import DataError, Patch2TissueError
    from patch2tissue.progress import console

    failed = [result for result in results if result.status == "failed"]
    busy = [result for result in results if result.status == "busy"]
    if as_json:
        typer.echo(json.dumps([result.to_dict() for result in results]))
    else:
        done = len(results) - len(failed) - len(busy)
        console.print(
            f"{done} tissue map{'' if done == 1 else 's'} in [bold]{out}[/bold]; see {out / summary}", highlight=False
        )
        for result in busy:
            console.print(f"  {result.slide.name}: another process works on it", highlight=False)
    if failed:
        listed = "\n".join(f"  {result.error}" for result in failed)
        kind = Patch2TissueError if any(result.no_room for result in failed) else DataError
        raise kind(f"{len(failed)} of {len(results)} slides could not be predicted:\n{listed}")
