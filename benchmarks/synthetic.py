"""Synthetic tissue: patches drawn and written per minute and core.

    python benchmarks/synthetic.py [--patches 120]

Times are of the processor, so that other work on the machine does not count. The reference of the ratio is writing the
same patches as PNG without drawing them, in the same run.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from pathlib import Path

from PIL import Image

from patch2tissue.atomic import write_text
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.environment import git_commit, processor_name

SIZES = (96, 128, 224)


def measure(patches: int, size: int, folder: Path) -> tuple[float, float]:
    """Seconds to draw and write `patches` patches with their masks on one core, and to write them again."""
    begin = time.process_time()
    make_synthetic(folder / "set", train=patches, test=0, size=size, difficulty="hard", workers=1)
    drawn = time.process_time() - begin
    images = [Image.open(path).copy() for path in sorted((folder / "set" / "train").rglob("*.png"))]
    begin = time.process_time()
    for number, image in enumerate(images):
        image.save(folder / f"{number}.png", format="PNG")
    return drawn, time.process_time() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--patches", type=int, default=120, help="patches per size")
    patches = parser.parse_args().patches
    figures: dict[str, float] = {}
    print(f"{'size':>5} {'patches/min/core':>17} {'ms/patch':>9} {'of it, writing':>15}")
    for size in SIZES:
        with tempfile.TemporaryDirectory() as folder:
            drawn, written = measure(patches, size, Path(folder))
        rate, share = 60 * patches / drawn, written / drawn
        figures[f"patches_per_minute_per_core_{size}px"] = round(rate, 1)
        figures[f"writing_share_{size}px"] = round(share, 3)
        print(f"{size:>5} {rate:>17.0f} {1000 * drawn / patches:>9.1f} {share:>15.2f}")
    result = {
        "machine": f"{processor_name()}, {os.cpu_count()} cores",
        "commit": git_commit(),
        "figures": {"patches": patches, **figures},
    }
    out = Path(__file__).parent / "results" / "synthetic.json"
    write_text(out, json.dumps(result, indent=2) + "\n")
    print(f"written to {out.name}")


if __name__ == "__main__":
    main()
