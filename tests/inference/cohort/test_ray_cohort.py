"""Cohorts over a local Ray cluster against one process: the same files, whoever is killed on the way."""

from __future__ import annotations

import csv
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from tests.inference.slides.test_predict_slides import tissue_picture
from tests.inference.tiny_run import real_run
from tests.slides.pictures import write_tiled

from patch2tissue.inference.cohort.predict import predict_cohort
from patch2tissue.inference.cohort.ray_cluster import ClusterOptions, opened
from patch2tissue.inference.cohort.summary import CohortSlide
from patch2tissue.inference.slides.outputs import OutputOptions
from patch2tissue.inference.slides.predict import SlideOptions, predict_slides

pytestmark = pytest.mark.extras
pytest.importorskip("ray")

OPTIONS = SlideOptions(tissue="everywhere", workers=0, outputs=OutputOptions(probabilities=True))
CLUSTER = ClusterOptions(actors=2, cpus=1, strip_tiles=64)
SMALL = ("a", "c", "d")


@pytest.fixture(scope="module")
def cohort(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A run with a real network, and a folder with one huge slide, small ones, and one that is none."""
    root = tmp_path_factory.mktemp("cohort")
    slides = root / "slides"
    slides.mkdir()
    for seed, (name, height, width) in enumerate([("huge", 1100, 500), *((name, 150, 200) for name in SMALL)]):
        image, _ = tissue_picture(height, width, seed)
        grain = np.random.default_rng(seed).integers(-30, 30, image.shape)
        write_tiled(slides / f"{name}.tif", np.clip(image + grain, 0, 255).astype(np.uint8), (0.25, 0.25))
    (slides / "bad.svs").write_bytes(b"no slide")
    return real_run(root / "run", "bcss-wsss"), slides


@pytest.fixture(scope="module")
def local(cohort: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What one process makes of it."""
    out = tmp_path_factory.mktemp("local")
    predict_slides(cohort[0], [cohort[1]], out, options=OPTIONS, progress=False)
    return files_of(out)


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A cluster on this machine with room for two actors, which calls join."""
    with opened(CLUSTER):
        yield


def files_of(out: Path) -> dict[str, bytes]:
    """All files of a folder of results but those that tell times."""
    return {
        path.name: path.read_bytes()
        for path in out.iterdir()
        if path.is_file() and path.name not in ("summary.md", "cohort.csv")
    }


def drawing(out: Path) -> dict[int, Path]:
    """Processes that draw a strip now, and the strips they write."""
    found = {}
    for path in out.glob("work/*/strips-*/.*"):
        number = re.search(r"-(\d+)-\w{8}$", path.name)
        if number:
            found[int(number[1])] = path
    return found


class Killing(threading.Thread):
    """Kills the first process that is seen to draw the huge slide."""

    def __init__(self, out: Path) -> None:
        super().__init__(daemon=True)
        self.out, self.killed = out, 0

    def run(self) -> None:
        until = time.monotonic() + 300
        while not self.killed and time.monotonic() < until:
            for process, strip in drawing(self.out).items():
                if strip.parent.parent.name == "huge" and (strip / "classes.raw").exists():
                    os.kill(process, signal.SIGKILL)
                    self.killed = process
                    return
            time.sleep(0.002)


def by_name(slides: list[CohortSlide]) -> dict[str, CohortSlide]:
    return {slide.result.slide.stem: slide for slide in slides}


def test_one_worker_is_killed_and_the_files_are_those_of_one_process(
    cohort: tuple[Path, Path], local: dict[str, bytes], cluster: None, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    run, slides = cohort
    out = tmp_path / "out"
    killing = Killing(out)
    killing.start()
    found = by_name(predict_cohort(run, [slides], out, options=OPTIONS, cluster=CLUSTER, progress=False))
    killing.join()
    assert killing.killed and "It is done again" in caplog.text
    assert files_of(out) == local
    assert {name: slide.result.status for name, slide in found.items()} == {
        "huge": "done", "bad": "failed", **dict.fromkeys(SMALL, "done"),
    }  # fmt: skip
    huge = found["huge"].record
    assert huge is not None and huge.retries >= 1 and huge.strips > 1
    assert all(not worker.endswith(f":{killing.killed}") for worker in huge.workers)
    # nothing is left of what was begun
    assert (
        not list(out.glob("work/*/strips-*")) and not list(out.glob("work/*/*.raw")) and not list(out.glob("work/.*"))
    )
    rows = {row["slide"]: row for row in csv.DictReader((out / "cohort.csv").open(encoding="utf-8"))}
    assert rows["huge.tif"]["retries"] == str(huge.retries) and int(rows["huge.tif"]["strips"]) == huge.strips
    assert float(rows["a.tif"]["tissue_mm2"]) == pytest.approx(150 * 200 * 0.25**2 / 1e6, rel=1e-3)
    assert rows["bad.svs"]["state"] == "failed" and "no slide" in rows["bad.svs"]["error"]
    summary = (out / "summary.md").read_text(encoding="utf-8")
    assert "| huge.tif | done |" in summary and "bad.svs" in summary

    # again: nothing is done, and nothing changes
    before = files_of(out), (out / "cohort.csv").read_bytes(), (out / "work" / "huge" / "state.json").read_bytes()
    one = ClusterOptions(actors=1, cpus=1)
    again = by_name(predict_cohort(run, [slides], out, options=OPTIONS, cluster=one, progress=False))
    assert all(slide.earlier for name, slide in again.items() if name != "bad")
    after = files_of(out), (out / "cohort.csv").read_bytes(), (out / "work" / "huge" / "state.json").read_bytes()
    assert before == after
    # and one process takes them for done as well
    results = predict_slides(run, [slides / "huge.tif"], out, options=OPTIONS, progress=False)
    assert results[0].files == again["huge"].result.files
    assert (out / "work" / "huge" / "state.json").read_bytes() == after[2]


def command(run: Path, slides: Path, out: Path, *more: str) -> list[str]:
    return [
        *(sys.executable, "-m", "patch2tissue", "slide", "predict", str(run), str(slides), "--out", str(out)),
        *("--engine", "ray", "--actors", "2", "--actor-cpus", "1", "--strip-tiles", "64", "--workers", "0"),
        *("--everywhere", "--probabilities", *more),
    ]


def test_the_driver_is_killed_and_what_is_drawn_is_kept(
    cohort: tuple[Path, Path], local: dict[str, bytes], cluster: None, tmp_path: Path
) -> None:
    run, slides = cohort
    out = tmp_path / "out"
    environment = {key: value for key, value in os.environ.items() if key != "RAY_ADDRESS"}
    driver = subprocess.Popen(command(run, slides, out), env=environment, stderr=subprocess.DEVNULL)
    strips: list[Path] = []
    while driver.poll() is None and not strips:
        strips = list(out.glob("work/huge/strips-*/0*/strip.json"))
        time.sleep(0.002)
    workers = set(drawing(out))
    driver.send_signal(signal.SIGKILL)
    assert driver.wait() == -signal.SIGKILL and strips
    kept = json.loads(strips[0].read_text())
    assert json.loads((out / "work" / "huge" / "state.json").read_text())["status"] == "running"
    # its workers end with it
    until = time.monotonic() + 30
    while any(lives(worker) for worker in workers) and time.monotonic() < until:
        time.sleep(0.1)
    assert not any(lives(worker) for worker in workers)

    one = ClusterOptions(actors=1, cpus=1, strip_tiles=64)
    found = by_name(predict_cohort(run, [slides], out, options=OPTIONS, cluster=one, progress=False))
    assert found["huge"].result.status == "done" and not found["huge"].earlier
    assert files_of(out) == local
    record = json.loads((out / "work" / "huge" / "cohort.json").read_text())
    assert kept["worker"] in record["workers"]


def lives(process: int) -> bool:
    try:
        return "\nState:\tZ" not in Path(f"/proc/{process}/status").read_text()
    except OSError:
        return False
