"""Predicting files: images in, palette masks, overlays and one table of areas out."""

from __future__ import annotations

import logging
import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np

from patch2tissue.atomic import atomic_path, remove_abandoned
from patch2tissue.data.images import pixel_count, read_facts, read_image, read_mask, write_mask
from patch2tissue.data.patches import stem_of
from patch2tissue.data.tables import write_table
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.areas import tissue_areas, write_areas
from patch2tissue.inference.confidence import LEVELS, write_confidence
from patch2tissue.inference.familiarity import Familiarity, unlike_training
from patch2tissue.inference.image_result import ImageResult
from patch2tissue.inference.overlay import overlay_picture
from patch2tissue.inference.png import write_png
from patch2tissue.inference.predictor import Prediction, Predictor
from patch2tissue.inference.selection import find_images, find_names, refuse_overwriting
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.progress import track
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

log = logging.getLogger(__name__)

__all__ = ["ImageResult", "find_images", "predict_images"]

_AHEAD = 16
"""Images read ahead of the network, and images whose results wait to be written."""

_AHEAD_PIXELS = 2**26
"""Most pixels that such images hold together; a larger image goes alone."""


def predict_images(
    run: RunFolder | Path | str,
    images: Sequence[Path | str],
    out: Path,
    *,
    network: str = "full_method",
    symmetries: bool | None = None,
    gate: float | None = None,
    device: str | None = None,
    engine: str | None = None,
    um_per_pixel: float | None = None,
    overlay: bool = True,
    confidence: bool = True,
    probabilities: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> list[ImageResult]:
    """Draw tissue maps of images of any size.

    Writes `NAME_mask.png` (palette), `NAME_confidence.png` (grey), `NAME_overlay.png`, `areas.csv`, and `images.csv`,
    which tells how sure the network is of each image and how much it looks like the training patches. An image that
    cannot be read is reported in its result and does not stop the others. Images that do not look like training patches
    are warned of.

    Args:
        run: run folder.
        images: files, folders or glob patterns.
        out: folder for the results.
        network: `full_method`, or the name of a comparison.
        symmetries: see `Predictor.from_run`; likewise gate, device and engine.
        gate: see `Predictor.from_run`.
        device: see `Predictor.from_run`.
        engine: see `Predictor.from_run`.
        um_per_pixel: resolution of the images in µm per pixel; None: that of the tissue set, if it has one.
        overlay: write overlays.
        confidence: write confidence pictures: uint8 [H, W], 255 times the probability of the pixel's tissue, 0 in
            background.
        probabilities: write `NAME_probabilities.npz` with `probabilities`, float16 [K, H, W].
        resume: keep masks that are there already.
        progress: show a bar.

    Returns:
        One result per image, in order.

    Raises:
        DataError: if the run or the selection of images is unusable, or a result would replace one of the images.
        ConfigError: if the device or the engine is not there, or the gate or the resolution makes no sense.
    """
    if um_per_pixel is not None and not (um_per_pixel > 0 and math.isfinite(um_per_pixel)):
        raise ConfigError(f"The resolution in µm per pixel is a number above 0, not {um_per_pixel}.")
    names = find_names(images)
    out = Path(out)
    refuse_overwriting(names, out)
    predictor = Predictor.from_run(run, network=network, symmetries=symmetries, gate=gate, device=device, engine=engine)
    tissues = predictor.tissues
    resolution = um_per_pixel or tissues.um_per_pixel
    check_resolution(um_per_pixel, tissues.um_per_pixel, "the images")
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror or error}.") from None
    refuse_to_write_through_links(out)
    remove_abandoned(out, below=False)
    results: dict[str, ImageResult] = {}

    def read(path: str) -> np.ndarray | ImageResult:
        try:
            finished = _finished(path, out, tissues, resolution, confidence=confidence) if resume else None
            return finished or read_image(Path(path))
        except DataError as error:
            return ImageResult(path, None, error=str(error))

    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        writes: deque[tuple[int, Future[ImageResult]]] = deque()
        # where the network takes all cores, threads that write beside it hold up each of its steps
        waiting = 0 if predictor.device.type == "cpu" else _AHEAD
        contents = _read_ahead(readers, names, read)
        shown = track(contents, "predicting", len(names)) if progress else contents
        for group in _groups(shown, predictor, results):
            predictions = predictor.predict_arrays([image for _, image in group])
            for (path, image), prediction in zip(group, predictions, strict=True):
                # what is not written shall not wait in memory
                kept = prediction if probabilities else replace(prediction, probabilities=np.empty(0, np.float32))
                job = writers.submit(
                    _write,
                    path,
                    image,
                    kept,
                    out,
                    tissues,
                    resolution,
                    overlay=overlay,
                    confidence=confidence,
                    probabilities=probabilities,
                )
                writes.append((prediction.mask.size, job))
            # what is written is let go of, so that a long list does not fill the memory
            while len(writes) > waiting or sum(pixels for pixels, _ in writes) > _AHEAD_PIXELS:
                done = writes.popleft()[1].result()
                results[done.place] = done
        results.update({result.place: result for result in (job.result() for _, job in writes)})
    ordered = [results.pop(name) for name in names]
    write_areas(out / "areas.csv", ((result.image.name, area) for result in ordered for area in result.areas))
    _write_images(out / "images.csv", ordered)
    each = (result.familiarity for result in ordered)
    known = np.fromiter((one for one in each if one is not None), np.dtype((np.float64, 2)))
    what = str(ordered[0].image) if len(ordered) == 1 else f"the {len(ordered)} images"
    for warning in unlike_training(known, what, tissues.um_per_pixel):
        log.warning(warning)
    return ordered


