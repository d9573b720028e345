"""Which images a command means: files, folders and patterns, each image once, no result on top of another file."""

from __future__ import annotations

import glob
import os
import os.path
from collections.abc import Sequence
from pathlib import Path

from patch2tissue.data.images import IMAGE_EXTENSIONS
from patch2tissue.data.layouts import image_files, image_folder, refuse_bad_name
from patch2tissue.errors import DataError

RESULTS = ("_mask.png", "_confidence.png", "_overlay.png", "_probabilities.npz")
"""Endings of the files that a prediction writes."""


def find_images(inputs: Sequence[Path | str]) -> list[Path]:
    """Expand files, folders (their images, not those of folders inside) and glob patterns; each image once.

    An input that exists is never read as a pattern, so that names with a label such as `[1 0 0 1]` work.

    Raises:
        DataError: if an input matches nothing, or two images would be written under the same name.
    """
    unique: list[Path] = []
    places: set[tuple[str, str]] = set()
    real: dict[str, str] = {}
    for path in (path for item in inputs for path in _expand(item)):
        place = _place(path, real)
        if place not in places:
            places.add(place)
            unique.append(path)
    if not unique:
        raise DataError("No images were given. Name files, folders or quoted patterns such as 'slides/*.tif'.")
    names: dict[str, Path] = {}
    for path in unique:
        if path.stem in names:
            raise DataError(
                f"{path}: has the same name as {names[path.stem]}, so that one result would replace the other. Predict "
                "them into different folders."
            )
        names[path.stem] = path
    return unique


def _place(path: Path, real: dict[str, str]) -> tuple[str, str]:
    """Folder and name of a file, without following a link that it is itself: links are images, too.

    Args:
        path: the file.
        real: folders by the names they go by, where known; each is looked up once.
    """
    folder, name = os.path.split(path)
    if folder not in real:
        real[folder] = os.path.realpath(folder)
    return real[folder], name


def _expand(item: Path | str) -> list[Path]:
    path = Path(item)
    if path.is_dir():
        matches = image_files(image_folder(path))
        if not matches:
            raise DataError(f"{path}: holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
        return matches
    if path.exists():
        refuse_bad_name(path)
        return [path]
    # not Path.glob, which takes no absolute pattern
    candidates = map(Path, glob.glob(str(item)))  # noqa: PTH207
    matches = sorted(match for match in candidates if match.suffix.lower() in IMAGE_EXTENSIONS and match.is_file())
    if not matches:
        raise DataError(f"{item}: there is no such file or folder, and no image matches it as a pattern.")
    return matches


def refuse_overwriting(files: Sequence[Path], out: Path) -> None:
    """Make sure that no result replaces one of the images themselves, such as a `NAME_mask.png` drawn by hand.

    Raises:
        DataError: if one would.
    """
    real: dict[str, str] = {}
    folder = os.path.realpath(out)
    # only an image that lies in the folder for the results can be replaced
    within = {name for place, name in (_place(path, real) for path in files) if place == folder}
    if not within:
        return
    for path in files:
        for ending in RESULTS:
            if f"{path.stem}{ending}" in within:
                raise DataError(
                    f"{out / f'{path.stem}{ending}'}: is among the images, and the result of {path.name} would replace "
                    "it. Choose another folder for the results."
                )
