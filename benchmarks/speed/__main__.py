"""How fast patch2tissue is: prints the table; its figures go to benchmarks/results/speed.json and docs/performance.md.

    python -m benchmarks.speed [--only dense_energy …] [--device cpu] [--threads N] [--repeats 5]

Every figure is a ratio of two things that were timed in turn in the same run, but for start-up, memory and errors.
A call with `--only` replaces the figures of those parts and keeps the others. Run it on a machine that does nothing
else. `--quick` shows that it works; it writes nothing.
"""

from __future__ import annotations

import argparse
import importlib
import json
import platform
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from benchmarks.speed.harness import Options, Section
from benchmarks.speed.page import write_page
from patch2tissue.atomic import write_text
from patch2tissue.cores import available_cores
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.hardware import choose_device

PARTS = ("dense_energy", "pixel_contrast", "accumulation", "training", "predict", "startup", "scale", "data_sets")
"""Modules of this package with a function `run(options) -> Section`, in the order in which they run."""

RESULTS = Path(__file__).resolve().parents[1] / "results" / "speed.json"


def show(sections: list[Section]) -> None:
    """Print the figures."""
    console = Console(width=160)
    for section in sections:
        table = Table(title=section.title, title_justify="left", box=None, pad_edge=False)
        for column in ("figure", "value", "target", "", "floor"):
            table.add_column(column, justify="right" if column == "value" else "left")
        for line in section.lines:
            mark = {True: "reached", False: "missed", None: ""}[line.reached]
            table.add_row(line.key, f"{line.value:.4g}", line.target, mark, line.floor)
        console.print(table)


def merged(old: dict[str, Any], sections: dict[str, Section], facts: dict[str, Any]) -> dict[str, Any]:
    """The content of `speed.json` with the figures of some parts replaced.

    Args:
        old: what is in the file.
        sections: what was measured, by part.
        facts: on what machine and by which commit.
    """
    details, measured, targets = (dict(old.get(name, {})) for name in ("details", "measured", "targets"))
    figures = {name: value for name, value in old.items() if name not in ("details", "measured", "targets")}
    for part, section in sections.items():
        details[part], measured[part] = section.details, facts
        for line in section.lines:
            figures[line.key] = line.value
            targets[line.key] = {"target": line.target, "reached": line.reached, "floor": line.floor}
    return {**dict(sorted(figures.items())), "targets": targets, "details": details, "measured": measured}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=available_cores())
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--quick", action="store_true", help="tiny sizes; nothing is written")
    parser.add_argument("--out", type=Path, default=RESULTS)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    options = Options(choose_device(given.device), given.threads, given.repeats, given.quick)
    facts = {
        "processor": processor_name(),
        "device": options.device.type if options.device.type != "cuda" else torch.cuda.get_device_name(),
        "threads": given.threads,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }
    sections: dict[str, Section] = {}
    for part in given.only:
        sections[part] = importlib.import_module(f"benchmarks.speed.{part}").run(options)
        show([sections[part]])
        if not given.quick:  # after each part, so that a call that is stopped keeps what it found
            old = json.loads(given.out.read_text(encoding="utf-8")) if given.out.is_file() else {}
            results = merged(old, sections, facts)
            write_text(given.out, json.dumps(results, indent=2, ensure_ascii=False) + "\n")
            if given.out == RESULTS:
                write_page(results)
    if len(sections) > 1:
        show(list(sections.values()))


if __name__ == "__main__":
    main()
