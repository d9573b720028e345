"""Pages: how soon the first patch is labelled, how soon the next one is seen, and how long a tile of a slide takes.

    python -m benchmarks.viewer [--patches 20000] [--keys 200] [--size 40000] [--tiles 1600]

Labelling, in a real browser. A folder of patches of 224 px (links to a few hundred different ones) is labelled in
headless Chromium, which runs already. `start`: seconds from starting `patch2tissue label` until the first answer is
saved. `next`: milliseconds from the key that goes on until the next patch is decoded and a frame with it is drawn.
Needs Chromium on the PATH, and hard links.

Viewer, over HTTP. A synthetic slide of `--size` pixels, made of copies of a piece of 10,000, all tissue, with a map of
the same shape. Sixteen connections ask for tiles at a time, as browsers do that look at different places: all levels,
half of the slide and half of the map. `cold`: the first time each tile is asked for; `warm`: the second time.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from PIL import Image
from tests.label_page.browser import CHROMIUM, Command, Server, browser

from patch2tissue.atomic import write_text
from patch2tissue.cores import available_cores
from patch2tissue.data.synthetic.whole_slides import WholeSlide
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.slides.pyramid import write_classes_tiff, write_picture_tiff
from patch2tissue.tissues import load_tissue_set

ROOT = Path(__file__).resolve().parents[1]
PIECE = 10_000
PARALLEL = 16
TISSUES = load_tissue_set("bcss-wsss")
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


def tiles(folder: Path, size: int, count: int) -> dict[str, float]:
    """Milliseconds per tile of slide and map, by 16 connections at a time."""
    slide, maps = folder / "slide.tif", folder / "maps"
    maps.mkdir()
    picture = WholeSlide(PIECE, PIECE, seed=2).picture.read(0, PIECE)
    write_picture_tiff(slide, Tiled(picture, size // PIECE), (0.5, 0.5))
    # four tissues by brightness, as rugged as tissue is
    classes = np.digitize(picture[..., 1], (120, 160, 200)).astype(np.uint8)
    write_classes_tiff(maps / "slide_classes.tif", Tiled(classes, size // PIECE), TISSUES, (0.5, 0.5))
    server = Command("view", slide, "--maps", maps, "--no-browser")
    try:
        scene = httpx.get(f"{server.address}api/scenes/0").json()
        rng = random.Random(0)
        paths = set()
        while len(paths) < count:
            level = rng.randint(scene["deepest"] - 7, scene["deepest"])
            side = -(-size // 2 ** (scene["deepest"] - level))
            place = f"{level}/{rng.randrange(-(-side // 256))}_{rng.randrange(-(-side // 256))}"
            paths.add(f"scenes/0/{rng.choice(('slide', 'layers/0'))}/{place}")
        ordered = sorted(paths, key=lambda path: rng.random())
        found: dict[str, float] = {}
        for state in ("cold", "warm"):
            for kind, part in (("slide", "slide"), ("maps", "layers")):
                waits = ask_all(server.address, [path for path in ordered if f"/{part}/" in path])
                found[f"{kind}_tile_{state}_ms_p50"] = round(statistics.median(waits), 1)
                found[f"{kind}_tile_{state}_ms_p95"] = round(statistics.quantiles(waits, n=20)[-1], 1)
        return found
    finally:
        server.kill()


def ask_all(address: str, paths: Sequence[str]) -> list[float]:
    """Ask for all by 16 connections; milliseconds each took."""
    with httpx.Client(timeout=60, limits=httpx.Limits(max_connections=PARALLEL)) as client:

        def ask(path: str) -> float:
            begin = time.perf_counter()
            client.get(address + path).raise_for_status()
            return 1000 * (time.perf_counter() - begin)

        with ThreadPoolExecutor(PARALLEL) as pool:
            return list(pool.map(ask, paths))


class Tiled:
    """A picture or map laid beside itself, as `Rows`."""

    def __init__(self, piece: np.ndarray, times: int) -> None:
        self._piece, self._times = piece, times
        self.shape = (piece.shape[0] * times, piece.shape[1] * times, *piece.shape[2:])

    def read(self, top: int, bottom: int) -> np.ndarray:
        """Rows top to bottom - 1."""
        rows = self._piece[np.arange(top, bottom) % len(self._piece)]
        return np.concatenate([rows] * self._times, axis=1)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=20_000)
    parser.add_argument("--keys", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--size", type=int, default=40_000)
    parser.add_argument("--tiles", type=int, default=1600)
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
    with tempfile.TemporaryDirectory() as temporary:
        figures |= {"slide_px": float(options.size)} | tiles(Path(temporary), options.size, options.tiles)
    about = {"machine": f"{processor_name()}, {available_cores()} cores", "commit": git_commit(), "keys": len(waits)}
    write_text(options.out, json.dumps(about | {"figures": figures}, indent=2) + "\n")
    for name, value in figures.items():
        print(f"{name:28} {value:10.2f}")


if __name__ == "__main__":
    main()
