"""Colour at edges: pairs are what they are said to be, and colour that tells all or nothing is found out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from benchmarks.quality.colour_at_edges import DISTANCES, colour_at_edges, pairs_at_edges
from PIL import Image

from patch2tissue.data.images import write_mask
from patch2tissue.data.patches import Patch
from patch2tissue.tissues import load_tissue_set


def halves() -> np.ndarray:
    mask = np.zeros((64, 64), np.uint8)
    mask[:, 32:] = 1
    mask[:6] = 255
    return mask


def test_pairs_are_near_the_edge_half_across_it_and_none_unscored() -> None:
    mask = halves()
    places, same = pairs_at_edges(mask, 2, np.random.default_rng(0))
    assert len(places) == len(same) > 40 and same.mean() == 0.5
    one, other = (mask[tuple(places[:, i].T)] for i in (0, 1))
    assert ((one == other) == same).all() and (one != 255).all() and (other != 255).all()
    apart = np.hypot(*(places[:, 0] - places[:, 1]).T)
    assert apart.min() >= DISTANCES[0] and apart.max() <= DISTANCES[1]
    assert np.abs(places[same, 0, 1] - 31.5).max() < 9


def test_no_edge_gives_no_pairs() -> None:
    places, same = pairs_at_edges(np.zeros((32, 32), np.uint8), 2, np.random.default_rng(0))
    assert len(places) == len(same) == 0


@pytest.mark.parametrize(("tells", "low", "high"), [(True, 0.99, 1.0), (False, 0.35, 0.65)])
def test_area_is_one_where_colour_is_tissue_and_a_half_where_it_is_noise(
    tmp_path: Path, tells: bool, low: float, high: float
) -> None:
    tissues, mask = load_tissue_set("glas"), halves()
    write_mask(tmp_path / "mask.png", mask, tissues)
    picture = np.random.default_rng(1).integers(0, 40, (*mask.shape, 3)).astype(np.uint8)
    if tells:
        picture[mask == 1] += 200
    Image.fromarray(picture).save(tmp_path / "picture.png")
    patch = Patch(tmp_path / "picture.png", "picture", (1, 1), tmp_path / "mask.png")
    found = colour_at_edges([patch], tissues, np.random.default_rng(0))
    assert low <= found["smoothed_0px"] <= high
