"""Does a network know what it does not know? Out-of-distribution warnings, and confidence before and after calibration.

    python -m benchmarks.trust [--sets synthetic luad glas]

On short trainings on synthetic tissue, on lung and on colon (patch labels only; masks of the test images judge the
calibration and nothing else). Runs are kept in runs/trust and gone on with. Two parts go to
`benchmarks/results/trust.json`:

- out of distribution: the test images as they are, and changed in resolution, stain, focus and compression; the share
  of patients or images that, alone, would be warned of, whether all together would be, and how well the distances tell
  changed from unchanged windows (area under the ROC curve), beside the distance of the pixel embeddings from the
  tissues' prototypes.
- calibration: expected calibration error on the test images without a temperature, with the one that `patch2tissue
  calibrate` chooses without masks, and with the best one there is for these images, which needs their masks.
"""

from __future__ import annotations

import argparse
import io
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageFilter
from skimage.color import hed2rgb, rgb2hed
from sklearn.metrics import roc_auc_score

from patch2tissue.atomic import write_text
from patch2tissue.config import RunConfig, load_config
from patch2tissue.cores import available_cores
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.evaluation.calibration import CalibrationCounts
from patch2tissue.evaluation.run_scores import test_patches
from patch2tissue.inference.calibrate import calibrate_run, fit_temperature
from patch2tissue.inference.confidence import apply_temperature, confidence_map
from patch2tissue.inference.familiarity import unlike_training
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.tiling import to_input
from patch2tissue.inference.training_distribution import KINDS, distances_of
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet
from patch2tissue.training_data import training_patches

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "trust.json"
RUNS = ROOT / "runs" / "trust"

_PLAIN = ("comparisons.cam=false", "comparisons.full_supervision=false", "hardware.threads=1")
SETS: dict[str, tuple[str, tuple[str, ...]]] = {
    "synthetic": ("demo.yaml", (*_PLAIN, "comparisons.cam_pipeline=false")),
    "luad": ("luad-regions.yaml", (*_PLAIN, "craanet.epochs=6", "pfscnet.epochs=5")),
    "glas": ("glas.yaml", (*_PLAIN, "craanet.epochs=4", "pfscnet.epochs=4")),
}
"""Recipe and changes of each set: short trainings, since it is not the score that counts here."""

MOST_IMAGES = 40
MOST_WINDOWS = 40

Change = Callable[[Image.Image], Image.Image]


def _zoom(factor: float) -> Change:
    method = Image.Resampling.BICUBIC if factor > 1 else Image.Resampling.BOX
    return lambda image: image.resize((round(image.width * factor), round(image.height * factor)), method)


def _stain(haematoxylin: float, eosin: float) -> Change:
    def change(image: Image.Image) -> Image.Image:
        amounts = rgb2hed(np.asarray(image))
        amounts[..., 0] *= haematoxylin
        amounts[..., 1] *= eosin
        return Image.fromarray((np.clip(hed2rgb(amounts), 0, 1) * 255).astype(np.uint8))

    return change


def _jpeg(quality: int) -> Change:
    def change(image: Image.Image) -> Image.Image:
        buffer = io.BytesIO()
        image.save(buffer, "JPEG", quality=quality)
        return Image.open(buffer).convert("RGB")

    return change


CHANGES: dict[str, Change] = {
    "unchanged": lambda image: image,
    "enlarged 1.5 times": _zoom(1.5),
    "enlarged 2 times": _zoom(2),
    "reduced 2 times": _zoom(0.5),
    "stain 1.5 times": _stain(1.5, 1.5),
    "stain 0.6 times": _stain(0.6, 0.6),
    "eosin 1.5 times": _stain(1, 1.5),
    "blurred, sigma 1 px": lambda image: image.filter(ImageFilter.GaussianBlur(1)),
    "blurred, sigma 2 px": lambda image: image.filter(ImageFilter.GaussianBlur(2)),
    "JPEG quality 30": _jpeg(30),
    "grey": lambda image: image.convert("L").convert("RGB"),
}


def trained(name: str) -> RunFolder:
    """A finished run of a set."""
    recipe, changes = SETS[name]
    settings = [f"output={RUNS / name}", f"data.path={RUNS / f'{name}-data'}", *changes]
    config = load_config(ROOT / "configs" / recipe, settings)
    return run_training(config)


