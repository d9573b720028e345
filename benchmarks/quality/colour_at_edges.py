"""How much colour tells about tissue at an edge: what a dense energy can know there.

    python -m benchmarks.quality.colour_at_edges [--sets glas …] [--patches 120]

The dense energy asks pixels that look alike and lie near each other to have one tissue. Here pairs of pixels 3 to 12
pixels apart are drawn near tissue edges, as many across an edge as not, and their colour distance is asked which are
which: the area under the ROC curve is 0.5 where colour tells nothing and 1 where it tells all. For pictures as they
are, and smoothed by Gaussians. Opens masks of train, to measure; nothing is trained or chosen by it.
Figures go to benchmarks/results/colour_at_edges.json.
"""

from __future__ import annotations

import argparse
import json
import os
import sys

import numpy as np
from scipy.ndimage import distance_transform_edt, gaussian_filter
from sklearn.metrics import roc_auc_score

from benchmarks.quality.cells import REAL, ROOT, code_state
from benchmarks.quality.recipes import SETS, load_recipe
from benchmarks.quality.rows import BY_NAME
from patch2tissue.atomic import write_text
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.evaluation.boundaries import tissue_boundary
from patch2tissue.tissues import IGNORE_INDEX, TissueSet
from patch2tissue.training_data import prepare_data, training_patches

SMOOTHING = (0.0, 1.0, 2.0, 4.0, 6.0)
"""Standard deviations of the Gaussians in pixels; 0 is the picture as it is."""
NEAR_EDGE = 8.0
"""Pixels: the first of a pair of one tissue lies no further from an edge."""
DISTANCES = (3.0, 12.0)
"""Pixels between the two of a pair, least and most."""
PAIRS = 60
"""Pairs of each kind that a patch gives at most."""


def pairs_at_edges(mask: np.ndarray, tissues: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pairs of pixels near tissue edges.

    Args:
        mask: uint8 [H, W], tissue or 255.
        tissues: number of tissues K.
        rng: of the draw.

    Returns:
        Places int64 [2n, 2, 2] (pair, which of the two, row and column), and whether both are of one tissue, bool [2n];
        half of them are. Empty if there are hardly any.
    """
    scored = mask != IGNORE_INDEX
    edge = np.any([tissue_boundary(mask, tissue, scored) for tissue in range(tissues)], axis=0)
    if not edge.any():
        return np.zeros((0, 2, 2), np.int64), np.zeros(0, bool)
    first = np.stack([rng.integers(0, side, 4000) for side in mask.shape], axis=1)
    second = first + rng.integers(-int(DISTANCES[1]), int(DISTANCES[1]) + 1, first.shape)
    apart = np.hypot(*(second - first).T)
    inside = ((second >= 0) & (second < mask.shape)).all(axis=1)
    kept = inside & (apart >= DISTANCES[0]) & (apart <= DISTANCES[1])
    first, second = first[kept], second[kept]
    one, other = mask[tuple(first.T)], mask[tuple(second.T)]
    known = (one != IGNORE_INDEX) & (other != IGNORE_INDEX)
    near = distance_transform_edt(~edge)[tuple(first.T)] <= NEAR_EDGE
    across, along = np.flatnonzero(known & (one != other)), np.flatnonzero(known & (one == other) & near)
    number = min(len(across), len(along), PAIRS)
    if number < 5:
        return np.zeros((0, 2, 2), np.int64), np.zeros(0, bool)
    chosen = np.concatenate([rng.choice(group, number, replace=False) for group in (across, along)])
    return np.stack([first[chosen], second[chosen]], axis=1), np.repeat([False, True], number)


def colour_at_edges(patches: list[Patch], tissues: TissueSet, rng: np.random.Generator) -> dict[str, float]:
    """Area under the ROC curve of colour distance for "one tissue", by smoothing in pixels; and the number of pairs."""
    alike: dict[float, list[np.ndarray]] = {width: [] for width in SMOOTHING}
    same: list[np.ndarray] = []
    for patch in patches:
        if patch.mask is None:
            continue
        places, one_tissue = pairs_at_edges(read_mask(patch.mask, tissues), len(tissues), rng)
        picture = read_image(patch.path).astype(np.float32)
        for width in SMOOTHING:
            smooth = gaussian_filter(picture, (width, width, 0)) if width else picture
            colours = smooth[places[..., 0], places[..., 1]]
            alike[width].append(-np.linalg.norm(colours[:, 0] - colours[:, 1], axis=1))
        same.append(one_tissue)
    truth = np.concatenate(same)
    areas = {f"smoothed_{width:g}px": float(roc_auc_score(truth, np.concatenate(alike[width]))) for width in SMOOTHING}
    return areas | {"pairs": len(truth)}


def main(arguments: list[str] | None = None) -> int:
    """Measure the sets that are named."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    parser.add_argument("--patches", type=int, default=120, help="patches of several tissues to look at, per set")
    chosen = parser.parse_args(arguments)
    os.chdir(ROOT)  # recipes name data relative to the checkout
    target = REAL.results.with_name("colour_at_edges.json")
    figures = json.loads(target.read_text(encoding="utf-8"))["figures"] if target.is_file() else {}
    for name in chosen.sets:
        recipe = load_recipe(name, load_recipe(name, "random").headline)
        config = recipe.config(BY_NAME["cross_entropy"], 0, REAL.work)
        prepare_data(config)
        rng = np.random.default_rng(0)
        mixed = [patch for patch in training_patches(config) if sum(patch.labels or ()) > 1]
        picked = [mixed[i] for i in rng.permutation(len(mixed))[: chosen.patches]]
        figures[name] = colour_at_edges(picked, config.tissue_set(), rng)
        shown = ", ".join(f"{key} {value:.3f}" for key, value in figures[name].items() if key != "pairs")
        print(f"{name}, {figures[name]['pairs']} pairs: {shown}")
        write_text(target, json.dumps({**code_state(), "figures": figures}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
