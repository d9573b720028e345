"""Files that appear whole or not at all, and what killed processes leave."""

from __future__ import annotations

import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from patch2tissue.atomic import atomic_path, remove_abandoned, temporary_prefix, write_text

LEAVE = """
import os, signal, sys, tempfile
from pathlib import Path
from patch2tissue.atomic import atomic_path, temporary_prefix
folder = Path(sys.argv[1])
(folder / "deep").mkdir()
Path(tempfile.mkdtemp(prefix=temporary_prefix(folder / "map.tif"), dir=folder)).joinpath("0.raw").write_bytes(b"much")
with atomic_path(folder / "deep" / "a_probabilities.ome.tif") as temporary:
    temporary.write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def names(folder: Path) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


@pytest.mark.skipif(os.name != "posix", reason="SIGKILL")
def test_what_killed_processes_left_is_removed_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "labels.csv", "path\n")
    mine = [".a-notes", ".a-123456-1-abcdefgh.png", ".tiles.lock", f"{temporary_prefix(Path('b.png'))}abcdefgh.png"]
    for name in mine:
        (tmp_path / name).write_bytes(b"")
    before = names(tmp_path)
    subprocess.run([sys.executable, "-c", LEAVE, str(tmp_path)], check=False)
    assert len(names(tmp_path)) == len(before) + 4
    with atomic_path(tmp_path / "c.png") as under_way:
        under_way.write_bytes(b"half")
        assert remove_abandoned(tmp_path, below=False) == 1
        assert remove_abandoned(tmp_path) == 1
        assert under_way.is_file()
    assert names(tmp_path) == sorted([*before, "c.png", "deep"])
    assert remove_abandoned(tmp_path / "nowhere") == 0


def test_an_error_leaves_what_was_there(tmp_path: Path) -> None:
    write_text(tmp_path / "a.json", "whole")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.json") as temporary:
        temporary.write_text("half", encoding="utf-8")
        raise RuntimeError
    assert names(tmp_path) == ["a.json"] and (tmp_path / "a.json").read_text(encoding="utf-8") == "whole"


def test_threads_that_write_at_once_leave_the_rights_of_new_files_as_they_are(tmp_path: Path) -> None:
    before = os.umask(0o027)
    switching = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(lambda number: write_text(tmp_path / f"{number}.txt", "x"), range(400)))
        now = os.umask(0o027)
    finally:
        sys.setswitchinterval(switching)
        os.umask(before)
    assert now == 0o027
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o640}
