"""Every recipe in a small, fixed form, and the scores that it had when they were last looked at.

    .venv/bin/python tests/integration/golden.py --update-golden [RECIPE …]

trains each recipe once as the test does and once for each of `VARIATIONS`, which round otherwise as another processor
would, and writes `golden_scores.json`: the scores, how far the variations are from them, and a tolerance for each.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import timm
import torch
from PIL import Image
from safetensors.torch import save_file

from patch2tissue.builtin_recipes import recipe_folder
from patch2tissue.config import RunConfig, load_config
from patch2tissue.data.images import read_image, read_mask, write_mask
from patch2tissue.data.labels import format_name
from patch2tissue.data.layouts import image_files, image_folder
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.pipeline import run_training
from patch2tissue.tissues import IGNORE_INDEX, TissueSet, load_tissue_set

SEED, DIFFICULTY = 11, "easy"
"""Of the pictures."""

GOLDEN = Path(__file__).with_name("golden_scores.json")

RECIPES = sorted(path.stem for path in recipe_folder().glob("*.yaml") if not path.stem.startswith("foundation-"))
"""All but those of foundation models, whose frozen weights cannot be had here: at random ones they learn little."""

LEAST_TOLERANCE = 0.01
"""In MIoU, as a fraction: one point. Twice what the variations made of a score, where that is more."""

VARIATIONS: dict[str, dict[str, str]] = {
    "two threads": {"GOLDEN_THREADS": "2", "OMP_WAIT_POLICY": "PASSIVE"},
    "a processor with AVX2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"},
}
"""Environment variables under which sums are taken in another order, or products rounded otherwise."""

_SMALL = {
    "craanet.epochs": 6,
    "craanet.batch_size": 8,
    "craanet.learning_rate": 0.002,
    "craanet.encoder_rate": 1.0,
    "pfscnet.epochs": 6,
    "pfscnet.batch_size": 8,
    "pfscnet.learning_rate": 0.003,
    "pfscnet.encoder_rate": 1.0,
    "pfscnet.decoder_channels": 32,
    "pfscnet.atrous_rates": "[2, 4, 6]",
    "pfscnet.weight_averaging": 0.9,
    "pfscnet.contrast.dimensions": 16,
    "pfscnet.contrast.anchors": 128,
    "pfscnet.contrast.bank": 64,
    "pseudo_labels.scales": "[1.0]",
    "comparisons": "{}",
    "hardware": "{device: cpu, precision: float32, workers: 0}",
}
"""What makes a recipe small: passes, width, and rates that learn something in so few steps."""


def small_config(recipe: str, folder: Path, threads: int) -> RunConfig:
    """A recipe in its small form, with its data made.

    Args:
        recipe: its name.
        folder: for data and run.
        threads: CPU threads.
    """
    config = load_config(recipe_folder() / f"{recipe}.yaml")
    settings = {**_SMALL, "output": folder / "run", "hardware.threads": threads}
    if config.craanet.encoder.pretrained:
        for section in ("craanet", "pfscnet"):
            settings |= {f"{section}.encoder.name": "resnet10t", f"{section}.encoder.pretrained": "false"}
        settings["pfscnet.init"] = "craanet"
    elif config.craanet.encoder.weights is not None:
        weights = _random_weights(config.craanet.encoder.name, folder / "weights.safetensors")
        settings |= {f"{section}.encoder.weights": weights for section in ("craanet", "pfscnet")}
    settings["data.path"] = folder / "data"
    source = config.data.source
    if config.data.layout == "bcss-wsss":
        make_synthetic(folder / "data", train=72, test=16, size=64, difficulty=DIFFICULTY, seed=SEED)
    elif source is None:
        make_patches(folder / "data", config.tissue_set(), train=72, test=16, size=64)
    elif source.kind == "synthetic":
        settings |= {"data.source.train": 72, "data.source.test": 16, "data.source.size": 64}
        settings["data.source.difficulty"] = DIFFICULTY
    else:
        make_regions(folder / "regions", config.tissue_set(), train=8, val=4, size=192)
        settings |= {"data.source.path": folder / "regions", "data.source.size": 64, "data.source.stride": 64}
        settings |= {"inference.tile": 192}
    return load_config(recipe_folder() / f"{recipe}.yaml", [f"{key}={value}" for key, value in settings.items()])


def _random_weights(name: str, path: Path) -> Path:
    """An encoder's weights as they are at random, in the file that a recipe would have pretrained ones in."""
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    save_file(timm.create_model(name, pretrained=False).state_dict(), path)
    return path


