"""One cell of the table: its file, whether that is still true, and how it is made."""

from __future__ import annotations

import json
import os
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.quality.recipes import Recipe
from benchmarks.quality.rows import Row
from benchmarks.quality.settings import Settings, cell_settings, digest, same_settings
from benchmarks.quality.workshop import Workshop
from patch2tissue.atomic import atomic_path, write_text
from patch2tissue.data.patches import Patch
from patch2tissue.environment import processor_name
from patch2tissue.evaluation.boundaries import BoundaryCounts
from patch2tissue.evaluation.folders import Pair, Scores, evaluate_pairs, group_names
from patch2tissue.evaluation.label_noise import pseudo_label_noise
from patch2tissue.evaluation.scores import ConfusionMatrix
from patch2tissue.tissues import TissueSet

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Places:
    """Where results and artefacts go.

    Attributes:
        results: one folder per set, with one file per cell; committed.
        work: data sets, networks, labels; not committed.
        page: page whose section is rewritten.
        figures: the file of figures.
        tuning: whether the tables are of the seeds on which settings are chosen.
    """

    results: Path
    work: Path
    page: Path
    figures: Path
    tuning: bool = False


REAL = Places(
    ROOT / "benchmarks" / "results" / "quality",
    ROOT / "runs" / "quality",
    ROOT / "docs" / "results.md",
    ROOT / "benchmarks" / "results" / "quality.json",
)


def apart(folder: Path, *, tuning: bool = False) -> Places:
    """Places below one folder, for results that must not be mixed with the real ones."""
    return Places(folder / "results", folder, folder / "results.md", folder / "quality.json", tuning)


@dataclass(frozen=True)
class Cell:
    """A set with an encoder, a row and a seed."""

    recipe: Recipe
    row: Row
    seed: int

    @property
    def name(self) -> str:
        """Its name for people, such as `glas/pretrained/cam-s0`."""
        return f"{self.recipe.set}/{self.recipe.encoder}/{self.row.name}-s{self.seed}"

    def file(self, places: Places) -> Path:
        """Where its result is written."""
        return places.results / f"{self.name}.json"

    def settings(self, places: Places) -> Settings:
        """What its result depends on."""
        config = self.recipe.config(self.row, self.seed, places.work)
        return cell_settings(config, self.row, self.recipe.train_patches, self.recipe.test_images)

    def state(self, places: Places) -> str:
        """`done`: its result is there, of the settings that it has now; `outdated`: of others; `to do`."""
        result = read_cell(self.file(places))
        if result is None:
            return "to do"
        return "done" if same_settings(result["settings"], self.settings(places)) else "outdated"


def read_cell(path: Path) -> dict[str, Any] | None:
    """The result in a file, None if there is none."""
    if not path.is_file():
        return None
    result: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return result


def code_state() -> dict[str, Any]:
    """Commit, and whether code that counts was changed since."""

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", *arguments], cwd=ROOT, capture_output=True, text=True, timeout=20, check=False
            )
        except (OSError, subprocess.TimeoutExpired):
            return None
        return done.stdout.strip() if done.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    # results of this very benchmark are tracked, too, and change while it runs
    changed = git("status", "--porcelain", "--", "src", "benchmarks/quality")
    return {"commit": commit, "dirty": None if changed is None else bool(changed)}


