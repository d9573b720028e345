"""Kill long commands at moments nobody chose, let them go on, and compare with what was left alone.

    python -m benchmarks.soak [--kills 60] [--only train predict …] [--seed 0]

Each command is killed (SIGKILL, which no program can catch) after a random time, given again, killed again, until it
ends; then everything it wrote must equal, byte for byte, what an uninterrupted call wrote, and the next round begins in
an empty folder. After each kill, files under their final names must be whole. The labelling server is killed while
answers are sent: each answer that it confirmed must be in the database, once. Counts go to
`benchmarks/results/soak.json`.
"""

from __future__ import annotations

import argparse
import contextlib
import difflib
import json
import random
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import tifffile
from PIL import Image
from safetensors import safe_open

from patch2tissue.atomic import write_text
from patch2tissue.cores import available_cores
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.slides.pyramid import write_picture_tiff
from patch2tissue.slides.rows import ArrayRows
from patch2tissue.tissues import load_tissue_set
from patch2tissue.training import CURVES_OF_TIME

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "soak.json"
TINY = (
    "craanet.encoder.name=resnet10t",
    "craanet.encoder.pretrained=false",
    "craanet.epochs=4",
    "craanet.batch_size=4",
    "pfscnet.encoder=null",
    "pfscnet.init=craanet",
    "pfscnet.epochs=4",
    "pfscnet.batch_size=4",
    "pfscnet.decoder_channels=16",
    "pfscnet.contrast.dimensions=8",
    "pfscnet.contrast.anchors=64",
    "pfscnet.contrast.bank=32",
    "hardware.workers=0",
    "hardware.threads=1",
)
"""Small enough for a soak; one thread, since sums of several threads may be rounded otherwise."""

SHARES = {"train": 0.35, "pseudo-labels": 0.1, "predict": 0.15, "slide predict": 0.2, "label": 0.2}
"""Of the kills that each command gets."""

_CHANGES_WITH_TIME = ("environment.json", "tensorboard", "state.json", "summary.md", "lock")
"""Files, and folders of files, that tell the time or the machine."""


@dataclass
class Outcome:
    """What became of one command.

    Attributes:
        command: its name.
        kills: how often it was killed.
        ended: how often it ended, each time after some kills.
        different: how often what it wrote was not what an uninterrupted call wrote.
        broken: files that were not whole under their final names, over all kills.
        failed: calls that ended by an error of their own.
        lost: answers that were confirmed and are not there, or are there twice.
    """

    command: str
    kills: int = 0
    ended: int = 0
    different: int = 0
    broken: int = 0
    failed: int = 0
    lost: int = 0

    @property
    def good(self) -> bool:
        """Whether nothing went wrong."""
        return not (self.different or self.broken or self.failed or self.lost)


def call(*arguments: object) -> list[str]:
    """A `patch2tissue` command as a process runs it."""
    return [sys.executable, "-m", "patch2tissue", *map(str, arguments)]


def contents(folder: Path) -> dict[str, bytes]:
    """What each file below a folder holds, without those that tell the time."""
    return {
        path.relative_to(folder).as_posix(): _content(path)
        for path in sorted(folder.rglob("*"))
        if path.is_file() and not any(part in _CHANGES_WITH_TIME for part in path.relative_to(folder).parts)
    }


def _content(path: Path) -> bytes:
    content = path.read_bytes()
    if path.name != "metrics.csv":
        return content
    lines = content.splitlines()
    return b"\n".join(line for line in lines if not any(name.encode() in line for name in CURVES_OF_TIME))


def broken_files(folder: Path) -> list[Path]:
    """Files under their final names that cannot be read."""
    return [path for path in sorted(folder.rglob("*")) if path.is_file() and not _whole(path)]


def _whole(path: Path) -> bool:
    if path.name.startswith(".") or "tensorboard" in path.parts or "work" in path.parts:
        return True  # on its way
    try:
        if path.suffix == ".png":
            with Image.open(path) as image:
                image.load()
        elif path.suffix == ".npz":
            with zipfile.ZipFile(path) as file:
                return file.testzip() is None
        elif path.suffix == ".npy":
            np.load(path, mmap_mode="r", allow_pickle=False)
        elif path.suffix in (".json", ".geojson"):
            json.loads(path.read_text(encoding="utf-8"))
        elif path.suffix == ".safetensors":
            with safe_open(path, framework="np") as file:
                return len(list(file.keys())) > 0
        elif path.suffix == ".tif":
            with tifffile.TiffFile(path) as file:
                file.asarray()
        elif path.suffix == ".csv":
            return path.read_text(encoding="utf-8").endswith("\n")
    except Exception as error:
        print(f"  {path}: {error}")
        return False
    return True


