"""What the tests of trained peers share: a tiny configuration, and its patches."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from safetensors.torch import load_file

from conftest import RECIPES, TINY
from patch2tissue.config import RunConfig, load_config
from patch2tissue.data.patches import Patch
from patch2tissue.training_data import training_patches

SIDE = 32


def tiny_config(tmp_path: Path, fabricate: Callable[..., Path], layout: str = "bcss-wsss") -> RunConfig:
    """Two epochs of two steps on eight fabricated patches."""
    data = fabricate(tmp_path / "data", layout, train=8, test=0, side=SIDE)
    changes = [f"output={tmp_path / 'run'}", f"data.path={data}", *TINY, "craanet.epochs=2", "pfscnet.epochs=2"]
    return load_config(RECIPES / f"{layout}.yaml", changes)


def patches_of(config: RunConfig) -> list[Patch]:
    return list(training_patches(config))


def same_weights(one: Path, two: Path) -> bool:
    first, second = (load_file(folder / "weights.safetensors") for folder in (one, two))
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)
