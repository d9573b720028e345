"""A made-up run folder with pictures that look like tissue: for tests of the report, and to look at it by hand.

By hand: `python tests/report/fabricated_run.py FOLDER` makes FOLDER/data and FOLDER/run and writes the report.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter, zoom

from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet, load_tissue_set

METHODS = {"cam_pipeline": 0.55, "cross_entropy_only": 0.3, "full_method": 0.22, "full_supervision": 0.1}
VARIANTS = {"cam": 0.8, "last_epoch": 0.6, "accumulated": 0.35, "refined": 0.28}


def fabricate_run(
    folder: Path,
    *,
    train: int = 12,
    test: int = 9,
    side: int = 64,
    epochs: int = 10,
    masks: bool = True,
    comparisons: bool = True,
    tissues: str = "bcss-wsss",
    seed: int = 0,
) -> RunFolder:
    """Write `folder/data` and a complete `folder/run` that fits it."""
    rng = np.random.default_rng(seed)
    palette = load_tissue_set(tissues)
    root, run = folder / "data", RunFolder(folder / "run")
    config = {
        "output": str(run.path),
        "tissues": tissues,
        "data": {"path": str(root), "source": {"kind": "synthetic", "train": train, "test": test, "size": side}},
        "craanet": {"epochs": epochs},
        "pfscnet": {"epochs": epochs},
        "pseudo_labels": {"margin": 0.05},
        "comparisons": {"cam": comparisons, "cross_entropy_only": comparisons, "full_supervision": comparisons},
    }
    run.path.mkdir(parents=True)
    run.config_file.write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    versions = {"patch2tissue": "0.1.0", "torch": "2.15.0", "timm": "1.0.31"}
    command = ["patch2tissue", "train", "my recipe.yaml"]
    environment = {"python": "3.11.9", "cores": 4, "seed": seed, "command": command, "versions": versions}
    run.environment_file.write_text(json.dumps(environment), encoding="utf-8")

    learned, confusion = {}, {}
    for split, count in (("train", train), ("test", test)):
        for number in range(count):
            field = _field(rng, len(palette), side, 1 + (number + 1) % 3)
            truth = field.argmax(axis=0).astype(np.uint8)
            present = [int((truth == k).any()) for k in range(len(palette))]
            label = "".join(map(str, present))
            name = f"SYN-A{number % 4}-{number:04d}-DX1_xmin{100 * number}_ymin50_MPP-0.5000+0[{label}]"
            images = root / split if split == "train" else root / split / "img"
            _save(images / f"{name}.png", Image.fromarray(_stained(rng, truth)))
            if masks:
                _save_mask(root / split / "mask" / f"{name}.png", truth, palette)
            kinds = VARIANTS if split == "train" else METHODS
            for kind, error in kinds.items():
                if not comparisons and kind not in ("last_epoch", "accumulated", "refined", "full_method"):
                    continue
                noisy = _noisy(rng, field, present, error * (0.4 + 1.4 * number / count))
                labels = noisy.argmax(axis=0).astype(np.uint8)
                table = confusion.setdefault(kind, np.zeros((len(palette), len(palette)), dtype=int))
                np.add.at(table, (truth.ravel(), labels.ravel()), 1)
                if split == "test":
                    _save_mask(run.predictions(kind) / f"{name}_mask.png", labels, palette)
                    continue
                _save_mask(run.pseudo_labels / "variants" / kind / f"{name}.png", labels, palette)
                if kind == "refined":
                    lead = np.clip(-np.subtract(*np.sort(noisy, axis=0)[-2:]) / 1.2, 0, 1)
                    labels[lead < 0.05] = 255
                    _save_mask(run.pseudo_labels / "masks" / f"{name}.png", labels, palette)
                    picture = Image.fromarray((255 * lead).astype(np.uint8))
                    _save(run.pseudo_labels / "confidence" / f"{name}.png", picture)
            if split == "train":
                learned[name] = (field, present)
    _history(rng, run, learned, epochs, side)
    _curves(rng, run, epochs, comparisons)
    if masks:
        _scores(rng, run, palette, confusion, sorted(path.stem for path in (root / "test" / "img").glob("*.png")))
    return run


def _field(rng: np.random.Generator, tissues: int, side: int, number: int) -> np.ndarray:
    """Smooth scores [K, S, S]; the largest is the tissue. Only `number` tissues occur."""
    field = gaussian_filter(rng.normal(size=(tissues, side, side)), (0, side / 9, side / 9), mode="wrap")
    field /= field.std()
    absent = rng.permutation(tissues)[number:]
    field[absent] = -9.0
    return field


def _stained(rng: np.random.Generator, truth: np.ndarray) -> np.ndarray:
    side = truth.shape[0]
    base = np.array([(176, 108, 168), (232, 168, 200), (120, 84, 160), (224, 196, 214)], dtype=float)[truth]
    density = np.array([0.42, 0.12, 0.7, 0.05])[truth]
    nuclei = gaussian_filter(rng.normal(size=(side, side)), 1.1) * 4
    grain = gaussian_filter(rng.normal(size=(side, side)), 0.7)[..., None] * 26
    dark = (nuclei > np.quantile(nuclei, 1 - density.mean()) + 0.8 - density)[..., None]
    image = np.where(dark, np.array([92.0, 50.0, 130.0]), base) + grain
    return np.clip(image, 0, 255).astype(np.uint8)


def _noisy(rng: np.random.Generator, field: np.ndarray, present: list[int], error: float) -> np.ndarray:
    noise = gaussian_filter(rng.normal(size=field.shape), (0, field.shape[1] / 14, field.shape[1] / 14), mode="wrap")
    noisy = field + 2.2 * error * noise / noise.std()
    noisy[~np.asarray(present, dtype=bool)] = -9.0
    return noisy


def _save(path: Path, image: Image.Image) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


def _save_mask(path: Path, labels: np.ndarray, palette: TissueSet) -> None:
    image = Image.fromarray(labels, mode="P")
    image.putpalette(palette.palette())
    _save(path, image)


def _history(
    rng: np.random.Generator, run: RunFolder, learned: dict[str, tuple[np.ndarray, list[int]]], epochs: int, side: int
) -> None:
    names = sorted(learned, key=lambda name: -sum(learned[name][1]))[:6]
    grid, start = side // 8, epochs // 2
    current = np.zeros((epochs, len(names), len(learned[names[0]][1]), grid, grid), dtype=np.float16)
    accumulated = np.zeros_like(current)
    for p, name in enumerate(names):
        field, present = learned[name]
        for e in range(epochs):
            noisy = zoom(_noisy(rng, field, present, 1.3 / (1 + 0.35 * e)), (1, grid / side, grid / side), order=1)
            exponential = np.exp((noisy - noisy.max(axis=0)) * (0.5 + 0.25 * e)) * np.array(present)[:, None, None]
            current[e, p] = exponential / exponential.sum(axis=0)
            if e >= start:
                accumulated[e, p] = current[start : e + 1, p].mean(axis=0)
    run.craanet.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        run.craanet / "attention_history.npz",
        names=np.array(names),
        epochs=np.arange(1, epochs + 1),
        current=current,
        accumulated=accumulated,
        present=np.array([learned[name][1] for name in names], dtype=np.uint8),
    )


def _curves(rng: np.random.Generator, run: RunFolder, epochs: int, comparisons: bool) -> None:
    folders = {run.craanet: ("loss", "label_f1", "learning_rate")}
    folders[run.pfscnet] = ("loss", "loss_ce", "loss_energy", "loss_contrast", "labels_changed", "learning_rate")
    if comparisons:
        folders[run.cam] = ("loss", "label_f1", "learning_rate")
        for name in ("cross_entropy_only", "full_supervision", "cam_pipeline"):
            folders[run.comparison(name)] = ("loss", "loss_ce", "learning_rate")
    for folder, names in folders.items():
        rows = ["epoch,name,value"]
        for epoch in range(1, epochs + 1):
            for name in names:
                late = name in ("loss_energy", "loss_contrast") and epoch <= 0.2 * epochs
                if late or (name == "labels_changed" and epoch <= epochs // 2):
                    continue
                value = np.exp(-0.25 * epoch) + 0.2 + 0.03 * rng.normal()
                value = {"label_f1": 1.0 - value / 2, "learning_rate": 1e-3 * (1 - epoch / (epochs + 1))}.get(
                    name, value
                )
                rows.append(f"{epoch},{name},{0.04 * value if name == 'labels_changed' else value:.6g}")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.csv").write_text("\n".join(rows) + "\n", encoding="utf-8")


def _scores(
    rng: np.random.Generator, run: RunFolder, palette: TissueSet, confusion: dict[str, np.ndarray], names: list[str]
) -> None:
    scores: dict[str, object] = {"supervision": "image-level labels"}
    detail: dict[str, object] = {}
    for part, kinds in (("pseudo_labels", VARIANTS), ("test", METHODS)):
        entries, details = {}, {}
        for kind in kinds:
            if kind not in confusion:
                continue
            table = confusion[kind]
            hits = np.diag(table)
            iou = hits / (table.sum(0) + table.sum(1) - hits).clip(min=1)
            miou, acc = float(iou.mean()), float(hits.sum() / table.sum())
            entries[kind] = {
                "miou": miou,
                "fwiou": float((iou * table.sum(1) / table.sum()).sum()),
                "acc": acc,
                "dice": float((2 * iou / (1 + iou)).mean()),
                "boundary_f_2px": miou * 0.7,
                "boundary_f_5px": miou * 0.85,
                "iou": dict(zip(palette.names, iou.tolist(), strict=True)),
                "ci95": [miou - 0.03, miou + 0.025],
            }
            details[kind] = {"confusion": table.tolist()}
            if part == "test":
                quality = np.linspace(min(0.99, miou + 0.1), miou - 0.25, len(names)) + 0.01 * rng.normal(
                    size=len(names)
                )
                details[kind]["per_image"] = [
                    {"name": name, "miou": float(value)} for name, value in zip(names, quality, strict=True)
                ]
        scores[part], detail[part] = entries, details
    run.scores_file.write_text(json.dumps(scores), encoding="utf-8")
    (run.path / "scores_detail.json").write_text(json.dumps(detail), encoding="utf-8")


if __name__ == "__main__":
    from patch2tissue.report.build import build_report

    print(build_report(fabricate_run(Path(sys.argv[1]), train=120, test=40, side=128, epochs=20)))