# --- out of distribution ----------------------------------------------------------------------------------------------


def groups_of(patches: list[Patch]) -> dict[str, list[Patch]]:
    """Test images by patient, or slide, or alone."""
    found: dict[str, list[Patch]] = defaultdict(list)
    for patch in patches:
        found[patch.patient or patch.slide or patch.name].append(patch)
    return found


def windows_of(image: np.ndarray, side: int) -> list[np.ndarray]:
    """Windows of a picture; a smaller one is one window."""
    height, width = image.shape[:2]
    tops, lefts = range(0, max(1, height - side + 1), side), range(0, max(1, width - side + 1), side)
    return [image[top : top + side, left : left + side] for top in tops for left in lefts]


class Prototypes:
    """Mean pixel embedding of each tissue over training patches, and the distance from the nearest of them."""

    def __init__(self, predictor: Predictor, patches: list[Patch]) -> None:
        self.network = predictor.network
        sums = torch.zeros(len(predictor.tissues), self.network.settings["embedding_dimensions"])
        for patch in patches[:: max(1, len(patches) // 200)]:
            embedding, probabilities = self._pixels(read_image(patch.path))
            sure, tissue = probabilities.max(dim=1)
            sums.index_add_(0, tissue[sure > 0.7], embedding[sure > 0.7])
        self.vectors = torch.nn.functional.normalize(sums, dim=1)

    @torch.inference_mode()
    def _pixels(self, image: np.ndarray) -> tuple[torch.Tensor, torch.Tensor]:
        found = self.network(to_input(image[None], torch.device("cpu")))
        size = found.embedding.shape[-2:]
        small = torch.nn.functional.interpolate(found.logits.softmax(dim=1), size=size, mode="area")
        return found.embedding[0].flatten(1).mT, small[0].flatten(1).mT

    def distance(self, image: np.ndarray) -> float:
        """Mean over pixels of one minus the largest cosine."""
        embedding, _ = self._pixels(image)
        return float((1 - (embedding @ self.vectors.mT).max(dim=1).values).mean())


def out_of_distribution(run: RunFolder, patches: list[Patch]) -> dict[str, Any]:
    """What is warned of, by change."""
    predictor = Predictor.from_run(run)
    known = predictor.distribution
    assert known is not None
    prototypes = Prototypes(predictor, training_patches(run.config()))
    found: dict[str, Any] = {}
    unchanged: dict[str, list[float]] = {}
    for title, change in CHANGES.items():
        distances: dict[str, list[float]] = {kind: [] for kind in (*KINDS, "prototypes")}
        each = []
        for group in groups_of(patches).values():
            pictures = [np.asarray(change(Image.fromarray(read_image(patch.path)))) for patch in group]
            windows = [window for picture in pictures for window in windows_of(picture, known.side)][:MOST_WINDOWS]
            of_group = [
                distances_of(predictor.network, known, window[None], device=predictor.device, dtype=predictor.dtype)
                for window in windows
            ]
            together = np.concatenate([one.reshape(len(KINDS), -1) for one in of_group], axis=1)
            familiarity = known.familiarity(together)
            if familiarity is None:
                continue
            each.append(familiarity)
            for kind, values in zip(KINDS, together, strict=True):
                distances[kind] += values[~np.isnan(values)].tolist()
            distances["prototypes"] += [prototypes.distance(window) for window in windows[:10]]
        unchanged = unchanged or distances
        warned = [bool(unlike_training([one], "", None)) for one in each]
        found[title] = {
            "groups": len(each),
            "warned_alone": float(np.mean(warned)),
            "warned_together": bool(unlike_training(each, "", None)),
        }
        if title != "unchanged":
            found[title] |= {f"auc_{kind}": _auc(unchanged[kind], distances[kind]) for kind in distances}
        print(f"  {title}: {found[title]}", flush=True)
    return found


def _auc(usual: list[float], changed: list[float]) -> float:
    return round(float(roc_auc_score([0] * len(usual) + [1] * len(changed), usual + changed)), 3)


# --- calibration ------------------------------------------------------------------------------------------------------


def calibration(run: RunFolder, patches: list[Patch]) -> dict[str, float]:
    """Calibration error on test images."""
    chosen = calibrate_run(run, progress=False)
    predictor = Predictor.from_run(run)
    predictor.temperature = 1.0
    pairs = [
        (predictor.predict_array(read_image(patch.path)).probabilities, read_mask(patch.mask, predictor.tissues))
        for patch in patches
        if patch.mask is not None
    ]
    pixels, labels = _some_pixels(pairs, predictor.tissues)
    best = fit_temperature(pixels, labels)
    figures = {"images": len(pairs), "temperature": chosen.temperature, "best_temperature": best}
    for name, temperature in (("ece", 1.0), ("ece_calibrated", chosen.temperature), ("ece_best", best)):
        figures[name] = _ece(pairs, temperature, len(predictor.tissues))
    figures["confidence"] = float(pixels.max(axis=0).mean())
    figures["accuracy"] = float((pixels.argmax(axis=0) == labels).mean())
    print(f"  {figures}", flush=True)
    return {name: round(value, 4) for name, value in figures.items()}


def _some_pixels(pairs: list[tuple[np.ndarray, np.ndarray]], tissues: TissueSet) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(0)
    pixels, labels = [], []
    for probabilities, truth in pairs:
        known = np.flatnonzero(truth < len(tissues))
        known = known[rng.permutation(len(known))[:5000]]
        pixels.append(probabilities.reshape(len(probabilities), -1)[:, known])
        labels.append(truth.ravel()[known])
    return np.concatenate(pixels, axis=1), np.concatenate(labels)


def _ece(pairs: list[tuple[np.ndarray, np.ndarray]], temperature: float, tissues: int) -> float:
    counts = CalibrationCounts()
    for probabilities, truth in pairs:
        confidence = confidence_map(apply_temperature(probabilities, temperature))
        counts.update(probabilities.argmax(axis=0).astype(np.uint8), truth, confidence, tissues)
    error = counts.ece()
    assert error is not None
    return error


def tables(plain: dict[str, Any]) -> list[str]:
    """Tables of the documentation: warnings, how well changes are told, calibration."""
    found = plain["out_of_distribution"]
    names = list(found)
    warnings = [f"| | {' | '.join(f'{name}: one alone | all together' for name in names)} |", _rule(2 * len(names))]
    told = [f"| | {' | '.join(f'{name}: texture | colour | prototypes' for name in names)} |", _rule(3 * len(names))]
    for change in CHANGES:
        each = [found[name][change] for name in names]
        cells = [f"{one['warned_alone']:.0%} | {'yes' if one['warned_together'] else 'no'}" for one in each]
        warnings.append(f"| {change} | {' | '.join(cells)} |")
        if change != "unchanged":
            areas = [" | ".join(f"{one[f'auc_{kind}']:.2f}" for kind in (*KINDS, "prototypes")) for one in each]
            told.append(f"| {change} | {' | '.join(areas)} |")
    heads = {
        "accuracy": "right",
        "confidence": "sure",
        "ece": "ECE",
        "ece_calibrated": "ECE, calibrated",
        "ece_best": "ECE, best temperature",
    }
    errors = [f"| | {' | '.join(heads.values())} | temperature | best |", _rule(len(heads) + 2)]
    for name, one in plain["calibration"].items():
        percents = " | ".join(f"{100 * one[key]:.1f}" for key in heads)
        errors.append(f"| {name} | {percents} | {one['temperature']:.2f} | {one['best_temperature']:.2f} |")
    return ["\n".join(lines) for lines in (warnings, told, errors)]


def _rule(columns: int) -> str:
    return "|---|" + "---:|" * columns


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=list(SETS))
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    plain: dict[str, Any] = json.loads(options.out.read_text(encoding="utf-8")) if options.out.is_file() else {}
    plain |= {"machine": f"{processor_name()}, {available_cores()} cores", "commit": git_commit()}
    for name in options.sets:
        print(name, flush=True)
        run = trained(name)
        config: RunConfig = run.config()
        patches = test_patches(config, config.tissue_set())
        some = patches[:: max(1, len(patches) // MOST_IMAGES)]
        plain.setdefault("calibration", {})[name] = calibration(run, some)
        plain.setdefault("out_of_distribution", {})[name] = out_of_distribution(run, patches)
        write_text(options.out, json.dumps(plain, indent=2) + "\n")
    print("\n\n".join(tables(plain)))


if __name__ == "__main__":
    main()
