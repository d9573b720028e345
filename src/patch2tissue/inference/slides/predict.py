"""Whole slides in, tissue maps out: one slide after the other, each resumable, side by side with other processes."""

from __future__ import annotations

import errno
import logging
import math
import shutil
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from patch2tissue.atomic import remove_abandoned
from patch2tissue.cores import release_memory
from patch2tissue.errors import DISK_FULL, ConfigError, DataError, Patch2TissueError, WriteError, remedy
from patch2tissue.inference.familiarity import Familiarity, unlike_training
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.mapping import MapFiles, Timing, map_slide
from patch2tissue.inference.slides.outputs import OutputOptions, save_picture, write_outputs
from patch2tissue.inference.slides.plan import TilePlan, plan_tiles
from patch2tissue.inference.slides.reading import default_workers, read_tiles
from patch2tissue.inference.slides.result import SlideResult, write_areas_json, write_slide_areas, write_summary
from patch2tissue.inference.slides.state import (
    SlideBusyError,
    SlideState,
    file_identity,
    load_state,
    locked,
)
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.progress import SlideProgress
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import SlideFile, find_slides, open_slide
from patch2tissue.slides.resolution import COARSEST, FINEST
from patch2tissue.slides.rows import RowFile
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.tissue_mask import TissueMask, contour_picture, tissue_mask_for
from patch2tissue.tissues import TissueSet
from patch2tissue.weights import weights_digest

logger = logging.getLogger(__name__)

VERSION = 1
"""Counts changes after which a map that was begun earlier is begun anew."""

_TOO_COARSE, _COARSE = 2.0, 1.1

_LOOKED_AT = 32


