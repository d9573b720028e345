"""Whole slides: tiles per second against a plain loop and TIAToolbox, and memory on slides of growing size.

    python -m benchmarks.slides [--run runs/demo] [--tia PYTHON] [--size 40000] [--window 12000] [--repeats 3]
    python -m benchmarks.slides --memory 10000 20000 40000 80000

Speed: a synthetic slide of `--size` pixels a side is made once; all systems draw the same tiles with the same network,
those with tissue in the middle `--window` pixels, in turns, each as a process of its own. `tiles/s` is from opening the
slide to the map on disk; ours then also writes the pyramid, outlines, areas and an overlay. Last, ours draws the whole
slide. TIAToolbox is left out without `--tia`, the python of an environment that holds it (see
`slide_systems/tia.py`).

Memory: slides of each size, made of copies of one of 10,000 pixels along the upper and the left edge, so that tissue
lies in all columns and in all rows, since filling the rest would take hours. Ours draws all of each. The network goes
by colour and needs next to nothing, so that what is seen is what the slide needs.

Memory is the greatest proportional set size (PSS) of a process and its children, looked at five times a second; for
slides of growing size without the code of libraries, which counts less the more processes have loaded it. Linux only.
The network is that of a run folder; `make demo` makes `runs/demo`.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from patch2tissue.atomic import write_text
from patch2tissue.cores import available_cores
from patch2tissue.data.synthetic.slide_files import write_synthetic_slide
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.pyramid import write_picture_tiff
from patch2tissue.slides.tissue_mask import find_tissue

ROOT = Path(__file__).resolve().parents[1]
PIECE = 10_000

OURS = "patch2tissue"
KEYS = {
    OURS: OURS,
    "plain loop, float32": "plain_loop",
    "TIAToolbox, float32": "tiatoolbox",
    "TIAToolbox, bfloat16": "tiatoolbox_bfloat16",
}
"""Systems, and their names in figures."""


class Repeated:
    """A picture laid beside itself along the upper and the left edge of a larger one, as `Rows`; elsewhere is glass."""

    def __init__(self, picture: np.ndarray, times: int) -> None:
        self._picture, self._times = picture, times
        height, width = picture.shape[:2]
        self.shape = (height * times, width * times, 3)

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Rows top to bottom - 1."""
        height, width = self._picture.shape[:2]
        rows = np.arange(top, bottom)
        found = np.empty((len(rows), self.shape[1], 3), np.uint8)
        found[:] = self._picture[0, 0]
        own = self._picture[rows % height]
        found[:, :width] = own
        across = rows < height
        found[across] = np.tile(own[across], (1, self._times, 1))
        return found


def memory_of(process: int) -> tuple[float, float]:
    """Memory of a process and all that it started, in MiB: all of it, and without files mapped into it.

    Both are proportional: of what processes share each counts its part. So the first depends on what else runs, since
    libraries that other processes have loaded, too, count less.
    """
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue
            children.setdefault(parent, []).append(int(entry.name))
    total, own, waiting = 0.0, 0.0, [process]
    while waiting:
        number = waiting.pop()
        waiting += children.get(number, [])
        try:
            lines = Path(f"/proc/{number}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        found = {line.split()[0]: int(line.split()[1]) / 1024 for line in lines[1:]}
        total += found["Pss:"]
        own += found["Pss_Anon:"] + found["Pss_Shmem:"]
    return total, own


def run_system(python: str, name: str, *arguments: str) -> dict[str, Any]:
    """Run a system; what it printed, and its greatest memory."""
    environment = {**os.environ, "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}"}
    command = [python, "-m", f"benchmarks.slide_systems.{name}", *arguments]
    begin = time.perf_counter()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment) as child:
        most, over = [0.0, 0.0], threading.Event()

        def watch() -> None:
            while not over.wait(0.2):
                most[:] = map(max, most, memory_of(child.pid))

        watcher = threading.Thread(target=watch, daemon=True)
        watcher.start()
        printed, errors = child.communicate()
        over.set()
        watcher.join()
    if child.returncode != 0:
        raise SystemExit(f"{' '.join(command)} failed:\n{errors[-3000:]}")
    line = next(line for line in reversed(printed.splitlines()) if line.startswith("{"))
    whole = time.perf_counter() - begin
    return {**json.loads(line), "process_seconds": whole, "peak_mib": most[0], "peak_own_mib": most[1]}


def slide_for_speed(folder: Path, size: int) -> Path:
    """The synthetic slide, made if it is not there."""
    path = folder / f"synthetic-{size}.tif"
    if not path.is_file():
        print(f"making {path} ...", flush=True)
        begin = time.perf_counter()
        write_synthetic_slide(path, size, size, seed=1)
        print(f"  {time.perf_counter() - begin:.0f} s", flush=True)
    return path


