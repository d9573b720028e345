"""What is done of a slide on the machines of a cluster: it is prepared, its strips are drawn, its files are made.

Machines talk through the folder of results, which they share. Each of these steps may be cut short and done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock, Timeout

from patch2tissue.atomic import atomic_path, write_text
from patch2tissue.cores import release_memory
from patch2tissue.errors import Patch2TissueError
from patch2tissue.inference.cohort.strips import STRIP_TILES, Strip, draw_strip, is_drawn, join_strips, split
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.job import SlideJob
from patch2tissue.inference.slides.outputs import save_picture
from patch2tissue.inference.slides.plan import TilePlan
from patch2tissue.inference.slides.reading import read_tiles
from patch2tissue.inference.slides.result import SlideResult
from patch2tissue.inference.slides.state import SlideState, load_state
from patch2tissue.inference.slides.steps import (
    check_room,
    clean_up,
    familiarity_of,
    finish_slide,
    finished,
    raster_shapes,
    waiting_share,
)
from patch2tissue.plain_files import read_arrays, read_json
from patch2tissue.slides.opening import SlideFile, open_slide
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.tissue_mask import TissueMask, contour_picture, tissue_mask_for

RECORD = "cohort.json"
"""File in a slide's folder that tells how it was worked on."""

_SEEN_AFTER = 60.0
"""Seconds after which a common disk shows what another machine wrote, at the latest."""


@dataclass(frozen=True)
class WorkRecord:
    """How a slide was worked on.

    Attributes:
        strips: strips it was split into.
        workers: who worked on it, as `machine:process`.
        retries: steps that were done again.
        seconds: of all steps that led to the result, added up over the workers.
    """

    strips: int
    workers: tuple[str, ...]
    retries: int
    seconds: float


@dataclass(frozen=True)
class PreparedSlide:
    """A slide that is ready to be drawn.

    Attributes:
        name: of its files.
        settings: everything its map depends on.
        plan: its tiles.
        scale: (sx, sy), level-0 pixels per map pixel.
        folder: of its strips; its name tells the settings, so that strips of others are never taken.
        strips: from top to bottom.
        drawn: whether each is on disk.
        seconds: that this took.
    """

    name: str
    settings: dict[str, Any]
    plan: TilePlan
    scale: tuple[float, float]
    folder: Path
    strips: tuple[Strip, ...]
    drawn: tuple[bool, ...]
    seconds: float


@dataclass(frozen=True)
class DoneSlide:
    """A slide that is done.

    Attributes:
        result: what came out.
        record: how it was worked on; None if another engine did it.
        earlier: whether an earlier call did it.
    """

    result: SlideResult
    record: WorkRecord | None
    earlier: bool = False


def this_worker() -> str:
    """`machine:process`."""
    return f"{socket.gethostname()}:{os.getpid()}"


def prepare(job: SlideJob, file: SlideFile, strip_tiles: int = STRIP_TILES) -> PreparedSlide | DoneSlide:
    """Look for a slide's tissue and split it into strips, or return what an earlier call made of it.

    Args:
        job: what is the same for every slide.
        file: the slide.
        strip_tiles: see `split`.

    Raises:
        DataError: if the slide cannot be used.
        WriteError: if the disk is full.
    """
    begin = time.perf_counter()
    with open_slide(file.path, file.um_per_pixel) as slide:
        view = ScaledSlide(slide, job.um_per_pixel)
        job.check_resolution(view)
        work = job.out / "work" / slide.name
        work.mkdir(parents=True, exist_ok=True)
        tissue = tissue_mask_for(slide, job.options.tissue)
        settings = job.settings_of(file, view, tissue)
        done = finished(load_state(work / "state.json", settings) or SlideState(settings))
        if done is not None:
            return DoneSlide(done, _read_record(work / RECORD), earlier=True)
        plan = job.plan(view, tissue)
        folder = work / f"strips-{_digest(settings)}"
        strips = split(plan, strip_tiles)
        drawn = tuple(is_drawn(folder, strip) for strip in strips)
        for other in work.glob("strips-*"):
            if other != folder:
                shutil.rmtree(other, ignore_errors=True)
        folder.mkdir(exist_ok=True)
        if not any(drawn):
            check_room(folder, raster_shapes(*view.shape, len(job.tissues), job.options.outputs).values())
        _save_tissue(folder / "tissue.npz", tissue)
        save_picture(job.out / f"{slide.name}_tissue.png", contour_picture(slide, tissue))
        SlideState(settings, rows=len(plan.tops)).save(work / "state.json")
        scale = view.scale
    release_memory()
    seconds = time.perf_counter() - begin
    return PreparedSlide(slide.name, settings, plan, scale, folder, tuple(strips), drawn, seconds)


