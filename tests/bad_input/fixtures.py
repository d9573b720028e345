"""Fixtures of the tests beside this file: commands, and runs and data that bad files are put into.

tests/conftest.py makes them known: a second file of that name would hide it, since there are no packages here.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.bad_input.faults import Commands


@pytest.fixture
def commands(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Commands:
    """Runs commands in this process."""
    return Commands(capsys, monkeypatch)


@pytest.fixture(scope="session")
def whole_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with untrained networks; not to be changed."""
    from tests.bad_input.bad_runs import whole_run as make_run

    return make_run(tmp_path_factory.mktemp("bad-input") / "run")


@pytest.fixture
def run_copy(whole_run: Path, tmp_path: Path) -> Path:
    """A run that a test may damage."""
    return Path(shutil.copytree(whole_run, tmp_path / "run"))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data folder of which nothing is wrong: four patches, each of one tissue, and two test images with masks."""
    return good_data(tmp_path / "data")


def good_data(folder: Path, side: int = 32) -> Path:
    """Make such a folder."""
    rng = np.random.default_rng(1)
    for place in ("train", "test/img", "test/mask"):
        (folder / place).mkdir(parents=True)
    for k in range(4):
        label = "".join(str(int(k == tissue)) for tissue in range(4))
        Image.fromarray(rng.integers(60, 220, (side, side, 3), dtype=np.uint8)).save(
            folder / f"train/p{k}[{label}].png"
        )
    for k in range(2):
        Image.fromarray(rng.integers(60, 220, (side, side, 3), dtype=np.uint8)).save(folder / f"test/img/t{k}.png")
        Image.fromarray(rng.integers(0, 4, (side, side), dtype=np.uint8)).save(folder / f"test/mask/t{k}.png")
    return folder


@pytest.fixture
def recipe(tmp_path: Path, data: Path) -> Path:
    """A recipe that trains on that data into `run` beside it."""
    path = tmp_path / "recipe.yaml"
    path.write_text(
        f"output: {tmp_path / 'run'}\ntissues: bcss-wsss\ndata: {{path: {data}}}\n"
        "craanet: {epochs: 1, encoder: {name: test_resnet}}\nhardware: {device: cpu, threads: 1}\n",
        encoding="utf-8",
    )
    return path