def run_cell(cell: Cell, places: Places, *, threads: int | None = None, code: dict[str, Any] | None = None) -> None:
    """Make, score and write one cell, whether or not it is there.

    Args:
        cell: which.
        places: where to.
        threads: CPU threads, None: all cores.
        code: what `code_state` said when the program was loaded.

    Raises:
        ConfigError, DataError, TrainingError: from the package.
    """
    begin = time.perf_counter()
    row, recipe = cell.row, cell.recipe
    twin = _twin(cell, places)
    if twin is not None:
        result = twin | {"row": row.name, "seconds_of_this_call": round(time.perf_counter() - begin, 1)}
        write_text(cell.file(places), json.dumps(result, indent=1, allow_nan=False) + "\n")
        return
    config = recipe.config(row, cell.seed, places.work, threads)
    shop = Workshop(config, recipe.train_patches, recipe.test_images)
    noise = None
    if row.kind == "stage1":
        labels = shop.labels(row.labels)
        scored_at = time.perf_counter()
        scores, counts = score(shop.patches, labels.scored, shop.tissues)
        learned = scores if labels.learned == labels.scored else score(shop.patches, labels.learned, shop.tissues)[0]
        noise = pseudo_label_noise(learned.confusion, shop.tissues)
    else:
        run = shop.network(row)
        scored_at = time.perf_counter()
        scores, counts = score(shop.images, shop.predictions(run), shop.tissues)
    settings = cell.settings(places)
    result = {
        "set": recipe.set,
        "encoder": recipe.encoder,
        "row": row.name,
        "seed": cell.seed,
        "scored_on": "masks of train" if row.kind == "stage1" else "test images",
        "scores": scores.to_dict(),
        "images": scores.images,
        "interval_over": scores.grouped_by,
        "label_noise": noise,
        **(code or code_state()),
        # all that the row needs, also where another row had made it before
        "seconds": round(sum(shop.spent.values()) + time.perf_counter() - scored_at, 1),
        "seconds_of_this_call": round(time.perf_counter() - begin, 1),
        "threads": torch.get_num_threads(),
        "machine": machine(),
        "settings_digest": digest(settings),
        "settings": settings,
    }
    file = cell.file(places)
    if row.counts:
        with atomic_path(file.with_suffix(".npz")) as temporary:
            np.savez_compressed(temporary, **counts)  # type: ignore[arg-type]
    write_text(file, json.dumps(result, indent=1, allow_nan=False) + "\n")


def _twin(cell: Cell, places: Places) -> dict[str, Any] | None:
    """The result of another row of networks with the very settings of this one, None if there is none.

    A row beyond the paper that a recipe has adopted is the full method itself, and need not be trained once more.
    """
    if cell.row.kind == "stage1" or cell.row.counts:
        return None
    own = cell.settings(places)
    for file in sorted(cell.file(places).parent.glob(f"*-s{cell.seed}.json")):
        result = read_cell(file)
        if result is None or result["row"] == cell.row.name or result["scored_on"] != "test images":
            continue
        if same_settings(result["settings"], own):
            return result
    return None


def score(patches: list[Patch], files: list[Path], tissues: TissueSet) -> tuple[Scores, dict[str, np.ndarray]]:
    """Compare label maps with masks.

    Returns:
        The scores; and by image `confusion` uint32 [I, K, K + 1] and `boundary` uint32 [I, tolerances, K, 4], see
        `ConfusionMatrix` and `BoundaryCounts`.
    """
    masked = [(patch, file) for patch, file in zip(patches, files, strict=True) if patch.mask is not None]
    grouped_by, groups = group_names([patch.name for patch, _ in masked])
    confusions: list[np.ndarray] = []
    boundaries: list[np.ndarray] = []

    def keep(pair: Pair, confusion: ConfusionMatrix, edges: BoundaryCounts) -> None:
        confusions.append(confusion.counts.astype(np.uint32))
        boundaries.append(edges.counts.astype(np.uint32))

    pairs = [
        Pair(patch.name, file, patch.mask, group)
        for (patch, file), group in zip(masked, groups, strict=True)
        if patch.mask is not None
    ]
    scores = evaluate_pairs(pairs, tissues, grouped_by=grouped_by, each=keep)
    return scores, {"confusion": np.stack(confusions), "boundary": np.stack(boundaries)}


def machine() -> str:
    """Processor, cores, and the accelerator if there is one."""
    text = f"{processor_name()}, {os.cpu_count()} cores"
    return f"{text}, {torch.cuda.get_device_name()}" if torch.cuda.is_available() else text
