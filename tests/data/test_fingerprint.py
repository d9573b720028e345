from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import pytest

from patch2tissue.data.fingerprint import (
    WHOLE,
    UsedFile,
    changes,
    fingerprints,
    quick_changes,
    read_fingerprints,
    write_fingerprints,
)
from patch2tissue.errors import DataError


@pytest.fixture
def files(tmp_path: Path) -> list[UsedFile]:
    folder = tmp_path / "data"
    folder.mkdir()
    contents = {"a, b.png": b"first", "ü.png": b"second", "large.bin": bytes(range(256)) * (WHOLE // 128)}
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return [UsedFile("train", folder / name, name, "1101" if name.endswith("png") else "") for name in contents]


def test_a_table_that_is_written_is_read_back(files: list[UsedFile], tmp_path: Path) -> None:
    found = fingerprints(files)
    write_fingerprints(tmp_path / "data.csv", found)
    assert read_fingerprints(tmp_path / "data.csv") == found
    assert found[0].sha256 == hashlib.sha256(b"first").hexdigest() and found[0].bytes == 5
    assert changes(found, found) == []
    assert quick_changes(found, files) == []


def test_of_a_large_file_the_ends_are_hashed(files: list[UsedFile]) -> None:
    large = files[2].path
    content = bytearray(large.read_bytes())
    before = fingerprints(files)
    assert before[2].sha256 == hashlib.sha256(content[: WHOLE // 2] + content[-WHOLE // 2 :]).hexdigest()
    for place, seen in ((10, True), (WHOLE, False), (len(content) - 10, True)):
        changed = content.copy()
        changed[place] ^= 1
        large.write_bytes(changed)
        assert bool(changes(before, fingerprints(files))) is seen
        whole = [UsedFile("weights", large, "w", whole=True)]
        assert fingerprints(whole)[0].sha256 == hashlib.sha256(changed).hexdigest()


def test_what_changed_is_said(files: list[UsedFile], tmp_path: Path) -> None:
    before = fingerprints(files)
    files[0].path.write_bytes(b"FIRST")
    relabelled = UsedFile("train", files[1].path, files[1].name, "0101")
    new = UsedFile("train mask", files[1].path, "mask.png")
    now = [files[0], relabelled, new]
    assert changes(before, fingerprints(now)) == [
        "1 file is missing, large.bin (train)",
        "1 file is new, mask.png (train mask)",
        "1 file is labelled otherwise, ü.png (train)",
        "1 file is of other content, a, b.png (train)",
    ]
    # a look at sizes does not see other content of the same size
    assert [line.split(",")[0] for line in quick_changes(before, now)] == [
        "1 file is missing",
        "1 file is new",
        "1 file is labelled otherwise",
    ]
    files[0].path.write_bytes(b"longer")
    assert quick_changes(before, files) == ["1 file is of other content, a, b.png (train)"]
    assert changes(before, []) == ["3 files are missing, first a, b.png (train)"]
    # elsewhere under the same names is the same
    shutil.copytree(files[1].path.parent, tmp_path / "moved")
    moved = [UsedFile(f.use, tmp_path / "moved" / f.name, f.name, f.labels) for f in files]
    assert changes(fingerprints(files), fingerprints(moved)) == []


def test_a_file_that_is_gone_is_named(files: list[UsedFile]) -> None:
    before = fingerprints(files)
    files[1].path.unlink()
    for look in (lambda: fingerprints(files), lambda: quick_changes(before, files)):
        with pytest.raises(DataError, match=r"ü\.png: cannot be read"):
            look()


@pytest.mark.parametrize(
    "text",
    [
        "",
        "use,file\n",
        "use,file,bytes,labels,sha256\ntrain,a.png,-1,1," + "0" * 64 + "\n",
        "use,file,bytes,labels,sha256\ntrain,a.png,5,1,xyz\n",
        "use,file,bytes,labels,sha256\ntrain,a.png,5\n",
        "use,file,bytes,labels,sha256\ntrain,\x00\n",
    ],
)
def test_a_damaged_table_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "data.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=r"data\.csv: "):
        read_fingerprints(tmp_path / "data.csv")
