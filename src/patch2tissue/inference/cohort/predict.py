"""A cohort of slides in, tissue maps out, over a Ray cluster."""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from patch2tissue.atomic import temporary_prefix
from patch2tissue.inference.cohort.driver import Driver
from patch2tissue.inference.cohort.progress import CohortProgress
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions, Layout, lay_out, opened
from patch2tissue.inference.cohort.summary import CohortSlide, write_cohort
from patch2tissue.inference.cohort.worker import WorkerSettings
from patch2tissue.inference.slides.job import SlideOptions, make_results_folder
from patch2tissue.inference.slides.result import write_slide_areas, write_summary
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import find_slides


def predict_cohort(
    run: RunFolder | Path | str,
    slides: Sequence[Path | str],
    out: Path | str,
    *,
    um_per_pixel: float | None = None,
    options: SlideOptions | None = None,
    cluster: ClusterOptions | None = None,
    network: str = "full_method",
    symmetries: bool | None = None,
    gate: float | None = None,
    device: str | None = None,
    engine: str | None = None,
    progress: bool = True,
) -> list[CohortSlide]:
    """Draw the tissue maps of many slides over a Ray cluster.

    Writes what `predict_slides` writes, to the byte where the processors are of one kind and compute with as many
    threads, and `cohort.csv`: a row per slide with tissue area, seconds of work, workers and retries. Slides that are
    done already, by whichever engine, are passed over; of a call that was ended, strips that are drawn are taken over.
    The run, the slides and `out` must be on disks that all machines see under the same path.

    Args:
        run: run folder.
        slides: files, folders, glob patterns, or CSV lists with the columns wsi and mpp.
        out: folder for the results.
        um_per_pixel: of the slides' full size; None: as lists or files tell.
        options: see `SlideOptions`; `workers` is the processes that read for each actor, None: half its cores.
        cluster: see `ClusterOptions`.
        network: `full_method`, or the name of a comparison.
        symmetries: see `Predictor.from_run`; likewise gate, device and engine.
        gate: see `Predictor.from_run`.
        device: see `Predictor.from_run`.
        engine: see `Predictor.from_run`.
        progress: show a bar.

    Returns:
        One result per slide, in order.

    Raises:
        DataError: if the run or the selection of slides cannot be used.
        ConfigError: if a setting makes no sense, Ray is not installed or the cluster cannot be joined.
        Patch2TissueError: if no worker can be had.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    options, cluster, results = options or SlideOptions(), cluster or ClusterOptions(), Path(out).absolute()
    cluster.check()
    tissues = folder.config().tissue_set()
    files = find_slides(slides, um_per_pixel)
    make_results_folder(results)
    (results / "work").mkdir(exist_ok=True)
    token = results / "work" / f"{temporary_prefix(Path('driver'))}{uuid.uuid4().hex[:8]}"
    token.touch()
    try:
        with opened(cluster) as ray, CohortProgress(len(files), shown=progress) as bars:
            layout = lay_out(cluster, ray.machines(), device)
            settings = WorkerSettings(
                folder.path.absolute(),
                results,
                token,
                replace(options, tissue=_everywhere(options.tissue)),
                network,
                {"symmetries": symmetries, "gate": gate, "device": device, "engine": engine},
                threads=layout.cpus,
                readers=_readers(layout) if options.workers is None else options.workers,
                strip_tiles=cluster.strip_tiles,
            )
            there = [replace(file, path=file.path.absolute()) for file in files]
            found = Driver(ray, layout, cluster, settings, there, bars).run()
    finally:
        token.unlink(missing_ok=True)
    named = [
        replace(slide, result=replace(slide.result, slide=file.path)) for slide, file in zip(found, files, strict=True)
    ]
    of_slides = [slide.result for slide in named]
    write_slide_areas(results / "areas.csv", of_slides)
    write_summary(results / "summary.md", of_slides, tissues.names)
    write_cohort(results / "cohort.csv", named)
    return named


def _everywhere(tissue: str | Path) -> str | Path:
    """The choice of tissue with a path that holds on all machines."""
    return tissue if tissue in ("found", "everywhere") else Path(tissue).absolute()


def _readers(layout: Layout) -> int:
    """Processes that read ahead for an actor: half its cores, four at the most."""
    return min(4, layout.cpus // 2)
