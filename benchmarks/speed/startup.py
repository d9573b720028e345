"""How long one waits for a command: for its help, and for its first progress bar."""

from __future__ import annotations

import os
import pty
import re
import select
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import yaml

from benchmarks.speed.children import COMMAND, environment, run_measured
from benchmarks.speed.harness import Options, Section
from benchmarks.speed.scale import draw, recipe

PATCHES = 64
"""Patches of the run: the wait for the first bar is looked for, not the work."""

_BAR = re.compile(r"[━╸╺]{4}|─{4}")
"""What a bar is drawn with."""


def run(options: Options) -> Section:
    """Seconds to `--help` and to the first progress bar of each long command, medians of fresh processes."""
    section = Section("Start-up: seconds of a fresh process")
    python = [sys.executable, "-c"]
    repeats = 1 if options.quick else options.repeats
    with tempfile.TemporaryDirectory(prefix="patch2tissue-startup-") as name:
        folder = Path(name)
        prepare(folder, options)
        whole: dict[str, Sequence[str]] = {
            "python": [*python, "pass"],
            "import torch": [*python, "import torch"],
            "--help": [*COMMAND, "--help"],
        }
        seconds: dict[str, list[float]] = {name: [] for name in (*whole, *commands(folder))}
        for number in range(repeats + 1):  # the first one fills the caches of files
            for name, words in whole.items():
                seconds[name].append(_until_end(words, options))
            for name, words in commands(folder / f"out-{number}", folder).items():
                seconds[name].append(until_bar([*COMMAND, *words], options))
    middle = {name: statistics.median(values[1:]) for name, values in seconds.items()}
    bars = {name: middle[name] for name in commands(folder)}
    slowest = max(bars, key=bars.__getitem__)
    section.add(
        "cli.help_seconds",
        middle["--help"],
        "under 0.5 s",
        middle["--help"] < 0.5,
        f"Python itself takes {middle['python']:.2f} s",
    )
    section.add(
        "cli.first_bar_seconds",
        bars[slowest],
        "under 5 s",
        bars[slowest] < 5.0,
        f"{slowest}; `import torch` takes {middle['import torch']:.2f} s",
    )
    section.details = {"seconds": {name: round(value, 3) for name, value in middle.items()}, "repeats": repeats}
    return section


def prepare(folder: Path, options: Options) -> None:
    """Make a data set, and a run that is trained on it."""
    draw(folder / "data", PATCHES if not options.quick else 8)
    plain = recipe(folder / "data", folder / "run", options, cache=True)
    (folder / "recipe.yaml").write_text(yaml.safe_dump(plain), encoding="utf-8")
    run_measured(["train", folder / "recipe.yaml"], options)


def commands(out: Path, folder: Path | None = None) -> dict[str, list[str]]:
    """The commands that work long, by name.

    Args:
        out: where they write; fresh, so that nothing is done already.
        folder: what `prepare` made; None: the same.
    """
    ready = folder or out
    small = f"data.source={{kind: synthetic, train: {PATCHES}, test: 8, size: 32}}"
    return {
        "demo": ["demo", "--out", str(out / "demo"), "--set", small, "--set", f"data.path={out / 'drawn'}"],
        "train": ["train", str(ready / "recipe.yaml"), "--set", f"output={out / 'run'}"],
        "pseudo-labels": ["pseudo-labels", str(ready / "run"), "--fresh"],
        "predict": ["predict", str(ready / "run"), str(ready / "data" / "train"), "--out", str(out / "maps")],
    }


def _until_end(words: Sequence[str], options: Options) -> float:
    started = time.perf_counter()
    subprocess.run(words, env=environment(options), stdout=subprocess.DEVNULL, check=True)
    return time.perf_counter() - started


def until_bar(words: Sequence[str], options: Options, found: Callable[[str], object] = _BAR.search) -> float:
    """Seconds from the start of a process to its first progress bar on a terminal; the process is ended then.

    Args:
        words: the command.
        options: of the benchmark.
        found: whether what was shown so far holds a bar.

    Raises:
        RuntimeError: if the process ends without one, with what it showed.
    """
    ours, theirs = pty.openpty()
    shown = b""
    started = time.perf_counter()
    process = subprocess.Popen(
        words, stdin=theirs, stdout=theirs, stderr=theirs, env={**environment(options), "TERM": "xterm"}, close_fds=True
    )
    os.close(theirs)
    try:
        while True:
            if select.select([ours], [], [], 0.5)[0]:
                try:
                    shown += os.read(ours, 65536)
                except OSError:  # the other side was closed
                    break
                if found(shown.decode(errors="replace")):
                    return time.perf_counter() - started
            elif process.poll() is not None:
                break
    finally:
        process.kill()
        process.wait()
        os.close(ours)
    raise RuntimeError(f"{' '.join(words)} showed no bar:\n{shown.decode(errors='replace')[-2000:]}")
