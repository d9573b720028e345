"""Whole slides in, tissue maps out: one slide after the other, each resumable, side by side with other processes."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from patch2tissue.cores import release_memory
from patch2tissue.errors import Patch2TissueError
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.job import SlideJob, SlideOptions
from patch2tissue.inference.slides.mapping import MapFiles, map_slide
from patch2tissue.inference.slides.outputs import OutputOptions, save_picture
from patch2tissue.inference.slides.parts import Part
from patch2tissue.inference.slides.reading import default_workers, read_tiles
from patch2tissue.inference.slides.result import SlideResult, write_slide_areas, write_summary
from patch2tissue.inference.slides.state import SlideBusyError, SlideState, load_state, locked
from patch2tissue.inference.slides.steps import (
    check_room,
    clean_up,
    failure_of,
    familiarity_of,
    finish_slide,
    finished,
    raster_shapes,
    waiting_share,
)
from patch2tissue.progress import SlideProgress
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import SlideFile, find_slides, open_slide
from patch2tissue.slides.rows import RowFile
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.tissue_mask import TissueMask, contour_picture, tissue_mask_for
from patch2tissue.tissues import TissueSet

__all__ = ["SlideOptions", "predict_slide", "predict_slides"]

logger = logging.getLogger(__name__)


def predict_slide(
    run: RunFolder | Path | str,
    slide: Path | str,
    out: Path | str | None = None,
    *,
    um_per_pixel: float | None = None,
    options: SlideOptions | None = None,
    progress: bool = True,
    **settings: Any,
) -> SlideResult:
    """Draw the tissue map of one slide.

    Args:
        run: run folder.
        slide: the file.
        out: folder for the results; None: `slides` in the run folder.
        um_per_pixel: of the slide's full size; None: as the file tells.
        options: see `SlideOptions`.
        progress: show a bar.
        settings: `network`, `symmetries`, `gate`, `device`, as `predict_slides` takes them.

    Raises:
        DataError: if the slide or the run cannot be used.
        ConfigError: if a setting makes no sense.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    out = folder.path / "slides" if out is None else Path(out)
    job = _Local.of(folder, out, options or SlideOptions(), **settings)
    with SlideProgress(1, shown=progress) as bars:
        return job.process(SlideFile(Path(slide), um_per_pixel), bars)


