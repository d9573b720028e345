"""Which images a command means: files, folders and patterns, each image once, no result on top of another file."""

from __future__ import annotations

import glob
from collections.abc import Iterable, Sequence
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
    found = [path for item in inputs for path in _expand(item)]
    by_place: dict[Path, Path] = {}
    for path in found:
        by_place.setdefault(_place(path), path)
    unique = list(by_place.values())
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


def _place(path: Path) -> Path:
    """Where a file lies, without following a link that it is itself: links with names of their own are images, too."""
    return path.parent.resolve() / path.name


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


def refuse_overwriting(files: Iterable[Path], out: Path) -> None:
    """Make sure that no result replaces one of the images themselves, such as a `NAME_mask.png` drawn by hand.

    Raises:
        DataError: if one would.
    """
    inputs = {_place(path): path for path in files}
    for path in inputs.values():
        for ending in RESULTS:
            target = out / f"{path.stem}{ending}"
            if _place(target) in inputs:
                raise DataError(
                    f"{target}: is among the images, and the result of {path.name} would replace it. Choose another "
                    "folder for the results."
                )
