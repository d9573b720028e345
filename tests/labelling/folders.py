"""Data folders to label."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def data_folder(root: Path, count: int = 12, *, labels: bool = False, size: int = 24) -> Path:
    """A folder with `train/p00.png`, `p01.png`, …; with labels in their names if asked."""
    train = root / "train"
    train.mkdir(parents=True)
    for number in range(count):
        shades = np.random.default_rng(number).integers(80, 220, (size, size, 3), dtype=np.uint8)
        label = f"-[{number % 2} 1 0 0]" if labels else ""
        Image.fromarray(shades).save(train / f"p{number:02}{label}.png")
    return root
