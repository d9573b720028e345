"""Which patches a data set holds: their tissues, slides, places and seeds, all known before anything is drawn."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from patch2tissue.data.synthetic.difficulty import Composition, difficulty_named
from patch2tissue.data.synthetic.patches import UM_PER_PIXEL
from patch2tissue.data.synthetic.slides import Slide

SITES = {"train": "A1", "val": "B1", "test": "C1"}
"""Site code of each split's patients, so that no patient is in two splits."""
_PATCHES_PER_SLIDE = {"train": 20, "val": 12, "test": 12}
_SPLIT_KEY = {"train": 0, "val": 1, "test": 2}
_PLAN, _SLIDE, _PATCH = range(3)  # keys of the random streams


@dataclass(frozen=True)
class Task:
    """One patch to draw.

    Attributes:
        split: train, val or test.
        index: number within the split.
        stem: file name up to the label.
        composition: tissues it shall hold.
        slide: number of its slide within the split.
        difficulty: name of the level.
        size: side in pixels.
        seed: seed of the data set.
    """

    split: str
    index: int
    stem: str
    composition: Composition
    slide: int
    difficulty: str
    size: int
    seed: int

    def patch_seed(self) -> np.random.SeedSequence:
        """Seed of this patch alone: it does not depend on how many patches there are or who draws them."""
        return np.random.SeedSequence(self.seed, spawn_key=(_SPLIT_KEY[self.split], _PATCH, self.index))

    def make_slide(self) -> Slide:
        """The slide this patch is cut from."""
        stream = np.random.SeedSequence(self.seed, spawn_key=(_SPLIT_KEY[self.split], _SLIDE, self.slide))
        return Slide.random(np.random.default_rng(stream), difficulty_named(self.difficulty).stain_shift)


def plan_split(split: str, count: int, size: int, difficulty: str, seed: int) -> list[Task]:
    """Plan the patches of one split, in the order of their index.

    Compositions appear in exactly their shares (largest remainder), slides about equally often.

    Args:
        split: train, val or test.
        count: number of patches.
        size: side in pixels.
        difficulty: name of the level.
        seed: seed of the data set.
    """
    rng = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(_SPLIT_KEY[split], _PLAN)))
    compositions = _in_shares(difficulty_named(difficulty).compositions, count)
    compositions = [compositions[k] for k in rng.permutation(count)]
    slides = max(1, round(count / _PATCHES_PER_SLIDE[split]))
    slide_of = rng.permutation(np.arange(count) % slides)
    tasks = []
    for index in range(count):
        xmin, ymin = (int(value) for value in rng.integers(0, 60000, 2))
        stem = f"SYN-{SITES[split]}-{slide_of[index]:04d}-DX1_xmin{xmin}_ymin{ymin}_MPP-{UM_PER_PIXEL:.4f}+{index}"
        tasks.append(Task(split, index, stem, compositions[index], int(slide_of[index]), difficulty, size, seed))
    return tasks


def _in_shares(shares: Mapping[Composition, float], count: int) -> list[Composition]:
    """List `count` compositions in the given shares."""
    exact = {composition: share * count for composition, share in shares.items()}
    numbers = {composition: int(value) for composition, value in exact.items()}
    by_remainder = sorted(exact, key=lambda composition: numbers[composition] - exact[composition])
    for composition in by_remainder[: count - sum(numbers.values())]:
        numbers[composition] += 1
    return [composition for composition, number in numbers.items() for _ in range(number)]
