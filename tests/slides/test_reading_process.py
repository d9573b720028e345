"""Processes that read slides for another one."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tests.slides.pictures import picture, write_tiled

from patch2tissue.errors import DataError, Patch2TissueError
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.reading_process import ReadingProcess
from patch2tissue.slides.scaled import ScaledSlide


def test_regions_are_those_that_this_process_reads(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(300, 400), (0.25, 0.25))
    with open_slide(path) as slide, ReadingProcess(path, None, 0.6) as process:
        view = ScaledSlide(slide, 0.6)
        for region in ((0, 0, 50, 40), (-10, 30, 64, 64), (100, 90, 200, 200)):
            np.testing.assert_array_equal(process.read(*region), view.read(*region))


def test_a_given_resolution_goes_along(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(200, 200), None)
    with ReadingProcess(path, 0.5, 0.5) as process:
        np.testing.assert_array_equal(process.read(0, 0, 200, 200), picture(200, 200))
    with ReadingProcess(path, None, 0.5) as process, pytest.raises(DataError, match="--mpp"):
        process.read(0, 0, 10, 10)


def test_error_of_the_slide_is_told_and_the_process_goes_on(tmp_path: Path) -> None:
    path = tmp_path / "a.tif"
    with ReadingProcess(path, None, 0.5) as process:
        for _ in range(2):
            with pytest.raises(DataError, match=r"a\.tif: there is no such file"):
                process.read(0, 0, 10, 10)
        write_tiled(path, picture(100, 100), (0.5, 0.5))
        assert process.read(0, 0, 10, 20).shape == (20, 10, 3)


def test_relative_paths_and_modules_of_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tiled(tmp_path / "a.tif", picture(100, 100), (0.5, 0.5))
    (tmp_path / "json.py").write_text("raise SystemExit('this is not the library')\n", encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    with ReadingProcess(Path("a.tif"), None, 0.5) as process:
        assert process.read(0, 0, 10, 20).shape == (20, 10, 3)


def test_process_that_is_killed_is_an_error_of_the_run(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(100, 100), (0.5, 0.5))
    with ReadingProcess(path, None, 0.5) as process:
        process.read(0, 0, 10, 10)
        process._process.send_signal(signal.SIGKILL)
        with pytest.raises(Patch2TissueError, match=r"a\.tif: .*signal 9 .*--workers 0") as error:
            process.read(0, 0, 10, 10)
        assert error.value.exit_code == 1


@pytest.mark.skipif(not Path("/proc").is_dir(), reason="looks at /proc")
def test_process_needs_no_deep_learning_library(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(100, 100), (0.5, 0.5))
    with ReadingProcess(path, None, 0.5) as process:
        process.read(0, 0, 10, 10)
        assert "torch" not in Path(f"/proc/{process._process.pid}/maps").read_text(encoding="utf-8")


_PARENT = """
import sys, time
from pathlib import Path
from patch2tissue.slides.reading_process import ReadingProcess
process = ReadingProcess(Path(sys.argv[1]), None, 0.5)
process.read(0, 0, 10, 10)
print(process._process.pid, flush=True)
process._send([0, 0, 3000, 3000])
time.sleep(60)
"""


def test_process_ends_with_the_one_that_is_killed(tmp_path: Path) -> None:
    path = write_tiled(tmp_path / "a.tif", picture(100, 100), (0.5, 0.5))
    with subprocess.Popen([sys.executable, "-c", _PARENT, str(path)], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        reader = int(parent.stdout.readline())
        parent.kill()
    ended = time.monotonic() + 20
    while _runs(reader):
        assert time.monotonic() < ended, "the process still runs"
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    try:
        state = Path(f"/proc/{process}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state != "Z"  # nobody may be there to collect it
