"""Command line of the quality benchmark.

    python -m benchmarks.quality [--sets glas …] [--rows cam …] [--seeds 0 1 2] [--quick]

Run it from the root of a checkout. Cells that are there are not made again, and a cell that was interrupted goes on
from its last whole epoch. Networks and labels go to runs/quality/, results to benchmarks/results/quality/, the figures
to benchmarks/results/quality.json, and the tables to docs/results.md. One process per set and encoder at a time.
"""

from __future__ import annotations

import argparse
import os
import sys

from benchmarks.quality.cells import REAL, ROOT, apart
from benchmarks.quality.figures import TUNING_SEEDS
from benchmarks.quality.recipes import ENCODERS, SETS
from benchmarks.quality.rows import ROWS, chosen_rows
from benchmarks.quality.runner import planned_cells, run_cells
from benchmarks.quality.tables import write_tables


def main(arguments: list[str] | None = None) -> int:
    """Run what the arguments name; return 1 if a cell failed."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    names = [row.name for row in ROWS]
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    parser.add_argument("--encoders", nargs="+", choices=ENCODERS, metavar="ENCODER", help=", ".join(ENCODERS))
    parser.add_argument("--rows", nargs="+", choices=names, metavar="ROW", help=", ".join(names))
    parser.add_argument("--seeds", nargs="+", type=int, help=f"default 0 1 2; {TUNING_SEEDS} and more are for tuning")
    parser.add_argument("--quick", action="store_true", help="every row on next to nothing, in runs/quality-quick/")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--list", action="store_true", help="list the cells, and which are there, and stop")
    parser.add_argument("--no-train", action="store_true", help="only write the tables again")
    chosen = parser.parse_args(arguments)
    os.chdir(ROOT)  # recipes name data relative to the checkout
    seeds = chosen.seeds or ([0] if chosen.quick else [0, 1, 2])
    tuning = [seed >= TUNING_SEEDS for seed in seeds]
    if any(tuning) and not all(tuning):
        parser.error(f"seeds from {TUNING_SEEDS} on are for tuning and go elsewhere: run them by themselves")
    if chosen.quick:
        places = apart(ROOT / "runs" / "quality-quick")
    else:
        places = apart(ROOT / "runs" / "quality-tuning", tuning=True) if any(tuning) else REAL
    cells = planned_cells(chosen.sets, chosen.encoders, chosen_rows(chosen.rows), seeds, quick=chosen.quick)
    if chosen.list:
        for number, cell in enumerate(cells, start=1):
            print(f"{number:4} {cell.state(places):8} {cell.name}")
        return 0
    if chosen.no_train:
        write_tables(places, quick=chosen.quick)
        print(f"written: {places.figures}, {places.page}")
        return 0
    return 1 if run_cells(cells, places, threads=chosen.threads, quick=chosen.quick) else 0


if __name__ == "__main__":
    sys.exit(main())