@dataclass(frozen=True)
class SlideOptions:
    """How slides are predicted.

    Attributes:
        um_per_pixel: resolution of the network's training in µm per pixel; None: that of the run's tissue set.
        tissue: `found`: tissue is looked for at 8 µm per pixel; `everywhere`: all of the slide goes through the
            network; or a mask file, or a folder with `NAME.png` or `NAME.geojson` for each slide.
        workers: processes that read tiles; None: as many as keep the network busy; 0: this process reads.
        outputs: what is written.
    """

    um_per_pixel: float | None = None
    tissue: str | Path = "found"
    workers: int | None = None
    outputs: OutputOptions = field(default_factory=OutputOptions)


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
    job = _Job.of(folder, out, options or SlideOptions(), **settings)
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
        progress: show bars.

    Returns:
        One result per slide, in order.

    Raises:
        DataError: if the run or the selection of slides cannot be used.
        ConfigError: if a setting makes no sense.
    """
    folder = run if isinstance(run, RunFolder) else RunFolder(Path(run))
    files = find_slides(slides, um_per_pixel)
    job = _Job.of(
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
    write_slide_areas(job.out / "areas.csv", ordered)
    write_summary(job.out / "summary.md", ordered, job.predictor.tissues.names)
    return ordered


def _guarded(job: _Job, file: SlideFile, bars: SlideProgress) -> SlideResult:
    """Process a slide; what is wrong with it becomes its result."""
    try:
        return job.process(file, bars)
    except SlideBusyError as error:
        return SlideResult(file.path, "busy", str(error))
    except (DataError, ConfigError) as error:
        logger.error("%s", error)
        return SlideResult(file.path, "failed", str(error))
    except WriteError as error:
        logger.error("%s", error)
        return SlideResult(file.path, "failed", str(error), no_room=error.full)
    except OSError as error:
        if error.strerror is None:
            raise
        logger.error("%s: %s", file.path, error.strerror)
        full = error.errno in DISK_FULL
        where = error.filename or (job.out if full else file.path)
        text = f"{where}: {error.strerror}. {remedy(error.errno) if full else ''}".rstrip()
        return SlideResult(file.path, "failed", text, no_room=full)


@dataclass(frozen=True)
class _Job:
    """What is the same for every slide."""

    predictor: Predictor
    out: Path
    options: SlideOptions
    um_per_pixel: float
    settings: dict[str, Any]

    @classmethod
    def of(
        cls, run: RunFolder, out: Path, options: SlideOptions, *, network: str = "full_method", **choices: Any
    ) -> _Job:
        predictor = Predictor.from_run(run, network=network, **choices)
        resolution = options.um_per_pixel or predictor.tissues.um_per_pixel
        if resolution is None:
            raise ConfigError(
                f"{run.config_file}: does not say at which resolution the network was trained. Pass --model-mpp with "
                "the µm per pixel of its training patches, or set um_per_pixel in the tissue set."
            )
        if not FINEST <= resolution <= COARSEST:
            raise ConfigError(
                f"The network's resolution in µm per pixel is from {FINEST} to {COARSEST:g}, not {resolution:g}."
            )
        if options.workers is not None and options.workers < 0:
            raise ConfigError(f"The number of reading processes is not negative, so not {options.workers}.")
        if options.outputs.simplify < 0:
            raise ConfigError(f"The tolerance of polygons is not negative, so not {options.outputs.simplify}.")
        try:
            out.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise DataError(f"{out}: cannot be made a folder: {error.strerror or error}.") from None
        refuse_to_write_through_links(out)
        remove_abandoned(out)
        weights = run.pfscnet if network == "full_method" else run.comparison(network)
        settings = {
            "version": VERSION,
            "weights": weights_digest(weights),
            "temperature": predictor.temperature,
            "tissues": predictor.tissues.to_dict(),
            "inference": predictor.settings.model_dump(),
            "precision": str(predictor.dtype),
            "um_per_pixel": resolution,
            "outputs": asdict(options.outputs),
        }
        return cls(predictor, out, options, resolution, settings)

    def process(self, file: SlideFile, bars: SlideProgress) -> SlideResult:
        """Predict one slide, or go on with it, or return what is there already."""
        begin = time.perf_counter()
        with open_slide(file.path, file.um_per_pixel) as slide:
            view = ScaledSlide(slide, self.um_per_pixel)
            self._check_resolution(view)
            work = self.out / "work" / slide.name
            with locked(work):
                tissue = tissue_mask_for(slide, self.options.tissue)
                settings = self.settings | {
                    "slide": file_identity(file.path),
                    "slide_um_per_pixel": view.um_per_pixel,
                    "tissue": [tissue.source, _mask_hash(tissue)],
                }
                state = load_state(work / "state.json", settings) or SlideState(settings)
                done = _finished(state)
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
                for raster in ("classes.raw", "probabilities.raw", "confidence.raw", "carry-0.raw", "carry-1.raw"):
                    (work / raster).unlink(missing_ok=True)
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
        tissues, name = self.predictor.tissues, view.slide.name
        inference = self.predictor.settings
        plan = plan_tiles(view.size, inference.tile, inference.overlap, tissue, view.scale)
        height, width = view.shape
        state.rows, state.status = len(plan.tops), "running"
        familiarity = self._familiarity(view, plan)
        files = _map_files(work, height, width, tissues, state, outputs=self.options.outputs)
        picture = self.out / f"{name}_tissue.png"
        save_picture(picture, contour_picture(view.slide, tissue))
        state.save(work / "state.json")
        bars.begin(name, plan.tiles, plan.tiles_before(state.rows_done))

        def row_done(row: int) -> None:
            state.rows_done = row + 1
            state.save(work / "state.json")

        release_memory()  # of looking for tissue, before processes are forked that would take it along
        workers = default_workers() if self.options.workers is None else self.options.workers
        timing = map_slide(
            lambda start: read_tiles(
                file.path, file.um_per_pixel, self.um_per_pixel, plan, start=start, workers=workers
            ),
            self.predictor.probabilities,
            plan,
            files,
            tissues,
            tissue,
            view.scale,
            batch_size=inference.batch_size,
            temperature=self.predictor.temperature,
            start_row=state.rows_done,
            row_done=row_done,
            progress=bars.advance_to,
        )

        def step(what: str) -> None:
            release_memory()  # what the step before needed, or its peak would stand on top
            bars.step(what)

        written, areas = write_outputs(name, self.out, files, view, tissues, self.options.outputs, step)
        written |= {
            "tissue": picture,
            "areas_csv": self.out / f"{name}_areas.csv",
            "areas_json": self.out / f"{name}_areas.json",
        }
        result = SlideResult(
            file.path,
            "done",
            files=written,
            areas=areas,
            size=view.size,
            um_per_pixel=view.um_per_pixel,
            tiles=plan.tiles,
            map_seconds=timing.whole,
            waiting_share=_waiting_share(timing),
            familiarity=familiarity,
        )
        write_slide_areas(written["areas_csv"], [result])
        write_areas_json(written["areas_json"], result)
        bars.end()
        return result

    def _familiarity(self, view: ScaledSlide, plan: TilePlan) -> Familiarity | None:
        """Whether the slide looks like the training patches, from windows in up to `_LOOKED_AT` of its tiles."""
        known = self.predictor.distribution
        if known is None or not plan.tiles:
            return None
        rows, columns = np.nonzero(plan.present)
        chosen = np.linspace(0, len(rows) - 1, min(len(rows), _LOOKED_AT)).astype(np.int64)
        height, width = (min(known.side, length) for length in plan.tile)
        windows = [
            view.read(
                plan.lefts[columns[place]] + (plan.tile[1] - width) // 2,
                plan.tops[rows[place]] + (plan.tile[0] - height) // 2,
                width,
                height,
            )
            for place in chosen
        ]
        found = self.predictor.familiarity(np.stack(windows))
        if found is not None:
            for warning in unlike_training([found], str(view.slide.path), self.um_per_pixel):
                logger.warning(warning)
        return found

    def _check_resolution(self, view: ScaledSlide) -> None:
        """Refuse or warn where the slide shows less than what the network was trained on."""
        assert view.slide.resolution is not None
        own = max(view.slide.resolution.x, view.slide.resolution.y)
        if own > _TOO_COARSE * self.um_per_pixel:
            raise DataError(
                f"{view.slide.path}: has {own:g} µm per pixel ({view.slide.resolution.source}), but the network was "
                f"trained at {self.um_per_pixel:g}. Scan it at a higher resolution, or train on patches of "
                "this one; if the figure is wrong, pass --mpp."
            )
        if own > _COARSE * self.um_per_pixel:
            logger.warning(
                "%s: has %g µm per pixel and is enlarged to the %g that the network was trained at; expect less.",
                view.slide.path,
                own,
                self.um_per_pixel,
            )


def _map_files(
    work: Path, height: int, width: int, tissues: TissueSet, state: SlideState, *, outputs: OutputOptions
) -> MapFiles:
    """The rasters of a map; a state whose rasters are gone is set back to its beginning."""
    shapes: dict[str, tuple[int, ...]] = {"classes.raw": (height, width)}
    if outputs.probabilities:
        shapes["probabilities.raw"] = (height, width, len(tissues))
    if outputs.confidence:
        shapes["confidence.raw"] = (height, width)
    needed = sum(math.prod(shape) for shape in shapes.values())
    for name, shape in shapes.items():
        path = work / name
        if not path.is_file() or path.stat().st_size != math.prod(shape):
            state.rows_done = 0
    free = shutil.disk_usage(work).free
    if state.rows_done == 0 and free < needed:
        needs = f"it has {free / 1e9:.1f} GB free, and the map needs {needed / 1e9:.1f} GB while it is made"
        raise WriteError(errno.ENOSPC, needs, str(work))
    rasters = {name: RowFile(work / name, shape, create=True) for name, shape in shapes.items()}
    return MapFiles(work, rasters["classes.raw"], rasters.get("probabilities.raw"), rasters.get("confidence.raw"))


def _finished(state: SlideState) -> SlideResult | None:
    """The result of a slide that is done and whose files are all there."""
    if state.status != "done":
        return None
    try:
        result = SlideResult.from_dict(state.result)
    except (KeyError, TypeError, ValueError):
        return None
    return result if all(path.is_file() for path in (result.files or {}).values()) else None


def _mask_hash(tissue: TissueMask) -> str:
    import hashlib

    return hashlib.sha256(np.packbits(tissue.mask).tobytes() + repr(tissue.mask.shape).encode()).hexdigest()


def _waiting_share(timing: Timing) -> float | None:
    both = timing.waiting + timing.working
    return timing.waiting / both if both > 0 else None