def check_resolution(images: float | None, training: float | None, what: str) -> None:
    """Refuse images of quite another resolution than that of the training patches, and warn where it differs.

    Args:
        images: µm per pixel that the images are said to have, None if unknown.
        training: of the training patches, likewise.
        what: what they are.

    Raises:
        ConfigError: if one is more than twice the other.
    """
    if images is None or training is None:
        return
    ratio = max(images / training, training / images)
    if ratio > _TOO_DIFFERENT:
        raise ConfigError(
            f"{what} are said to have {images:g} µm per pixel, but the network was trained at {training:g}, so that "
            f"its maps would mean nothing. Resize them to {training:g} µm per pixel, or correct --mpp."
        )
    if ratio > _DIFFERENT:
        log.warning(
            "%s are said to have %g µm per pixel, but the network was trained at %g; expect less, or resize them",
            what,
            images,
            training,
        )


_TOO_DIFFERENT, _DIFFERENT = 2.0, 1.1

IMAGE_COLUMNS = ("image", "confidence", "texture", "colour")


def _write_images(path: Path, results: Sequence[ImageResult]) -> None:
    """Write `images.csv`; cells stay empty where nothing is known."""

    def row(result: ImageResult) -> list[str]:
        values = (result.confidence, *(result.familiarity or (None, None)))
        return [result.image.name, *("" if value is None else f"{value:.4f}" for value in values)]

    write_table(path, IMAGE_COLUMNS, map(row, results))


def _finished(
    path: str, out: Path, tissues: TissueSet, resolution: float | None, *, confidence: bool
) -> ImageResult | None:
    """What an earlier call wrote for an image, None if it is not all there or is damaged."""
    stem = stem_of(Path(path).name)
    target = out / f"{stem}_mask.png"
    if confidence and not (out / f"{stem}_confidence.png").is_file():
        return None
    try:
        mask = read_mask(target, tissues) if target.is_file() else None
    except DataError:
        return None
    return None if mask is None else _result(path, target, mask, tissues, resolution, read_facts(target))


def _result(
    path: str, target: Path, mask: np.ndarray, tissues: TissueSet, resolution: float | None, facts: dict[str, float]
) -> ImageResult:
    known = "texture" in facts and "colour" in facts
    return ImageResult(
        path,
        target,
        tuple(tissue_areas(mask, tissues, resolution)),
        confidence=facts.get("confidence"),
        familiarity=Familiarity(facts["texture"], facts["colour"]) if known else None,
    )


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[str], read: Callable[[str], np.ndarray | ImageResult]
) -> Iterator[tuple[str, np.ndarray | ImageResult]]:
    """Read images in threads, a few ahead of the network and not more than fit into memory well."""

    def pixels(path: str) -> int:
        try:
            return pixel_count(Path(path))
        except DataError:
            return 0

    waiting = deque(files)
    queue: deque[tuple[str, int, Future[np.ndarray | ImageResult]]] = deque()
    while waiting or queue:
        held = sum(size for _, size, _ in queue)
        while waiting and len(queue) < _AHEAD:
            path = waiting[0]
            size = pixels(path)
            if queue and held + size > _AHEAD_PIXELS:
                break
            held += size
            waiting.popleft()
            queue.append((path, size, pool.submit(read, path)))
        path, _, job = queue.popleft()
        yield path, job.result()


def _groups(
    contents: Iterable[tuple[str, np.ndarray | ImageResult]], predictor: Predictor, results: dict[str, ImageResult]
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Group successive images of one size that the network takes in one pass; what needs none goes to `results`."""
    group: list[tuple[str, np.ndarray]] = []
    for path, image in contents:
        if isinstance(image, ImageResult):
            results[image.place] = image
            continue
        if group and (image.shape != group[0][1].shape or len(group) >= predictor.settings.batch_size):
            yield group
            group = []
        group.append((path, image))
        if not predictor.fits_whole(image):
            yield group
            group = []
    if group:
        yield group


def _write(
    path: str,
    image: np.ndarray,
    prediction: Prediction,
    out: Path,
    tissues: TissueSet,
    resolution: float | None,
    *,
    overlay: bool,
    confidence: bool,
    probabilities: bool,
) -> ImageResult:
    """Write the files of one image, the mask last: it marks the image as done."""
    stem = stem_of(Path(path).name)
    if overlay:
        write_png(out / f"{stem}_overlay.png", np.asarray(overlay_picture(image, prediction.mask, tissues)))
    if confidence:
        write_confidence(out / f"{stem}_confidence.png", prediction.confidence)
    if probabilities:
        with atomic_path(out / f"{stem}_probabilities.npz") as temporary:
            np.savez_compressed(temporary, probabilities=prediction.probabilities.astype(np.float16))
    target = out / f"{stem}_mask.png"
    facts: dict[str, float] = {}
    given = prediction.confidence[prediction.mask < len(tissues)]
    if given.size:
        facts["confidence"] = round(float(given.mean()) / LEVELS, 4)
    if prediction.familiarity is not None:
        facts |= {kind: round(rank, 4) for kind, rank in prediction.familiarity._asdict().items()}
    # kept in the mask, so that a call that goes on with killed work writes the same table
    write_mask(target, prediction.mask, tissues, facts)
    return _result(path, target, prediction.mask, tissues, resolution, facts)
