"""Fuzz the parsers with atheris, each in a process of its own, and write counts to benchmarks/results/fuzz.json.

    python -m fuzz --seconds 600

Inputs that end a parser in an unexpected way are kept in .fuzz/; give one again with

    python -m fuzz --target geojson .fuzz/crash-...
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

# nothing of patch2tissue and nothing it reads with: what is imported before atheris instruments it is not watched

ROOT = Path(__file__).resolve().parents[1]
CORPUS = Path(__file__).resolve().parent / "corpus"
RESULTS = ROOT / "benchmarks" / "results" / "fuzz.json"
KEPT = ROOT / ".fuzz"

_TARGETS = ("label_names", "label_table", "slide_list", "configuration", "tissue_set", "geojson")
_LONGEST_INPUT = 4096
_SECONDS_PER_INPUT = 10
_MIB = 2048


def fuzz_here(target: str, arguments: list[str]) -> None:
    """Fuzz one parser in this process, which atheris ends."""
    import atheris

    # what is imported here is instrumented; numpy and shapely are left as they are
    with atheris.instrument_imports(include=["patch2tissue", "yaml", "csv", "gzip"]):
        from fuzz.targets import TARGETS
    atheris.Setup([sys.argv[0], *arguments], TARGETS[target])
    atheris.Fuzz()


def fuzz_apart(target: str, seconds: int) -> dict[str, Any]:
    """Fuzz one parser in a process of its own.

    Returns:
        `executions`, `seconds`, `crashes`, `coverage` (places of the code reached) and `inputs` (that reach new ones).
    """
    from fuzz.seeds import write_words

    grown = KEPT / target
    grown.mkdir(parents=True, exist_ok=True)
    write_words(KEPT / f"{target}.dict", target)
    command = [sys.executable, "-m", "fuzz", "--target", target, str(grown), str(CORPUS / target)]
    command += [f"-max_total_time={seconds}", f"-dict={KEPT / f'{target}.dict'}", f"-artifact_prefix={KEPT}/"]
    command += [f"-max_len={_LONGEST_INPUT}", f"-timeout={_SECONDS_PER_INPUT}", f"-rss_limit_mb={_MIB}"]
    command += ["-print_final_stats=1"]
    begin = time.monotonic()
    # files in memory where that can be: a disk would take most of the time
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if memory.is_dir() else None) as folder:
        done = subprocess.run(
            command,
            cwd=ROOT,
            env={**os.environ, "TMPDIR": folder},
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
    found = _counts(done.stderr) | {"seconds": round(time.monotonic() - begin), "crashes": int(done.returncode != 0)}
    if done.returncode != 0:
        print(done.stderr[-4000:], file=sys.stderr)
    return found


def _counts(told: str) -> dict[str, int]:
    """What libFuzzer told at its end."""
    executions = re.findall(r"stat::number_of_executed_units:\s+(\d+)", told) or re.findall(r"^#(\d+)", told, re.M)
    states = re.findall(r"cov: (\d+) ft: \d+ corp: (\d+)/", told)
    coverage, inputs = states[-1] if states else (0, 0)
    return {"executions": int(executions[-1]) if executions else 0, "coverage": int(coverage), "inputs": int(inputs)}


def main() -> int:
    """Fuzz; returns 1 if a parser crashed."""
    parser = argparse.ArgumentParser(prog="python -m fuzz", description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=int, default=600, help="in all; the targets share them")
    parser.add_argument("--target", choices=_TARGETS, help="only this one, in this process; further arguments go to it")
    parser.add_argument("--out", type=Path, default=RESULTS, help="file for the counts")
    options, further = parser.parse_known_args()
    try:
        atheris_version = version("atheris")
    except ImportError:
        print("fuzz: atheris is not installed here. `make fuzz` makes an environment with it.", file=sys.stderr)
        return 2
    if options.target is not None:
        fuzz_here(options.target, further)
        return 0
    from patch2tissue.atomic import write_text
    from patch2tissue.cores import available_cores
    from patch2tissue.environment import git_commit, processor_name

    found, commit = {}, git_commit()
    for target in _TARGETS:
        print(f"{target} ...", flush=True)
        found[target] = fuzz_apart(target, max(1, options.seconds // len(_TARGETS)))
        print("  " + ", ".join(f"{name} {value}" for name, value in found[target].items()), flush=True)
    totals = {name: sum(counts[name] for counts in found.values()) for name in ("executions", "seconds", "crashes")}
    plain = {
        "machine": f"{processor_name()}, {available_cores()} cores",
        "commit": commit,
        "atheris": atheris_version,
        "figures": {**totals, "targets": found},
    }
    write_text(options.out, json.dumps(plain, indent=2) + "\n")
    print(f"{totals['executions']} inputs in {totals['seconds']} s, {totals['crashes']} crashes: {options.out}")
    return int(totals["crashes"] > 0)


if __name__ == "__main__":
    sys.exit(main())
