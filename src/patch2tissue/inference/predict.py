"""Predicting files: images in, palette masks, overlays and one table of areas out."""

from __future__ import annotations

import glob
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from patch2tissue.atomic import atomic_path
from patch2tissue.data.images import IMAGE_EXTENSIONS, read_image, read_mask, write_mask
from patch2tissue.data.layouts import image_files, image_folder
from patch2tissue.errors import DataError
from patch2tissue.inference.areas import TissueArea, tissue_areas, write_areas
from patch2tissue.inference.overlay import overlay_picture
from patch2tissue.inference.predictor import Prediction, Predictor
from patch2tissue.progress import track
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

_AHEAD = 8
"""Images read ahead of the network."""


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


def find_images(inputs: Sequence[Path | str]) -> list[Path]:
    """Expand files, folders (their images, not those of folders inside) and glob patterns; each image once.

    Raises:
        DataError: if an input matches nothing, or two images would be written under the same name.
    """
    found: list[Path] = []
    for item in inputs:
        path = Path(item)
        if path.is_dir():
            matches = image_files(image_folder(path))
            if not matches:
                raise DataError(f"{path}: holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
        elif path.exists():
            matches = [path]
        else:
            matches = sorted(
                Path(m) for m in glob.glob(str(item)) if Path(m).suffix.lower() in IMAGE_EXTENSIONS and Path(m).is_file()
            )
            if not matches:
                raise DataError(f"{item}: there is no such file or folder, and no image matches it as a pattern.")
        found.extend(matches)
    unique = list(dict.fromkeys(found))
    if not unique:
        raise DataError("No images were given.")
    names: dict[str, Path] = {}
    for path in unique:
        if path.stem in names:
            raise DataError(
                f"{path}: has the same name as {names[path.stem]}, so that one result would replace the other. Predict "
                "them into different folders."
            )
        names[path.stem] = path
    return unique


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
        DataError: if the run or the selection of images is unusable.
    """
    files = find_images(images)
    out = Path(out)
    predictor = Predictor.from_run(run, network=network, symmetries=symmetries, gate=gate, device=device)
    tissues = predictor.tissues
    resolution = um_per_pixel or tissues.um_per_pixel
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise DataError(f"{out}: cannot be made a folder: {error.strerror or error}.") from None
    results: dict[Path, ImageResult] = {}
    with ThreadPoolExecutor(2) as readers, ThreadPoolExecutor(2) as writers:
        writes: list[tuple[Path, Future[ImageResult]]] = []
        read = _read_ahead(readers, files, out, tissues, resume)
        for path, image in track(read, "predicting", len(files)) if progress else read:
            if isinstance(image, ImageResult):
                results[path] = image
                continue
            prediction = predictor.predict_array(image)
            job = writers.submit(
                _write, path, image, prediction, out, tissues, resolution, overlay=overlay, keep=probabilities
            )
            writes.append((path, job))
            # what is written is let go of, so that a long list does not fill the memory
            while len(writes) > _AHEAD:
                done, job = writes.pop(0)
                results[done] = job.result()
        for done, job in writes:
            results[done] = job.result()
    ordered = [_with_areas(results[path], tissues, resolution) for path in files]
    rows = [(result.image.name, area) for result in ordered for area in result.areas]
    write_areas(out / "areas.csv", rows)
    return ordered


def _with_areas(result: ImageResult, tissues: TissueSet, resolution: float | None) -> ImageResult:
    """Measure a mask that an earlier call wrote."""
    if result.mask is None or result.areas:
        return result
    areas = tissue_areas(read_mask(result.mask, tissues), tissues, resolution)
    return ImageResult(result.image, result.mask, tuple(areas))


def _read_ahead(
    pool: ThreadPoolExecutor, files: Sequence[Path], out: Path, tissues: TissueSet, resume: bool
) -> Iterator[tuple[Path, np.ndarray | ImageResult]]:
    """Read images in threads, a few ahead of the network."""

    def read(path: Path) -> np.ndarray | ImageResult:
        mask = out / f"{path.stem}_mask.png"
        if resume and mask.is_file():
            return ImageResult(path, mask)
        try:
            return read_image(path)
        except DataError as error:
            return ImageResult(path, None, error=str(error))

    waiting = iter(files)
    queue = [(path, pool.submit(read, path)) for path in islice(waiting, _AHEAD)]
    while queue:
        path, job = queue.pop(0)
        result = job.result()
        queue.extend((following, pool.submit(read, following)) for following in islice(waiting, 1))
        yield path, result


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