def soak(
    name: str,
    folder: Path,
    make: Callable[[Path], list[list[str]]],
    kills: int,
    rng: random.Random,
    prepare: Callable[[Path], None] = lambda out: None,
) -> Outcome:
    """Kill a command until it was killed so often, and compare each time it ends.

    Args:
        name: of the command.
        folder: for its outputs.
        make: from a folder to write into, the calls to make one after the other.
        kills: how often, at least.
        rng: chooses the moments.
        prepare: fills a folder before the first call.
    """
    outcome = Outcome(name)
    out = folder / "out"  # always the same, since some files tell where they are
    prepare(out)
    begin = time.perf_counter()
    for command in make(out):
        subprocess.run(command, check=True, capture_output=True)
    seconds = time.perf_counter() - begin
    expected = contents(out)
    assert expected and not broken_files(out)
    while outcome.kills < kills or outcome.ended == 0:
        shutil.rmtree(out)
        prepare(out)
        # some moments lie in the import of libraries; most shall lie in the work
        while not _ends(make(out), seconds * rng.uniform(0.15, 1.3), outcome):
            broken = broken_files(out) if out.is_dir() else []
            outcome.broken += len(broken)
            if outcome.failed > 3:
                return outcome
        outcome.ended += 1
        found = contents(out)
        if found != expected:
            outcome.different += 1
            names = {path for path in {*found, *expected} if found.get(path) != expected.get(path)}
            print(f"  {name}: differs in {', '.join(sorted(names)[:5])}")
            lines = [of.get(min(names), b"").decode(errors="replace").splitlines() for of in (expected, found)]
            print("\n".join(list(difflib.unified_diff(*lines, "whole", "killed", lineterm="", n=1))[:20]))
    print(f"{name}: {outcome.kills} kills, ended {outcome.ended} times", flush=True)
    return outcome


def _ends(commands: list[list[str]], seconds: float, outcome: Outcome) -> bool:
    """Make calls until so many seconds are over, then kill; return whether they had ended."""
    until = time.perf_counter() + seconds
    for command in commands:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        try:
            _, errors = process.communicate(timeout=max(0.05, until - time.perf_counter()))
        except subprocess.TimeoutExpired:
            process.kill()
            process.communicate()
            outcome.kills += 1
            return False
        if process.returncode:
            outcome.failed += 1
            print(errors.decode(errors="replace")[-2000:])
            return False
    return True


# --- the commands -----------------------------------------------------------------------------------------------------


