"""Reading every picture once before long work begins, so that a bad one is told of now and not hours later."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.tissues import TissueSet

_SHOWN = 10


def refuse_unreadable(patches: Sequence[Patch], tissues: TissueSet, folder: Path, *, masks: bool = False) -> None:
    """Read all patches, in threads, and refuse them if any cannot be read.

    Args:
        patches: the patches.
        tissues: tissue set of the masks.
        folder: the data folder, for messages.
        masks: read the masks as well; each must be as large as its picture.

    Raises:
        DataError: naming those that cannot be read, or as many of them as a screen holds.
    """

    def problem(patch: Patch) -> str | None:
        try:
            size = read_image(patch.path).shape[:2]
            if masks and patch.mask is not None and (found := read_mask(patch.mask, tissues).shape) != size:
                return f"{patch.mask}: is {found[1]}×{found[0]} px, but its image is {size[1]}×{size[0]} px."
        except DataError as error:
            return str(error)
        return None

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        problems = [told for told in pool.map(problem, patches) if told is not None]
    if problems:
        listed = "\n".join(f"  {told}" for told in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{folder}: {len(problems)} of {len(patches)} patches cannot be read, so training is not begun. Mend them "
            f"or take them out; `patch2tissue check {folder}` lists all that is wrong.\n{listed}{more}"
        )