def make_patches(folder: Path, tissues: TissueSet, *, train: int, test: int, size: int) -> None:
    """Labelled patches, with masks to score on, in the file names of LUAD-HistoSeg."""
    for split, number, image, mask in _drawn(tissues, train=train, test=test, size=size):
        labels = [int((mask == k).any()) for k in range(len(tissues))]
        name = f"{format_name(f'{1031280 + number}-2300-27920', labels)}.png"
        images = folder / split if split == "train" else folder / split / "img"
        _write(images / name, folder / split / "mask" / name, image, mask, tissues)


def make_regions(folder: Path, tissues: TissueSet, *, train: int, val: int, size: int) -> None:
    """Images with masks, from which patches are cut."""
    for split, number, image, mask in _drawn(tissues, train=train, val=val, size=size):
        name = f"{split}{number:02d}.png"
        _write(folder / split / "img" / name, folder / split / "mask" / name, image, mask, tissues)


def _drawn(tissues: TissueSet, *, size: int, **counts: int) -> Iterator[tuple[str, int, np.ndarray, np.ndarray]]:
    """Synthetic tissue: split, number, image, mask. The last tissue of a smaller set stands for all further ones."""
    synthetic = load_tissue_set("bcss-wsss")
    with tempfile.TemporaryDirectory() as drawn:
        folder = Path(drawn) / "set"
        make_synthetic(folder, **{"test": 0, **counts}, size=size, difficulty=DIFFICULTY, seed=SEED)
        for split, count in counts.items():
            images = image_files(image_folder(folder / split))
            assert len(images) == count
            for number, path in enumerate(images):
                mask = read_mask(folder / split / "mask" / path.name, synthetic)
                scored = mask != IGNORE_INDEX
                mask[scored] = np.minimum(mask[scored], len(tissues) - 1)
                yield split, number, read_image(path), mask


def _write(image_path: Path, mask_path: Path, image: np.ndarray, mask: np.ndarray, tissues: TissueSet) -> None:
    image_path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(image).save(image_path)
    write_mask(mask_path, mask, tissues)


def scores_of(recipe: str, folder: Path, change: Callable[[RunConfig], None] = lambda config: None) -> dict[str, float]:
    """Train a recipe in its small form, and score it.

    Args:
        recipe: its name.
        folder: for data and run.
        change: made to the configuration before training.

    Returns:
        MIoU of every kind of pseudo labels and of the network, by name.
    """
    config = small_config(recipe, folder, threads=int(os.environ.get("GOLDEN_THREADS", "1")))
    change(config)
    scores = score_run(run_training(config, progress=False), progress=False)
    return {
        f"{part}.{method}": float(values["miou"])
        for part in ("pseudo_labels", "test")
        for method, values in scores[part].items()
    }


def differences(one: dict[str, float], two: dict[str, float]) -> dict[str, float]:
    """How far scores of the same names are apart."""
    assert one.keys() == two.keys()
    return {name: round(abs(one[name] - two[name]), 5) for name in one}


def _in_another_process(recipe: str, environment: dict[str, str]) -> dict[str, float]:
    """Scores of a recipe under environment variables that libraries read when they are loaded."""
    command = [sys.executable, __file__, "--print", recipe]
    done = subprocess.run(command, env=os.environ | environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _measured(recipe: str) -> dict[str, Any]:
    """Scores, what the variations made of them, and the tolerance of each."""
    begin = time.perf_counter()
    scores = _in_another_process(recipe, {"OMP_NUM_THREADS": "1"})
    seconds = time.perf_counter() - begin
    found = {name: differences(scores, _in_another_process(recipe, changed)) for name, changed in VARIATIONS.items()}
    print(f"{recipe}: {seconds:.0f} s, differences {found}", flush=True)
    return {
        "scores": {name: round(score, 5) for name, score in scores.items()},
        "differences": found,
        "tolerances": {name: tolerance([made[name] for made in found.values()]) for name in scores},
    }


def tolerance(found: Iterable[float]) -> float:
    """Tolerance of a score from the differences that the variations made."""
    return round(max(LEAST_TOLERANCE, 2 * max(found)), 3)


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--update-golden", action="store_true", help="write golden_scores.json")
    parser.add_argument("--print", metavar="RECIPE", choices=RECIPES, help="train one recipe and print its scores")
    parser.add_argument("recipes", nargs="*", default=RECIPES, metavar="RECIPE")
    options = parser.parse_args()
    if options.print:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(scores_of(options.print, Path(folder))))
    elif options.update_golden:
        golden = json.loads(GOLDEN.read_text(encoding="utf-8")) if GOLDEN.is_file() else {}
        for recipe in options.recipes:
            golden[recipe] = _measured(recipe)
            GOLDEN.write_text(json.dumps(dict(sorted(golden.items())), indent=2) + "\n", encoding="utf-8")
    else:
        parser.error("give --update-golden")


if __name__ == "__main__":
    main()