def predict_slides(
    run: RunFolder | Path | str,
    slides: Sequence[Path | str],
    out: Path | str,
    *,
    um_per_pixel: float | None = None,
    options: SlideOptions | None = None,
    network: str = "full_method",
    symmetries: bool | None = None,
    gate: float | None = None,
    device: str | None = None,
    engine: str | None = None,
    part: Part | None = None,
    progress: bool = True,
) -> list[SlideResult]:
    """Draw the tissue maps of slides, one after the other.

    For each slide, `NAME_classes.tif`, `NAME_confidence.tif`, `NAME.geojson`, `NAME_areas.csv`, `NAME_areas.json`,
    `NAME_overlay.png` and `NAME_tissue.png`; of all of them `areas.csv` and `summary.md`. What a killed call had done
    of a slide is gone on with. A slide that cannot be read is told of in its result and does not stop the others; one
    that does not look like the training patches is warned of before it is predicted. Several processes may work on the
    same slides into the same folder: each slide is done by one of them.

    Args:
        run: run folder.
        slides: files, folders, glob patterns, or CSV lists with the columns wsi and mpp.
        out: folder for the results.
        um_per_pixel: of the slides' full size; None: as lists or files tell.
        options: see `SlideOptions`.
        network: `full_method`, or the name of a comparison.
        symmetries: see `Predictor.from_run`; likewise gate, device and engine.
        gate: see `Predictor.from_run`.
        device: see `Predictor.from_run`.
        engine: see `Predictor.from_run`.
        part: only these of the slides; the tables of all of them are then named after the part.
        progress: show bars.

    Returns:
        One result per slide, in order.

    Raises:
        DataError: if the run or the selection of slides cannot be used.
        ConfigError: if a setting makes no sense.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    files = find_slides(slides, um_per_pixel)
    of_part = "" if part is None else f"_{part.name}"
    files = files if part is None else part.of_slides(files)
    job = _Local.of(
        folder,
        Path(out),
        options or SlideOptions(),
        network=network,
        symmetries=symmetries,
        gate=gate,
        device=device,
        engine=engine,
    )
    results: dict[Path, SlideResult] = {}
    with SlideProgress(len(files), shown=progress) as bars:
        # those that others work on are asked for again at the end: by then they may be done, or given up
        for last_round in (False, True):
            for file in files:
                if file.path in results and results[file.path].status != "busy":
                    continue
                if last_round and file.path not in results:
                    continue
                results[file.path] = _guarded(job, file, bars)
    ordered = [results[file.path] for file in files]
    write_slide_areas(job.job.out / f"areas{of_part}.csv", ordered)
    write_summary(job.job.out / f"summary{of_part}.md", ordered, job.job.tissues.names)
    return ordered


def _guarded(local: _Local, file: SlideFile, bars: SlideProgress) -> SlideResult:
    """Process a slide; what is wrong with it becomes its result."""
    try:
        return local.process(file, bars)
    except SlideBusyError as error:
        return SlideResult(file.path, "busy", str(error))
    except (Patch2TissueError, OSError) as error:
        failed = failure_of(error, file.path, local.job.out)
        if failed is None:
            raise
        logger.error("%s", failed.error)
        return failed


@dataclass(frozen=True)
class _Local:
    """Predicts slides in this process."""

    predictor: Predictor
    job: SlideJob

    @classmethod
    def of(
        cls, run: RunFolder, out: Path, options: SlideOptions, *, network: str = "full_method", **choices: Any
    ) -> _Local:
        predictor = Predictor.from_run(run, network=network, **choices)
        return cls(predictor, SlideJob.of(run, predictor, out, options, network=network))

    def process(self, file: SlideFile, bars: SlideProgress) -> SlideResult:
        """Predict one slide, or go on with it, or return what is there already."""
        begin = time.perf_counter()
        with open_slide(file.path, file.um_per_pixel) as slide:
            view = ScaledSlide(slide, self.job.um_per_pixel)
            self.job.check_resolution(view)
            work = self.job.out / "work" / slide.name
            with locked(work):
                tissue = tissue_mask_for(slide, self.job.options.tissue)
                settings = self.job.settings_of(file, view, tissue)
                state = load_state(work / "state.json", settings) or SlideState(settings)
                done = finished(state)
                if done is not None:
                    bars.skip(slide.name)
                    return done
                try:
                    result = self._predict(file, view, tissue, work, state, bars)
                except (Patch2TissueError, OSError) as error:
                    state.status, state.error = "failed", str(error)
                    state.save(work / "state.json")
                    raise
                result = replace(result, seconds=time.perf_counter() - begin)
                state.status, state.error, state.result = "done", None, result.to_dict()
                state.save(work / "state.json")
                clean_up(work)
                return result

    def _predict(
        self,
        file: SlideFile,
        view: ScaledSlide,
        tissue: TissueMask,
        work: Path,
        state: SlideState,
        bars: SlideProgress,
    ) -> SlideResult:
        job, name = self.job, view.slide.name
        plan = job.plan(view, tissue)
        state.rows, state.status = len(plan.tops), "running"
        familiarity = familiarity_of(self.predictor, view, plan, job.um_per_pixel)
        files = _map_files(work, view.shape, job.tissues, state, job.options.outputs)
        save_picture(job.out / f"{name}_tissue.png", contour_picture(view.slide, tissue))
        state.save(work / "state.json")
        bars.begin(name, plan.tiles, plan.tiles_before(state.rows_done))

        def row_done(row: int) -> None:
            state.rows_done = row + 1
            state.save(work / "state.json")

        release_memory()  # of looking for tissue, before processes are forked that would take it along
        workers = default_workers() if job.options.workers is None else job.options.workers
        timing = map_slide(
            lambda start, stop: read_tiles(
                file.path, file.um_per_pixel, job.um_per_pixel, plan, start=start, stop=stop, workers=workers
            ),
            self.predictor.probabilities,
            plan,
            files,
            job.tissues,
            tissue,
            view.scale,
            batch_size=job.inference.batch_size,
            temperature=job.temperature,
            start_row=state.rows_done,
            row_done=row_done,
            progress=bars.advance_to,
        )

        def step(what: str) -> None:
            release_memory()  # what the step before needed, or its peak would stand on top
            bars.step(what)

        result = finish_slide(job, file.path, view, files, plan.tiles, familiarity, step)
        bars.end()
        share = waiting_share(timing.waiting, timing.working)
        return replace(result, map_seconds=timing.whole, waiting_share=share)


def _map_files(
    work: Path, shape: tuple[int, int], tissues: TissueSet, state: SlideState, outputs: OutputOptions
) -> MapFiles:
    """The rasters of a map; a state whose rasters are gone is set back to its beginning."""
    shapes = raster_shapes(*shape, len(tissues), outputs)
    for name, whole in shapes.items():
        path = work / name
        if not path.is_file() or path.stat().st_size != math.prod(whole):
            state.rows_done = 0
    if state.rows_done == 0:
        check_room(work, shapes.values())
    rasters = {name: RowFile(work / name, whole, create=True) for name, whole in shapes.items()}
    return MapFiles(work, rasters["classes.raw"], rasters.get("probabilities.raw"), rasters.get("confidence.raw"))
