"""Which images a command means: files, folders and patterns, each image once, no result on top of another file."""

from __future__ import annotations

import glob
import os
import os.path
from collections.abc import Iterable, Sequence
from pathlib import Path

from patch2tissue.data.images import IMAGE_EXTENSIONS
from patch2tissue.data.layouts import image_folder, image_names, refuse_bad_name
from patch2tissue.data.patches import stem_of
from patch2tissue.errors import DataError

RESULTS = ("_mask.png", "_confidence.png", "_overlay.png", "_probabilities.npz")
"""Endings of the files that a prediction writes."""


def find_images(inputs: Sequence[Path | str]) -> list[Path]:
    """Expand files, folders (their images, not those of folders inside) and glob patterns; each image once.

    An input that exists is never read as a pattern, so that names with a label such as `[1 0 0 1]` work.

    Raises:
        DataError: if an input matches nothing, or two images would be written under the same name.
    """
    return list(map(Path, find_names(inputs)))


def find_names(inputs: Sequence[Path | str]) -> list[str]:
    """As `find_images`, as texts: a list of a hundred thousand Paths takes several times as much memory."""
    names: dict[str, str] = {}
    real: dict[str, str] = {}
    for path in (path for item in inputs for path in _expand(item)):
        known = names.setdefault(stem_of(os.path.split(path)[1]), path)
        if known is not path and _place(known, real) != _place(path, real):
            raise DataError(
                f"{path}: has the same name as {known}, so that one result would replace the other. Predict them into "
                "different folders."
            )
    if not names:
        raise DataError("No images were given. Name files, folders or quoted patterns such as 'slides/*.tif'.")
    return list(names.values())


def _place(path: str, real: dict[str, str]) -> tuple[str, str]:
    """Folder and name of a file, without following a link that it is itself: links are images, too.

    Args:
        path: the file.
        real: folders by the names they go by, where known; each is looked up once.
    """
    folder, name = os.path.split(path)
    if folder not in real:
        real[folder] = os.path.realpath(folder)
    return real[folder], name


def _expand(item: Path | str) -> Iterable[str]:
    path = Path(item)
    if path.is_dir():
        folder = image_folder(path)
        matches = image_names(folder)
        if not matches:
            raise DataError(f"{path}: holds no images ({', '.join(sorted(IMAGE_EXTENSIONS))}).")
        within = "" if str(folder) == "." else str(folder)
        return (os.path.join(within, name) for name in matches)  # noqa: PTH118
    if path.exists():
        refuse_bad_name(path)
        return [str(path)]
    # not Path.glob, which takes no absolute pattern
    candidates = map(Path, glob.glob(str(item)))  # noqa: PTH207
    found = sorted(match for match in candidates if match.suffix.lower() in IMAGE_EXTENSIONS and match.is_file())
    if not found:
        raise DataError(f"{item}: there is no such file or folder, and no image matches it as a pattern.")
    return map(str, found)


def refuse_overwriting(files: Sequence[str], out: Path) -> None:
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
        name = os.path.split(path)[1]
        for ending in RESULTS:
            target = f"{stem_of(name)}{ending}"
            if target in within:
                raise DataError(
                    f"{out / target}: is among the images, and the result of {name} would replace it. Choose another "
                    "folder for the results."
                )
