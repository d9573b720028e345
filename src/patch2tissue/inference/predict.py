"""Predicting files: images in, palette masks, overlays and one table of areas out."""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from patch2tissue.atomic import atomic_path, remove_abandoned
from patch2tissue.data.images import image_size, read_image, read_mask, write_mask
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.inference.areas import TissueArea, tissue_areas, write_areas
from patch2tissue.inference.overlay import overlay_picture
from patch2tissue.inference.predictor import Prediction, Predictor
from patch2tissue.inference.selection import find_images, refuse_overwriting
from patch2tissue.links import refuse_to_write_through_links
from patch2tissue.progress import track
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

__all__ = ["ImageResult", "find_images", "predict_images"]

_AHEAD = 16
"""Images read ahead of the network, and images whose results wait to be written."""

_AHEAD_PIXELS = 2**26
"""Most pixels that such images hold together; a larger image goes alone."""


@dataclass(frozen=True)
class ImageResult:
    """What became of one image.

    Attributes:
        image: the file.
        mask: the written mask, None if it failed.
        areas: one per tissue.
        error: why it failed, None if it did not.
    """

    image: Path
    mask: Path | None
    areas: tuple[TissueArea, ...] = ()
    error: str | None = None


def predict_images(
    run: RunFolder | Path | str,
    images: Sequence[Path | str],
    out: Path,
    *,
    network: str = "full_method",
    symmetries: bool | None = None,
    gate: float | None = None,
    device: str | None = None,
    um_per_pixel: float | None = None,
    overlay: bool = True,
    probabilities: bool = False,
    resume: bool = False,
    progress: bool = True,
) -> list[ImageResult]:
    """Draw tissue maps of images of any size.

    Writes `NAME_mask.png` (palette), `NAME_overlay.png`, and `areas.csv`. An image that cannot be read is reported in
    its result and does not stop the others.

    Args:
        run: run folder.
        images: files, folders or glob patterns.
        out: folder for the results.
        network: `full_method`, or the name of a comparison.
        symmetries: see `Predictor.from_run`; likewise gate and device.
        gate: see `Predictor.from_run`.
        device: see `Predictor.from_run`.
        um_per_pixel: resolution of the images in µm per pixel; None: that of the tissue set, if it has one.
        overlay: write overlays.
        probabilities: write `NAME_probabilities.npz` with `probabilities`, float16 [K, H, W].
        resume: keep masks that are there already.
        progress: show a bar.

    Returns:
        One result per image, in order.

    Raises:
        DataError: if the run or the selection of images is unusable, or a result would replace one of the images.
        ConfigError: if the device is not there, or the gate or the resolution makes no sense.
    """
    if um_per_pixel is not None and not (um_per_pixel > 0 and math.isfinite(um_per_pixel)):
        raise ConfigError(f"The resolution in µm per pixel is a number above 0, not {um_per_pixel}.")
    files = find_images(images)
    out = Path(out)
    refuse_overwriting(files, out)
    predictor = Predictor.from_run(run, network=network, symmetries=symmetries, gate=gate, device=device)
    tissues = predictor.tissues
    resolution = um_per_pixel or tissues.um_per_pixel
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror or error}.") from None
    refuse_to_write_through_links(out)
    remove_abandoned(out, below=False)
    results: dict[Path, ImageResult] = {}

    def read(path: Path) -> np.ndarray | ImageResult:
        try:
            finished = _finished(path, out, tissues, resolution) if resume else None
            return finished or read_image(path)
        except DataError as error:
            return ImageResult(path, None, error=str(error))

    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        writes: deque[tuple[int, Future[ImageResult]]] = deque()
        contents = _read_ahead(readers, files, read)
        shown = track(contents, "predicting", len(files)) if progress else contents
        for group in _groups(shown, predictor, results):
            predictions = predictor.predict_arrays([image for _, image in group])
            for (path, image), prediction in zip(group, predictions, strict=True):
                kept = prediction if probabilities else Prediction(prediction.mask, np.empty(0, np.float32))
                job = writers.submit(
                    _write, path, image, kept, out, tissues, resolution, overlay=overlay, keep=probabilities
                )
                writes.append((prediction.mask.size, job))
            # what is written is let go of, so that a long list does not fill the memory
            while len(writes) > _AHEAD or sum(pixels for pixels, _ in writes) > _AHEAD_PIXELS:
                done = writes.popleft()[1].result()
                results[done.image] = done
        results.update({result.image: result for result in (job.result() for _, job in writes)})
    ordered = [results[path] for path in files]
    write_areas(out / "areas.csv", [(result.image.name, area) for result in ordered for area in result.areas])
    return ordered


def _finished(path: Path, out: Path, tissues: TissueSet, resolution: float | None) -> ImageResult | None:
    """What an earlier call wrote for an image, None if there is nothing or it is damaged."""
    target = out / f"{path.stem}_mask.png"
    try:
        mask = read_mask(target, tissues) if target.is_file() else None
    except DataError:
        return None
    return None if mask is None else ImageResult(path, target, tuple(tissue_areas(mask, tissues, resolution)))


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[Path], read: Callable[[Path], np.ndarray | ImageResult]
) -> Iterator[tuple[Path, np.ndarray | ImageResult]]:
    """Read images in threads, a few ahead of the network and not more than fit into memory well."""

    def pixels(path: Path) -> int:
        try:
            return math.prod(image_size(path))
        except DataError:
            return 0

    waiting = deque(files)
    queue: deque[tuple[Path, int, Future[np.ndarray | ImageResult]]] = deque()
    while waiting or queue:
        held = sum(size for _, size, _ in queue)
        while waiting and len(queue) < _AHEAD:
            size = pixels(waiting[0])
            if queue and held + size > _AHEAD_PIXELS:
                break
            held += size
            queue.append((waiting[0], size, pool.submit(read, waiting.popleft())))
        path, _, job = queue.popleft()
        yield path, job.result()


def _groups(
    contents: Iterable[tuple[Path, np.ndarray | ImageResult]], predictor: Predictor, results: dict[Path, ImageResult]
) -> Iterator[list[tuple[Path, np.ndarray]]]:
    """Group successive images of one size that the network takes in one pass; what needs none goes to `results`."""
    group: list[tuple[Path, np.ndarray]] = []
    for path, image in contents:
        if isinstance(image, ImageResult):
            results[path] = image
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
    path: Path,
    image: np.ndarray,
    prediction: Prediction,
    out: Path,
    tissues: TissueSet,
    resolution: float | None,
    *,
    overlay: bool,
    keep: bool,
) -> ImageResult:
    """Write the files of one image, the mask last: it marks the image as done."""
    if overlay:
        with atomic_path(out / f"{path.stem}_overlay.png") as temporary:
            overlay_picture(image, prediction.mask, tissues).save(temporary, format="PNG")
    if keep:
        with atomic_path(out / f"{path.stem}_probabilities.npz") as temporary:
            np.savez_compressed(temporary, probabilities=prediction.probabilities.astype(np.float16))
    target = out / f"{path.stem}_mask.png"
    write_mask(target, prediction.mask, tissues)
    return ImageResult(path, target, tuple(tissue_areas(prediction.mask, tissues, resolution)))
