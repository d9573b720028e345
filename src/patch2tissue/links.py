"""Symbolic links that lead out of a folder: read where a user put them, never written through, not served unasked.

Labs keep pictures once and link them into data folders, so that commands that read follow links. What writes would
change files that nobody named, and what serves pages would show them to others; both refuse.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from patch2tissue.errors import DataError

_WRITTEN_IN_PLACE = (".npy", ".raw", ".sqlite", ".lock", "lock")
"""Ends of the names of files that are written where they are; all others are replaced, a link and not what it names."""


def leads_out(path: Path, folder: Path) -> bool:
    """Whether a path lies, links followed, outside of a folder that it seems to lie in."""
    real = os.path.realpath(folder)
    return os.path.commonpath([real, os.path.realpath(path)]) != real


def refuse_to_write_through_links(folder: Path) -> None:
    """Refuse an output folder in which a link leads elsewhere; that the folder itself is one is fine.

    Args:
        folder: where results will be written; it need not be there.

    Raises:
        DataError: naming the first such link.
    """
    for place, folders, files in os.walk(folder):
        names = [*folders, *(name for name in files if name.endswith(_WRITTEN_IN_PLACE))]
        for path in (Path(place) / name for name in names):
            if path.is_symlink() and leads_out(path, folder):
                raise DataError(
                    f"{path}: is a link that leads out of {folder}, to {os.path.realpath(path)}, where results would "
                    "be written. Remove the link, or name the folder that is meant."
                )


def refuse_to_serve_links(files: Iterable[Path], folder: Path) -> None:
    """Refuse files of a folder that lie elsewhere, since a page would show them.

    Args:
        files: in the folder, by their paths.
        folder: the folder that a user named; it may be a link itself.

    Raises:
        DataError: naming the first one.
    """
    places: dict[Path, bool] = {}
    for path in files:
        parent = path.parent
        if parent not in places:
            places[parent] = leads_out(parent, folder)
        if places[parent] or (path.is_symlink() and leads_out(path, folder)):
            raise DataError(
                f"{path}: lies outside of {folder} (a link leads to {os.path.realpath(path)}), so that the page does "
                "not show it. Pass --follow-links if it is meant."
            )