def draw(
    job: SlideJob,
    predictor: Predictor,
    file: SlideFile,
    slide: PreparedSlide,
    number: int,
    *,
    attempts: int = 1,
    readers: int = 0,
) -> None:
    """Draw a strip of a slide; with the first one it is told whether the slide looks like the training patches.

    Args:
        job: what is the same for every slide.
        predictor: draws.
        file: the slide.
        slide: the same, prepared.
        number: index of the strip.
        attempts: how often it was begun, this time included.
        readers: processes that read ahead.

    Raises:
        DataError: if the slide is damaged.
        WriteError: if the disk is full.
    """
    strip, plan = slide.strips[number], slide.plan
    tissue = _load_tissue(slide.folder / "tissue.npz")
    familiarity = None
    if number == 0:
        with open_slide(file.path, file.um_per_pixel) as opened:
            view = ScaledSlide(opened, job.um_per_pixel)
            familiarity = familiarity_of(predictor, view, plan, job.um_per_pixel)
    draw_strip(
        strip,
        slide.folder,
        raster_shapes(plan.height, plan.width, len(job.tissues), job.options.outputs),
        lambda start, stop: read_tiles(
            file.path, file.um_per_pixel, job.um_per_pixel, plan, start=start, stop=stop, workers=readers
        ),
        predictor.probabilities,
        plan,
        job.tissues,
        tissue,
        slide.scale,
        batch_size=job.inference.batch_size,
        temperature=job.temperature,
        worker=this_worker(),
        attempts=attempts,
        familiarity=familiarity,
    )
    release_memory()


def finish(job: SlideJob, file: SlideFile, slide: PreparedSlide, *, retries: int = 0) -> DoneSlide:
    """Join a slide's strips and write everything that is made of its map.

    Args:
        job: what is the same for every slide.
        file: the slide.
        slide: the same, prepared; all its strips are drawn.
        retries: how often preparing and finishing it were begun again.

    Raises:
        DataError: if the slide is damaged.
        WriteError: if the disk is full.
        Patch2TissueError: if strips are not there, or another process finishes the slide.
    """
    begin = time.perf_counter()
    work = slide.folder.parent
    try:
        # a worker that was given up may not know it yet
        with FileLock(work / "finishing-lock", timeout=_SEEN_AFTER):
            state = load_state(work / "state.json", slide.settings) or SlideState(slide.settings)
            done = finished(state)
            if done is None:
                done = _finish(job, file, slide, state, retries, begin)
            clean_up(work)
            return DoneSlide(done, _read_record(work / RECORD))
    except Timeout:
        raise Patch2TissueError(f"{slide.name}: another process writes the files of this slide.") from None


def _finish(
    job: SlideJob, file: SlideFile, slide: PreparedSlide, state: SlideState, retries: int, begin: float
) -> SlideResult:
    work, plan = slide.folder.parent, slide.plan
    _wait_for(slide)
    shapes = raster_shapes(plan.height, plan.width, len(job.tissues), job.options.outputs)
    joined, records = join_strips(slide.folder, slide.strips, plan, shapes)
    with open_slide(file.path, file.um_per_pixel) as opened:
        view = ScaledSlide(opened, job.um_per_pixel)
        result = finish_slide(
            job, file.path, view, joined, plan.tiles, records[0].familiarity, lambda what: release_memory()
        )
    release_memory()
    drawing = sum(record.seconds for record in records)
    workers = sorted({record.worker for record in records} | {this_worker()})
    again = retries + sum(record.attempts - 1 for record in records)
    record = WorkRecord(len(records), tuple(workers), again, slide.seconds + drawing + time.perf_counter() - begin)
    share = waiting_share(sum(one.waiting for one in records), sum(one.working for one in records))
    result = replace(result, seconds=record.seconds, map_seconds=drawing, waiting_share=share)
    write_text(work / RECORD, json.dumps(asdict(record), indent=2) + "\n")
    state.status, state.error, state.rows, state.result = "done", None, len(plan.tops), result.to_dict()
    state.save(work / "state.json")
    return result


def _wait_for(slide: PreparedSlide) -> None:
    """Wait until this machine sees all strips, which others may have written just now."""
    until = time.monotonic() + _SEEN_AFTER
    while missing := [strip for strip in slide.strips if not is_drawn(slide.folder, strip)]:
        if time.monotonic() > until:
            raise Patch2TissueError(
                f"{slide.folder / missing[0].name}: is not there, though it was drawn. Put the folder of results on a "
                "disk that all machines share, then run the same command again."
            )
        time.sleep(0.5)


def _digest(settings: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()[:16]


def _save_tissue(path: Path, tissue: TissueMask) -> None:
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez_compressed(
            file, mask=tissue.mask, scale=np.array(tissue.scale, np.float64), source=np.array(tissue.source)
        )


def _load_tissue(path: Path) -> TissueMask:
    found = read_arrays(path, ["mask", "scale", "source"], "Run the same command again.")
    sx, sy = found["scale"].tolist()
    return TissueMask(found["mask"], (sx, sy), str(found["source"]))


def _read_record(path: Path) -> WorkRecord | None:
    try:
        plain = read_json(path)
        return WorkRecord(**{**plain, "workers": tuple(plain["workers"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
