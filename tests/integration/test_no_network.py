"""The whole way from patches to a report asks nobody: no name is looked up, no connection opened."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import RECIPES, TINY

_GUARD = '''
"""Imported by every Python that starts: writes down, and refuses, what would leave this machine."""
import os, sys

_HERE = {"127.0.0.1", "::1", "localhost", ""}

def _watch(event, arguments):
    if event in ("socket.connect", "socket.sendto", "socket.bind", "socket.sendmsg"):
        address = arguments[1]
        host = address[0] if isinstance(address, tuple) else ""  # a path is a socket of this machine
    elif event in ("socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"):
        host = arguments[0]
    elif event == "urllib.Request":
        host = arguments[0]
    else:
        return
    host = host.decode() if isinstance(host, bytes) else str(host or "")
    if host not in _HERE:
        with open(os.environ["ASKED"], "a") as file:
            file.write(f"{event} {host}\\n")
        if "END_AT_ONCE" in os.environ:
            os._exit(1)
        raise OSError(f"no network in this test: {host}")

sys.addaudithook(_watch)
'''

_DRIVER = """
import json, sys
from patch2tissue.cli.app import main

for command in json.loads(sys.argv[1]):
    try:
        main(command)
    except SystemExit as left:
        print(command[0], left.code or 0, flush=True)
"""


@pytest.fixture
def guarded(tmp_path: Path) -> Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]:
    """Run a Python program without network; returns how it ended and whom it, or a process of its, asked."""
    (tmp_path / "guard").mkdir()
    (tmp_path / "guard" / "sitecustomize.py").write_text(_GUARD, encoding="utf-8")
    asked = tmp_path / "asked.txt"

    def run(program: str, *arguments: str, **more: str) -> tuple[subprocess.CompletedProcess[str], list[str]]:
        path = os.pathsep.join([str(tmp_path / "guard"), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = os.environ | {"PYTHONPATH": path, "ASKED": str(asked), "HF_HOME": str(tmp_path / "cache")} | more
        done = subprocess.run(
            [sys.executable, "-c", program, *arguments],
            env=environment,
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        return done, asked.read_text(encoding="utf-8").splitlines() if asked.is_file() else []

    return run


@pytest.mark.parametrize(
    "program",
    [
        "import socket; socket.create_connection(('192.0.2.1', 80), timeout=1)",
        "import urllib.request; urllib.request.urlopen('http://example.org')",
        "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import socket; socket.getfqdn(\"a.b\")'])",
        pytest.param("import timm; timm.create_model('resnet10t', pretrained=True)", marks=pytest.mark.slow),
    ],
    ids=["connection", "address", "another process", "pretrained"],
)
def test_the_guard_sees_who_asks(
    program: str, guarded: Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]
) -> None:
    # libraries would try again for a minute
    _, asked = guarded(program, END_AT_ONCE="1")
    assert len(asked) == 1


SETTINGS = [
    *TINY,
    "output=run",
    "data.path=data",
    "craanet.epochs=1",
    "pfscnet.epochs=1",
    "hardware.workers=1",
    "hardware.device=cpu",
]
FROM_PATCHES_TO_THE_REPORT = [
    ["synthetic", "data", "--train", "12", "--test", "2", "--size", "48"],
    ["train", str(RECIPES / "bcss-wsss.yaml"), *(part for setting in SETTINGS for part in ("--set", setting))],
    ["predict", "run", "data/test/img", "--out", "maps"],
    ["report", "run"],
]
FURTHER = [
    ["check", "data", "--tissues", "bcss-wsss"],
    ["score", "run"],
    ["rerun", "run"],
    ["compare", "run", "run-rerun"],
    ["demo", "--slide", "slide.tif", "--slide-size", "600x500"],
    ["slide", "predict", "run", "slide.tif", "--out", "slides", "--device", "cpu", "--workers", "1"],
    ["doctor"],
]


@pytest.mark.parametrize(
    "commands",
    [FROM_PATCHES_TO_THE_REPORT, pytest.param([*FROM_PATCHES_TO_THE_REPORT, *FURTHER], marks=pytest.mark.slow)],
    ids=["from patches to the report", "further commands"],
)
def test_nobody_is_asked(
    commands: list[list[str]],
    tmp_path: Path,
    guarded: Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]],
) -> None:
    done, asked = guarded(_DRIVER, json.dumps(commands))
    assert asked == []
    ended = [line for line in done.stdout.splitlines() if line in {f"{command[0]} 0" for command in commands}]
    assert ended == [f"{command[0]} 0" for command in commands], done.stderr[-3000:]
    page = (tmp_path / "run" / "report.html").read_text(encoding="utf-8")
    assert 'src="http' not in page and "url(http" not in page and '<link rel="stylesheet" href="http' not in page


@pytest.mark.extras
def test_loggers_and_augmentation_ask_nobody(
    tmp_path: Path, guarded: Callable[..., tuple[subprocess.CompletedProcess[str], list[str]]]
) -> None:
    for package in ("albumentations", "mlflow", "wandb"):
        if importlib.util.find_spec(package) is None:
            pytest.skip(f"{package} is not installed (make ecosystem)")
    part = {"__class_fullname__": "HueSaturationValue", "p": 1.0}
    (tmp_path / "colours.json").write_text(json.dumps({"transform": part}), encoding="utf-8")
    settings = ["loggers.mlflow=true", "loggers.wandb=true", "data.augmentation.albumentations=colours.json"]
    synthetic, train = FROM_PATCHES_TO_THE_REPORT[:2]
    train = [*train, "--stage", "craanet", *(part for setting in settings for part in ("--set", setting))]
    done, asked = guarded(_DRIVER, json.dumps([synthetic, train]))
    assert asked == []
    assert "train 0" in done.stdout.splitlines(), done.stderr[-3000:]
    assert {"mlruns", "wandb"} <= {path.name for path in tmp_path.iterdir()}
