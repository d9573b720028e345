"""Steps of predicting a slide that one process and the actors of a cluster take alike."""

from __future__ import annotations

import errno
import logging
import math
import shutil
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from patch2tissue.errors import DISK_FULL, ConfigError, DataError, WriteError, remedy
from patch2tissue.inference.familiarity import Familiarity, unlike_training
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.slides.job import SlideJob
from patch2tissue.inference.slides.outputs import DrawnMap, OutputOptions, Step, write_outputs
from patch2tissue.inference.slides.plan import TilePlan
from patch2tissue.inference.slides.result import SlideResult, write_areas_json, write_slide_areas
from patch2tissue.inference.slides.state import SlideState
from patch2tissue.slides.scaled import ScaledSlide

logger = logging.getLogger(__name__)

_LOOKED_AT = 32


def familiarity_of(predictor: Predictor, view: ScaledSlide, plan: TilePlan, um_per_pixel: float) -> Familiarity | None:
    """Whether a slide looks like the training patches, from windows in up to 32 of its tiles; warns if it does not.

    Args:
        predictor: knows the training patches.
        view: the slide at the network's resolution.
        plan: its tiles.
        um_per_pixel: resolution of the training, for the warning.

    Returns:
        None if nothing is known of the patches, or there is no tissue.
    """
    known = predictor.distribution
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
    found = predictor.familiarity(np.stack(windows))
    if found is not None:
        for warning in unlike_training([found], str(view.slide.path), um_per_pixel):
            logger.warning(warning)
    return found


def raster_shapes(height: int, width: int, tissues: int, outputs: OutputOptions) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the rasters that rows of a map are kept in while it is made."""
    shapes: dict[str, tuple[int, ...]] = {"classes.raw": (height, width)}
    if outputs.probabilities:
        shapes["probabilities.raw"] = (height, width, tissues)
    if outputs.confidence:
        shapes["confidence.raw"] = (height, width)
    return shapes


def check_room(work: Path, shapes: Iterable[tuple[int, ...]]) -> None:
    """See that rasters will find room.

    Raises:
        WriteError: if the disk has too little.
    """
    needed = sum(math.prod(shape) for shape in shapes)
    free = shutil.disk_usage(work).free
    if free < needed:
        needs = f"it has {free / 1e9:.1f} GB free, and the map needs {needed / 1e9:.1f} GB while it is made"
        raise WriteError(errno.ENOSPC, needs, str(work))


def finish_slide(
    job: SlideJob,
    path: Path,
    view: ScaledSlide,
    drawn: DrawnMap,
    tiles: int,
    familiarity: Familiarity | None,
    step: Step,
) -> SlideResult:
    """Write everything that is wanted of a map that is drawn.

    Args:
        job: what is the same for every slide.
        path: the slide.
        view: the slide at the network's resolution.
        drawn: its map.
        tiles: that went through the network.
        familiarity: see `familiarity_of`.
        step: called with what is being done.

    Returns:
        The result but for times.
    """
    name = view.slide.name
    written, areas = write_outputs(name, job.out, drawn, view, job.tissues, job.options.outputs, step)
    written |= {
        "tissue": job.out / f"{name}_tissue.png",
        "areas_csv": job.out / f"{name}_areas.csv",
        "areas_json": job.out / f"{name}_areas.json",
    }
    result = SlideResult(
        path,
        "done",
        files=written,
        areas=areas,
        size=view.size,
        um_per_pixel=view.um_per_pixel,
        tiles=tiles,
        familiarity=familiarity,
    )
    write_slide_areas(written["areas_csv"], [result])
    write_areas_json(written["areas_json"], result)
    return result


def finished(state: SlideState) -> SlideResult | None:
    """The result of a slide that is done and whose files are all there."""
    if state.status != "done":
        return None
    try:
        result = SlideResult.from_dict(state.result)
    except (KeyError, TypeError, ValueError):
        return None
    return result if all(path.is_file() for path in (result.files or {}).values()) else None


def clean_up(work: Path) -> None:
    """Remove what is not needed of a slide that is done, also what another engine had begun.

    Args:
        work: the slide's folder.
    """
    for raster in work.glob("*.raw"):
        raster.unlink(missing_ok=True)
    for strips in work.glob("strips-*"):
        shutil.rmtree(strips, ignore_errors=True)


def failure_of(error: Exception, slide: Path, out: Path) -> SlideResult | None:
    """The result of a slide with which something is wrong that does not concern the others.

    Args:
        error: what its prediction ended with.
        slide: the file.
        out: folder for the results.

    Returns:
        None if the error is no such thing.
    """
    if isinstance(error, DataError | ConfigError):
        return SlideResult(slide, "failed", str(error))
    if isinstance(error, WriteError):
        return SlideResult(slide, "failed", str(error), no_room=error.full)
    if isinstance(error, OSError) and error.strerror is not None:
        full = error.errno in DISK_FULL
        where = error.filename or (out if full else slide)
        text = f"{where}: {error.strerror}. {remedy(error.errno) if full else ''}".rstrip()
        return SlideResult(slide, "failed", text, no_room=full)
    return None


def waiting_share(waiting: float, working: float) -> float | None:
    """Share of the network's time in which it waited for pixels; None if it never ran."""
    return waiting / (waiting + working) if waiting + working > 0 else None
