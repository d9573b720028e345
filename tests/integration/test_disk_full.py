"""Disks that are full or read-only: one message that says what to do, and what was there is as it was.

A limit on the size of files stands for the full disk: the system then refuses to write in the same places.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from tests.export.varied_run import varied_run
from tests.slides.pictures import picture, write_tiled

from conftest import RECIPES, TINY
from patch2tissue.inference.predict import predict_images
from patch2tissue.report.build import build_report
from patch2tissue.run_folder import RunFolder

pytestmark = pytest.mark.skipif(os.name != "posix", reason="limits of POSIX")

LIMITED = """
import resource, sys
resource.setrlimit(resource.RLIMIT_FSIZE, (int(sys.argv[1]), resource.RLIM_INFINITY))
from patch2tissue.cli.app import main
main(sys.argv[2:])
"""


def call(limit: int, *arguments: object) -> tuple[int, str]:
    """A command that may not write files of more than so many bytes; returns exit code and what it told."""
    command = [sys.executable, "-c", LIMITED, str(limit), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return done.returncode, " ".join(done.stderr.split())


def snapshot(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def told(text: str, *parts: str) -> None:
    assert all(part in text for part in parts), text
    assert "Traceback" not in text and "bug in patch2tissue" not in text


def settings(run: Path, data: Path) -> list[str]:
    given = [f"output={run}", f"data.path={data}", "data.layout=auto", *TINY]
    return [part for one in given for part in ("--set", one)]


@pytest.mark.parametrize(
    "limit", [pytest.param(1_000, marks=pytest.mark.slow), 20_000, pytest.param(400_000, marks=pytest.mark.slow)]
)
def test_training_tells_and_goes_on_when_there_is_room(
    tmp_path: Path, trained_runs: tuple[Path, Path, Path], limit: int
) -> None:
    data, whole, _ = trained_runs
    run = tmp_path / "run"
    command = ("train", RECIPES / "bcss-wsss.yaml", *settings(run, data))
    code, text = call(limit, *command)
    assert code == 1
    told(text, str(run), "cannot be written", "Make room, then give the same command again")
    code, text = call(2**40, *command)
    assert code == 0, text
    for name in ("craanet/weights.safetensors", "craanet/attention_epochs.npy", "pfscnet/weights.safetensors"):
        assert (run / name).read_bytes() == (whole / name).read_bytes()
    assert snapshot(run / "pseudo_labels" / "masks") == snapshot(whole / "pseudo_labels" / "masks")


@pytest.mark.slow
def test_results_that_were_there_stay(tmp_path: Path, trained_runs: tuple[Path, Path, Path]) -> None:
    data, whole, _ = trained_runs
    run = shutil.copytree(whole, tmp_path / "run")
    images, out = data / "test" / "img", tmp_path / "out"
    predict_images(run, [images], out, progress=False)
    build_report(RunFolder(run))
    before, report = snapshot(out), (run / "report.html").read_bytes()
    code, text = call(100, "predict", run, images, "--out", out)
    assert code == 1 and snapshot(out) == before
    told(text, str(out), "cannot be written: File too large", "Make room")
    code, text = call(5_000, "report", run)
    assert code == 1 and (run / "report.html").read_bytes() == report
    told(text, "report.html", "Make room")


@pytest.mark.slow
def test_slides_and_tiles(tmp_path: Path, trained_runs: tuple[Path, Path, Path]) -> None:
    slide = write_tiled(tmp_path / "a.tif", picture(600, 800))
    code, text = call(10_000, "slide", "tiles", slide, "--out", tmp_path / "tiles", "--everywhere", "--size", 200)
    assert code == 1
    told(text, str(tmp_path / "tiles"), "Make room")
    options = ("--everywhere",)
    code, text = call(10_000, "slide", "predict", trained_runs[1], slide, "--out", tmp_path / "maps", *options)
    assert code == 1
    told(text, str(tmp_path / "maps"), "Make room")
    assert not list((tmp_path / "maps").glob("*_classes.tif"))
    code, text = call(2**40, "slide", "predict", trained_runs[1], slide, "--out", tmp_path / "maps", *options)
    assert code == 0, text
    assert (tmp_path / "maps" / "a_classes.tif").is_file()


@pytest.mark.parametrize(("limit", "patches"), [(200, 8), (3_000, 8), (200, 120)])
def test_synthetic_patches(tmp_path: Path, limit: int, patches: int) -> None:
    out = tmp_path / "data"
    code, text = call(limit, "synthetic", out, "--train", patches, "--test", 2, "--size", 48)
    assert code == 1 and not list(tmp_path.iterdir())
    # many are drawn by processes of their own, which tell in their words
    told(text, str(tmp_path), "File too large")


@pytest.mark.skipif(os.name == "posix" and os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(tmp_path: Path, trained_runs: tuple[Path, Path, Path]) -> None:
    out = tmp_path / "out"
    out.mkdir(mode=0o555)
    code, text = call(2**40, "predict", trained_runs[1], trained_runs[0] / "test" / "img", "--out", out)
    assert code == 1
    told(text, str(out), "cannot be written: Permission denied", "may write to")


@pytest.mark.slow
@pytest.mark.parametrize("share", [0.01, 1.0003])
def test_export_tells_and_leaves_nothing(tmp_path: Path, share: float) -> None:
    run = varied_run(tmp_path / "run")
    weights = (run / "pfscnet" / "weights.safetensors").stat().st_size
    out = tmp_path / "out" / "model"
    # the second limit has room for the weights, and for no other file that holds them
    code, text = call(int(share * weights), "export", run, "--to", "monai-bundle", "--out", out)
    assert code == 1
    told(text, str(out), "Make room")
    assert list(out.parent.iterdir()) == []
