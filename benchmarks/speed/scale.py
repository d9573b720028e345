"""How time and memory of the commands grow with the number of patches, from a thousand to a hundred thousand."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.speed.children import Finished, run_measured
from benchmarks.speed.harness import Options, Section
from patch2tissue.data.synthetic import make_synthetic

SIZES, QUICK_SIZES = (1_000, 10_000, 100_000), (40, 80, 160)
SIDE = 32
"""Side of a patch in pixels: what grows with their number is what is looked for, not what a picture costs."""

DISTINCT = 1_000
"""Different pictures; further patches are further names of these."""

COMMANDS = ("craanet", "pseudo_labels", "pfscnet", "predict")
_MIB = 2**20


def run(options: Options) -> Section:
    """Time and memory of four commands over three sizes of data set."""
    section = Section("Scale: growth from a thousand to a hundred thousand patches")
    sizes = QUICK_SIZES if options.quick else SIZES
    found: dict[str, list[Finished]] = {name: [] for name in (*COMMANDS, "craanet_with_cache")}
    with tempfile.TemporaryDirectory(prefix="patch2tissue-scale-") as name:
        drawn = draw(Path(name) / "drawn", min(DISTINCT, sizes[0]))
        for count in sizes:
            measured = _measured(Path(name) / str(count), drawn, count, options, cached=count != sizes[-1])
            for command, finished in measured.items():
                found[command].append(finished)
    exponents = {command: slope(sizes, [one.seconds for one in found[command]]) for command in COMMANDS}
    last = {command: slope(sizes[-2:], [one.seconds for one in found[command][-2:]]) for command in COMMANDS}
    growth = {command: found[command][-1].anonymous / found[command][0].anonymous for command in COMMANDS}
    worst, fullest = max(exponents, key=exponents.__getitem__), max(growth, key=growth.__getitem__)
    section.add(
        "scale.time_exponent",
        exponents[worst],
        "at most 1.05",
        exponents[worst] <= 1.05,
        f"1: each patch costs the same. {worst.replace('_', '-')}; start-up of {found[worst][0].seconds:.1f} s at most "
        f"flattens it, and from {sizes[-2]:,} to {sizes[-1]:,} patches the worst is {max(last.values()):.3f}",
    )
    grown = found[fullest][-1].anonymous - found[fullest][0].anonymous
    section.add(
        "scale.peak_memory_ratio",
        growth[fullest],
        "at most 1.1",
        growth[fullest] <= 1.1,
        f"1, and names and labels of patches. {fullest.replace('_', '-')}; "
        f"{grown / (sizes[-1] - sizes[0]):,.0f} bytes a patch",
    )
    section.details = {
        "patches": list(sizes),
        "side": SIDE,
        "seconds": {command: [round(one.seconds, 2) for one in of] for command, of in found.items()},
        "peak_anonymous_mib": {
            command: [round(one.anonymous / _MIB, 1) for one in of] for command, of in found.items()
        },
        "peak_resident_mib": {command: [round(one.resident / _MIB, 1) for one in of] for command, of in found.items()},
        "time_exponent": {command: round(value, 4) for command, value in exponents.items()},
        "time_exponent_of_the_last_two": {command: round(value, 4) for command, value in last.items()},
        "peak_memory_ratio": {command: round(value, 4) for command, value in growth.items()},
    }
    return section


def slope(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Exponent of a power law through values, by least squares of logarithms.

    >>> slope([1, 10, 100], [3.0, 30.0, 300.0])
    1.0
    """
    x, y = np.log(np.asarray(sizes, float)), np.log(np.asarray(values, float))
    return float(np.round(((x - x.mean()) * (y - y.mean())).sum() / ((x - x.mean()) ** 2).sum(), 12))


def draw(folder: Path, count: int) -> list[Path]:
    """Draw different pictures; returns them by name."""
    make_synthetic(folder, train=count, test=0, size=SIDE)
    return sorted((folder / "train").glob("*.png"))


def spread(drawn: Sequence[Path], folder: Path, count: int) -> None:
    """Make so many patches out of a few pictures: each is one more name of one of them.

    Args:
        drawn: the pictures, `NAME[1101].png`.
        folder: folder to make.
        count: how many names.
    """
    folder.mkdir(parents=True)
    for number in range(count):
        base, _, label = drawn[number % len(drawn)].name.partition("[")
        os.link(drawn[number % len(drawn)], folder / f"{base}{number // len(drawn):03d}[{label}")


@contextmanager
def _removed(folder: Path) -> Iterator[Path]:
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _measured(
    folder: Path, drawn: Sequence[Path], count: int, options: Options, *, cached: bool
) -> dict[str, Finished]:
    """Run the commands on so many patches; `cached`: also train once with decoded pictures kept in memory."""
    with _removed(folder):
        spread(drawn, folder / "data" / "train", count)
        recipes = {cache: folder / f"cache-{cache}.yaml" for cache in (True, False)}
        for cache, path in recipes.items():
            plain = recipe(folder / "data", folder / f"run-{cache}", options, cache=cache)
            path.write_text(yaml.safe_dump(plain), encoding="utf-8")
        run_folder = folder / "run-False"
        work = {
            "craanet": ["train", recipes[False], "--stage", "craanet"],
            "pseudo_labels": ["pseudo-labels", run_folder],
            "pfscnet": ["train", recipes[False], "--stage", "pfscnet"],
            "predict": ["predict", run_folder, folder / "data" / "train", "--out", folder / "maps"],
        }
        if cached:
            work["craanet_with_cache"] = ["train", recipes[True], "--stage", "craanet"]
        return {command: run_measured(words, options) for command, words in work.items()}


def recipe(data: Path, output: Path, options: Options, *, cache: bool) -> dict[str, Any]:
    """A recipe of the whole method with networks of a few channels."""
    return {
        "output": str(output),
        "tissues": "bcss-wsss",
        "data": {"path": str(data), "cache": cache},
        "craanet": {
            "encoder": {
                "name": "resnet10t",
                "output_stride": 8,
                "options": {"channels": [8, 16, 32, 64], "stem_width": 8},
            },
            "epochs": 1,
            "batch_size": 64,
        },
        "pseudo_labels": {"scales": [1.0], "symmetries": False},
        "pfscnet": {
            "init": "craanet",
            "epochs": 1,
            "batch_size": 64,
            "decoder_channels": 16,
            "contrast": {"dimensions": 8, "anchors": 64, "bank": 32},
            "dense_energy": {"samples": 8},
        },
        "inference": {"batch_size": 64},
        "hardware": {"device": options.device.type, "workers": 0, "threads": options.threads},
    }
