from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from patch2tissue.data import fingerprint
from patch2tissue.data.canvas import canvas_size, longest_side
from patch2tissue.data.fingerprint import Content, UsedFile, fingerprints
from patch2tissue.data.patches import Patch
from patch2tissue.data.readable import refuse_unreadable
from patch2tissue.errors import DataError
from patch2tissue.tissues import load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


@pytest.fixture
def patches(tmp_path: Path) -> list[Patch]:
    """Pictures of several sizes and formats with masks; the last one is larger than what is kept in memory."""
    made = []
    for number, ending in enumerate(("png", "jpg", "tif", "bmp")):
        side = 700 if ending == "bmp" else 20 + number
        path, mask = tmp_path / f"{number}.{ending}", tmp_path / "mask" / f"{number}.png"
        mask.parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((16, side, 3), 100 + number, np.uint8).repeat(1 + 50 * (side > 100), 0)).save(path)
        with Image.open(path) as image:
            Image.new("L", image.size, number).save(mask)
        made.append(Patch(path, path.stem, mask=mask))
    return made


def test_one_look_reads_hashes_and_measures(
    patches: list[Patch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = [UsedFile("train", patch.path, patch.path.name) for patch in patches]
    files += [UsedFile("train mask", patch.mask, patch.mask.name) for patch in patches if patch.mask is not None]
    files += [UsedFile("weights", patches[0].path, "w", whole=True)]
    wanted = fingerprints(files)
    contents: dict[str, Content] = {}
    longest = refuse_unreadable(patches, TISSUES, tmp_path, masks=True, contents=contents)
    assert longest == longest_side(patches) == (816, str(patches[-1].path))
    assert canvas_size(patches, None, longest) == canvas_size(patches, None) == 816
    assert len(contents) == 7 and str(patches[-1].path) not in contents
    opened = []
    read = fingerprint._fingerprint
    monkeypatch.setattr(
        fingerprint, "_fingerprint", lambda file, known: opened.append(known is None) or read(file, known)
    )
    assert fingerprints(files, contents) == wanted
    assert opened.count(True) == 1, "only the large one is opened again"


def test_what_cannot_be_read_is_told_of_whether_or_not_it_is_hashed(patches: list[Patch], tmp_path: Path) -> None:
    content = patches[0].path.read_bytes()
    for damaged in (content[: len(content) // 2], b"", b"no picture"):
        patches[0].path.write_bytes(damaged)
        said = []
        for contents in (None, {}):
            with pytest.raises(DataError, match="1 of 4 patches cannot be read") as error:
                refuse_unreadable(patches, TISSUES, tmp_path, contents=contents)
            said.append(str(error.value))
        assert said[0] == said[1] and str(patches[0].path) in said[0]
    patches[0].path.unlink()
    with pytest.raises(DataError, match="there is no such file"):
        refuse_unreadable(patches, TISSUES, tmp_path, contents={})
