"""Reading every picture once before long work begins, so that a bad one is told of now and not hours later."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from patch2tissue.data.canvas import Longest
from patch2tissue.data.fingerprint import WHOLE, Content, content_of
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.progress import track
from patch2tissue.threads import in_threads
from patch2tissue.tissues import TissueSet

_SHOWN = 10


def refuse_unreadable(
    patches: Sequence[Patch],
    tissues: TissueSet,
    folder: Path,
    *,
    masks: bool = False,
    contents: dict[str, Content] | None = None,
    progress: bool = False,
) -> Longest:
    """Read all patches, in threads, and refuse them if any cannot be read.

    Args:
        patches: the patches.
        tissues: tissue set of the masks.
        folder: the data folder, for messages.
        masks: read the masks as well; each must be as large as its picture.
        contents: gets what `fingerprints` asks of the files, so that it need not read them a second time.
        progress: show a bar.

    Returns:
        Their longest side.

    Raises:
        DataError: naming those that cannot be read, or as many of them as a screen holds.
    """

    def look(patch: Patch) -> int | str:
        """The longest side of a patch, or what is wrong with it."""
        try:
            size = read_image(patch.path, _whole(patch.path, contents)).shape[:2]
            if masks and patch.mask is not None:
                found = read_mask(patch.mask, tissues, _whole(patch.mask, contents)).shape
                if found != size:
                    return f"{patch.mask}: is {found[1]}×{found[0]} px, but its image is {size[1]}×{size[0]} px."
        except DataError as error:
            return str(error)
        return int(max(size))

    problems = []
    longest, name = 0, ""
    looks = in_threads(look, patches)
    for patch, told in zip(patches, track(looks, "reading patches", len(patches)) if progress else looks, strict=True):
        if isinstance(told, str):
            problems.append(told)
        elif told > longest:
            longest, name = told, str(patch.path)
    if problems:
        listed = "\n".join(f"  {told}" for told in problems[:_SHOWN])
        more = f"\n  and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
        raise DataError(
            f"{folder}: {len(problems)} of {len(patches)} patches cannot be read, so training is not begun. Mend them "
            f"or take them out; `patch2tissue check {folder}` lists all that is wrong.\n{listed}{more}"
        )
    return longest, name


def _whole(path: Path, contents: dict[str, Content] | None) -> bytes | None:
    """A file's bytes, of which `contents` gets to know; None where nobody asks, or it is large or cannot be read."""
    if contents is None:
        return None
    try:
        if path.stat().st_size > WHOLE:
            return None
        content = path.read_bytes()
    except OSError:
        return None  # whoever opens it says why
    contents[str(path)] = content_of(content)
    return content