def window_mask(slide: Path, window: int, path: Path) -> Path:
    """Tissue in the middle of a slide, as a mask file."""
    with open_slide(slide) as opened:
        tissue = find_tissue(opened)
    height, width = tissue.mask.shape
    half_x, half_y = (round(window / 2 / scale) for scale in tissue.scale)
    kept = np.zeros_like(tissue.mask)
    middle = (
        slice(max(0, height // 2 - half_y), height // 2 + half_y),
        slice(max(0, width // 2 - half_x), width // 2 + half_x),
    )
    kept[middle] = tissue.mask[middle]
    Image.fromarray(kept.astype(np.uint8) * 255).save(path)
    return path


def speed(options: argparse.Namespace) -> dict[str, Any]:
    """All systems in turns on the window, then ours on the whole slide."""
    folder = options.folder
    slide = slide_for_speed(folder, options.size)
    mask = window_mask(slide, options.window, folder / f"window-{options.window}.png")
    systems: dict[str, tuple[str, str, tuple[str, ...]]] = {
        OURS: (sys.executable, "ours", ()),
        "plain loop, float32": (sys.executable, "plain", ()),
    }
    if options.tia:
        systems["TIAToolbox, float32"] = (options.tia, "tia", ())
        systems["TIAToolbox, bfloat16"] = (options.tia, "tia", ("bfloat16",))
    found: dict[str, list[dict[str, Any]]] = {name: [] for name in systems}
    for turn in range(options.repeats):
        for name, (python, module, extra) in systems.items():
            with_out = folder / "out"
            shutil.rmtree(with_out, ignore_errors=True)
            result = run_system(python, module, str(options.run), str(slide), str(mask), str(with_out), *extra)
            result["tiles_per_second"] = result["tiles"] / result["seconds"]
            found[name].append(result)
            print(f"turn {turn + 1}: {name:22} {result['tiles']} tiles {result['seconds']:.1f} s", flush=True)
    whole = {}
    if not options.no_whole:
        shutil.rmtree(folder / "out", ignore_errors=True)
        whole = run_system(sys.executable, "ours", str(options.run), str(slide), "found", str(folder / "out"))
        print(f"whole slide: {whole['tiles']} tiles, map {whole['seconds']:.0f} s, all {whole['all_seconds']:.0f} s")
    shutil.rmtree(folder / "out", ignore_errors=True)
    return {"size": options.size, "window": options.window, "systems": found, "whole_slide": whole}


def memory(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Ours on slides of growing size."""
    picture = WholeSlide(PIECE, PIECE, seed=2).picture.read(0, PIECE)
    found = []
    for size in options.memory:
        path = options.folder / f"repeated-{size}.tif"
        if not path.is_file():
            write_picture_tiff(path, Repeated(picture, size // PIECE), (0.5, 0.5))
        shutil.rmtree(options.folder / "out", ignore_errors=True)
        arguments = (str(options.run), str(path), "found", str(options.folder / "out"))
        result = run_system(sys.executable, "ours", *arguments, "by-colour")
        shutil.rmtree(options.folder / "out", ignore_errors=True)
        found.append({"size": size, **result})
        print(
            f"{size} px: {result['tiles']} tiles {result['all_seconds']:.0f} s, {result['peak_own_mib']:.0f} MiB",
            flush=True,
        )
        if not options.keep:
            path.unlink()
    return found


def figures(speed_runs: dict[str, Any] | None, memory_runs: list[dict[str, Any]] | None) -> dict[str, float]:
    """The figures that documentation cites, from the runs of both parts.

    Args:
        speed_runs: what `speed` found, None if it was not run.
        memory_runs: what `memory` found, likewise.
    """
    found: dict[str, float] = {}
    if speed_runs:
        systems = speed_runs["systems"]
        rates = {name: [run["tiles_per_second"] for run in runs] for name, runs in systems.items()}
        for name, runs in systems.items():
            key = KEYS[name]
            found[f"{key}.tiles_per_second"] = statistics.mean(rates[name])
            found[f"{key}.peak_mib"] = max(run["peak_mib"] for run in runs)
            if name != OURS:
                ratios = [mine / theirs for mine, theirs in zip(rates[OURS], rates[name], strict=True)]
                found[f"speedup_vs_{key}"] = statistics.mean(ratios)
                found[f"speedup_vs_{key}_least"] = min(ratios)
        found["waiting_share"] = statistics.mean(run["waiting_share"] for run in systems[OURS])
    if memory_runs:
        for run in memory_runs:
            found[f"peak_own_mib_{run['size']}_px"] = run["peak_own_mib"]
        peaks = [run["peak_own_mib"] for run in memory_runs]
        found["peak_memory_ratio"] = max(peaks) / peaks[0]
    return {name: round(value, 4) for name, value in found.items()}


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=ROOT / "runs" / "demo")
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "benchmark-slides", help="for slides and maps")
    parser.add_argument("--tia", help="python of an environment with TIAToolbox")
    parser.add_argument("--size", type=int, default=40_000)
    parser.add_argument("--window", type=int, default=12_000)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--no-whole", action="store_true", help="leave out the whole slide")
    parser.add_argument("--memory", type=int, nargs="*", help="measure memory at these sizes instead of speed")
    parser.add_argument("--keep", action="store_true", help="keep the slides made for --memory")
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "slides.json")
    options = parser.parse_args()
    if not (options.run / "config.yaml").is_file():
        raise SystemExit(f"{options.run}: is no run. Make one with `make demo`, or name another with --run.")
    options.folder.mkdir(parents=True, exist_ok=True)
    earlier = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    part, measure = ("speed", speed) if options.memory is None else ("memory", memory)
    about = {
        "machine": f"{processor_name()}, {available_cores()} cores, torch {torch.__version__}",
        "commit": git_commit(),
    }
    parts = earlier.get("parts", {}) | {part: about | {"runs": measure(options)}}
    runs = {name: parts[name]["runs"] if name in parts else None for name in ("speed", "memory")}
    found = figures(runs["speed"], runs["memory"])
    write_text(options.out, json.dumps(about | {"figures": found, "parts": parts}, indent=2) + "\n")
    for name, value in found.items():
        print(f"{name:40} {value:10.2f}")
    print(f"written to {options.out}")


if __name__ == "__main__":
    main()
