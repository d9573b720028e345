"""A plain loop over the same tiles: OpenSlide reads a batch, the network draws it, the map is a memory-mapped array.

    python -m benchmarks.slide_systems.plain RUN SLIDE MASK OUT

As many write it: float32, no processes that read ahead, and where tiles overlap the later one wins.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import openslide
import torch

from patch2tissue.inference.slides.plan import plan_tiles
from patch2tissue.pfscnet.network import load_pfscnet
from patch2tissue.run_folder import RunFolder
from patch2tissue.slides.opening import open_slide
from patch2tissue.slides.scaled import ScaledSlide
from patch2tissue.slides.tissue_mask import read_tissue_mask


def main() -> None:
    """Predict the slide, which has the network's resolution."""
    run, path, mask, out = (Path(argument) for argument in sys.argv[1:])
    config = RunFolder(run).config()
    network = load_pfscnet(RunFolder(run).pfscnet, torch.device("cpu")).eval()
    begin = time.perf_counter()
    with open_slide(path) as slide:
        resolution = config.tissue_set().um_per_pixel
        assert resolution is not None
        view = ScaledSlide(slide, resolution)
        assert view.scale == (1.0, 1.0), "this loop does not resample"
        settings = config.inference
        plan = plan_tiles(view.size, settings.tile, settings.overlap, read_tissue_mask(mask, slide), view.scale)
    out.mkdir(parents=True, exist_ok=True)
    classes = np.lib.format.open_memmap(out / "classes.npy", "w+", np.uint8, (plan.height, plan.width))
    height, width = plan.tile
    places = [(plan.lefts[column], plan.tops[row]) for row, column in np.argwhere(plan.present)]
    handle = openslide.OpenSlide(str(path))
    with torch.inference_mode():
        for start in range(0, len(places), settings.batch_size):
            batch = places[start : start + settings.batch_size]
            tiles = [np.asarray(handle.read_region(place, 0, (width, height)).convert("RGB")) for place in batch]
            images = torch.from_numpy(np.stack(tiles)).permute(0, 3, 1, 2).float() / 255
            found = network.segment(images).argmax(dim=1).to(torch.uint8).numpy()
            for (left, top), tissue in zip(batch, found, strict=True):
                classes[top : top + height, left : left + width] = tissue
    classes.flush()
    print(json.dumps({"tiles": plan.tiles, "seconds": time.perf_counter() - begin}))


if __name__ == "__main__":
    main()
