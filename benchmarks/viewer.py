"""Pages in a real browser: how soon the first patch is labelled, and how soon the next one is seen.

    python -m benchmarks.viewer [--patches 20000] [--keys 200]

A folder of patches of 224 px (links to a few hundred different ones) is labelled in headless Chromium, which runs
already. `start`: seconds from starting `patch2tissue label` until the first answer is saved. `next`: milliseconds from
the key that goes on until the next patch is decoded and a frame with it is drawn. Needs Chromium on the PATH. Linux, or
any system with hard links.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from tests.label_page.browser import CHROMIUM, Server, browser

from patch2tissue.atomic import write_text
from patch2tissue.cores import available_cores
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.environment import git_commit, processor_name

ROOT = Path(__file__).resolve().parents[1]
SIDE = 224
DIFFERENT = 256

_MEASURE = """() => {
  window.seen = [];
  const stage = document.querySelector("#stage");
  let pressed = null;
  document.addEventListener("keydown", (event) => { if (event.key === " ") pressed = performance.now(); }, true);
  new MutationObserver(async () => {
    const image = stage.querySelector("img");
    if (pressed === null || !image) return;
    const begin = pressed;
    pressed = null;
    await image.decode();
    requestAnimationFrame(() => requestAnimationFrame(() => window.seen.push(performance.now() - begin)));
  }).observe(stage, { childList: true });
}"""


def make_patches(folder: Path, count: int) -> None:
    """Patches of synthetic tissue; a few hundred files under many names."""
    across = round(DIFFERENT**0.5)
    picture = WholeSlide(across * SIDE, across * SIDE, seed=3).picture.read(0, across * SIDE)
    train = folder / "train"
    train.mkdir(parents=True)
    first = []
    for number in range(count):
        path = train / f"p{number:06}.png"
        if number < DIFFERENT:
            row, column = divmod(number, across)
            part = picture[row * SIDE : (row + 1) * SIDE, column * SIDE : (column + 1) * SIDE]
            Image.fromarray(np.ascontiguousarray(part)).save(path)
            first.append(path)
        else:
            os.link(first[number % DIFFERENT], path)


def measure(chromium: Any, folder: Path, keys: int) -> tuple[float, list[float]]:
    """Seconds to the first saved answer, and milliseconds to each next patch."""
    begin = time.perf_counter()
    server = Server(folder)
    context = chromium.new_context(viewport={"width": 1280, "height": 800})
    try:
        page = context.new_page()
        page.goto(f"{server.address}?annotator=Ada")
        page.wait_for_selector("#stage figure img")
        page.keyboard.press("1")
        page.keyboard.press("Space")
        page.wait_for_selector("#count:has-text('1 of')", state="attached")
        page.wait_for_selector("#saving:text-is('all saved')")
        start = time.perf_counter() - begin
        page.evaluate(_MEASURE)
        for number in range(keys):
            page.keyboard.press(str(1 + number % 4))
            page.keyboard.press("Space")
            # faster than anybody looks at a patch, slower than keys that are held down
            page.wait_for_timeout(200)
        return start, page.evaluate("() => window.seen")
    finally:
        context.close()
        server.kill()


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks" / "results" / "viewer.json")
    options = parser.parse_args()
    if CHROMIUM is None:
        raise SystemExit("There is no Chromium on the PATH.")
    starts: list[float] = []
    waits: list[float] = []
    with tempfile.TemporaryDirectory() as temporary, browser() as chromium:
        for turn in range(options.repeats):
            folder = Path(temporary) / str(turn)
            make_patches(folder, options.patches)
            start, seen = measure(chromium, folder, options.keys)
            starts.append(start)
            waits += seen
            middle = statistics.median(seen)
            print(f"turn {turn + 1}: first answer saved after {start:.2f} s; next patch {middle:.0f} ms")
    cuts = statistics.quantiles(waits, n=20)
    figures = {
        "patches": float(options.patches),
        "start_seconds": round(statistics.mean(starts), 3),
        "start_seconds_most": round(max(starts), 3),
        "next_ms_p50": round(statistics.median(waits), 1),
        "next_ms_p95": round(cuts[-1], 1),
        "next_ms_most": round(max(waits), 1),
    }
    about = {"machine": f"{processor_name()}, {available_cores()} cores", "commit": git_commit(), "keys": len(waits)}
    write_text(options.out, json.dumps(about | {"figures": figures}, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:24} {value:10.2f}")


if __name__ == "__main__":
    main()