class Bench:
    """What the commands work on, made once.

    Args:
        folder: for everything.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "data"
        make_synthetic(self.data, train=24, val=0, test=6, size=48, difficulty="easy", seed=3)
        self.slide = folder / "slide.tif"
        pixels = WholeSlide(1500, 1300, seed=1).picture.read(0, 1300)
        write_picture_tiff(self.slide, ArrayRows(pixels), (0.5, 0.5))

    def train(self, out: Path) -> list[list[str]]:
        """Both stages, then scores."""
        settings = [f"output={out}", f"data.path={self.data}", "data.layout=auto", *TINY]
        changes = [part for one in settings for part in ("--set", one)]
        return [call("train", ROOT / "configs" / "bcss-wsss.yaml", *changes), call("score", out)]

    def trained(self) -> Path:
        """A run that is done."""
        run = self.folder / "run"
        if not (run / "scores.json").is_file():
            for command in self.train(run):
                subprocess.run(command, check=True, capture_output=True)
        return run

    def outcomes(self, kills: int, rng: random.Random, only: Sequence[str] | None) -> Iterator[Outcome]:
        """Soak each command."""
        for name, part in SHARES.items():
            if only and name not in only:
                continue
            folder = self.folder / name.replace(" ", "-")
            folder.mkdir()
            count = max(1, round(part * kills))
            if name not in ("train", "label"):
                self.trained()  # not within the time of what is killed
            if name == "train":
                yield soak(name, folder, self.train, count, rng)
            elif name == "pseudo-labels":
                yield soak(name, folder, lambda out: [call("pseudo-labels", out)], count, rng, self._copy_run)
            elif name == "predict":
                yield soak(name, folder, self._predict, count, rng)
            elif name == "slide predict":
                yield soak(name, folder, self._predict_slide, count, rng)
            else:
                yield soak_labels(folder, count, rng)

    def _copy_run(self, out: Path) -> None:
        shutil.copytree(self.trained(), out)
        shutil.rmtree(out / "pseudo_labels")

    def _predict(self, out: Path) -> list[list[str]]:
        images = self.data / "train"
        return [call("predict", self.trained(), images, "--out", out, "--symmetries", "--resume", "--device", "cpu")]

    def _predict_slide(self, out: Path) -> list[list[str]]:
        return [call("slide", "predict", self.trained(), self.slide, "--out", out, "--device", "cpu")]


def soak_labels(folder: Path, kills: int, rng: random.Random) -> Outcome:
    """Kill the labelling server while answers are sent."""
    outcome = Outcome("label")
    tissues = load_tissue_set("bcss-wsss")
    data = folder / "data"
    make_synthetic(data, train=8, val=0, test=0, size=32, difficulty="easy", seed=0)
    confirmed: set[str] = set()
    tried: list[dict[str, object]] = []
    while outcome.kills < kills:
        command = call("label", data, "--tissues", tissues.name, "--no-browser", "--port", 0)
        server = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert server.stdout is not None
        address = server.stdout.readline().strip()
        if not address:
            outcome.failed += 1
            return outcome
        threading.Timer(rng.uniform(0.05, 1.5), server.kill).start()
        with contextlib.suppress(httpx.HTTPError), httpx.Client(timeout=10) as client:
            # what was not confirmed is sent again, as the page does
            for answer in [one for one in tried if one["key"] not in confirmed]:
                client.post(f"{address}api/answers", json=answer).raise_for_status()
                confirmed.add(str(answer["key"]))
            while True:
                answer = {"key": f"k{len(tried)}", "patch": rng.randrange(8), "annotator": rng.choice(("Ada", "Bob"))}
                answer |= {"kind": "labelled", "labels": [rng.randrange(2), 1, 0, 0]}
                tried.append(answer)
                client.post(f"{address}api/answers", json=answer).raise_for_status()
                confirmed.add(str(answer["key"]))
        server.wait()
        server.stdout.close()
        outcome.kills += 1
        found = _keys(data / DATABASE)
        outcome.lost += len(confirmed - set(found)) + len(found) - len(set(found))
        with LabelStore(data / DATABASE, tissues) as store:
            store.answers()
    outcome.ended = len(confirmed)
    print(f"label: {outcome.kills} kills, {len(confirmed)} answers confirmed", flush=True)
    return outcome


def _keys(database: Path) -> list[str]:
    with contextlib.closing(sqlite3.connect(database)) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [key for (key,) in connection.execute("SELECT key FROM answers")]


def _with(entry: dict[str, Any], path: Path) -> dict[str, Any]:
    """The results file with a command's counts in place of its former ones."""
    plain: dict[str, Any] = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {"commands": []}
    others = {one["command"]: one for one in plain["commands"]} | {entry["command"]: entry}
    ordered = [others[name] for name in SHARES if name in others]
    return {"machine": f"{processor_name()}, {available_cores()} cores", "commands": ordered}


def table(plain: dict[str, Any]) -> str:
    """The table of the documentation."""
    lines = ["| command | killed | ended | other bytes | half files | failed | lost |", "|---|" + "---:|" * 6]
    for one in plain["commands"]:
        ended = f"{one['ended']} answers" if one["command"] == "label" else one["ended"]
        bad = " | ".join(str(one[name]) for name in ("different", "broken", "failed", "lost"))
        lines.append(f"| `{one['command']}` | {one['kills']} | {ended} | {bad} |")
    return "\n".join(lines)


def row(plain: dict[str, Any]) -> str:
    """The first row of the table of all that was tried."""
    kills = sum(one["kills"] for one in plain["commands"])
    names = ", ".join(f"`{one['command']}`" for one in plain["commands"])
    command = "`python -m benchmarks.soak --kills 60`"
    return f"| processes killed (SIGKILL): {names} | {kills} | [the same bytes](#killed-processes) | {command} |"


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=60)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="COMMAND")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    begin = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="soak-") as folder:
        rng = random.Random(options.seed)
        outcomes = []
        for outcome in Bench(Path(folder)).outcomes(options.kills, rng, options.only):
            outcomes.append(outcome)
            seconds, begin = time.perf_counter() - begin, time.perf_counter()
            entry = asdict(outcome) | {"commit": git_commit(), "minutes": round(seconds / 60, 1)}
            plain = _with(entry, options.out)
            write_text(options.out, json.dumps(plain, indent=2) + "\n")  # what is counted so far
    print(row(plain), table(plain), sep="\n\n")
    if not all(outcome.good for outcome in outcomes):
        sys.exit(1)


if __name__ == "__main__":
    main()
