"""Dense energy: time of forward + backward, and how far sampled gradients are from the exact one.

    python benchmarks/dense_energy.py [--images FOLDER] [--device cpu] [--repeats 3]

The reference of every ratio is the exact sum on the same grid in the same run. Errors are
`‖sampled − exact‖ / ‖exact‖` of the gradient of one step, averaged over draws: by the probabilities (column P), by the
logits (the part that the softmax lets through; column z, and "soft" with the soft filter), and by the logits for the
mean over the draws, which shows the bias together with what noise is left.
"""

from __future__ import annotations

import argparse
import json
import platform
import subprocess
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

from patch2tissue.atomic import write_text
from patch2tissue.pfscnet.dense_energy import dense_energy, soft_filter

SIDE = 224
TISSUES = 4
FORMS: list[dict[str, int]] = [
    {},
    {"rows": 64},
    {"rows": 256},
    {"rows": 784},
    {"displacements": 16},
    {"displacements": 32},
    {"displacements": 48},
    {"displacements": 64},
    {"displacements": 96},
    {"displacements": 128},
]


def pictures(folder: Path | None, count: int) -> torch.Tensor:
    """`count` images [B, 3, SIDE, SIDE] from a folder, or textured stand-ins."""
    if folder is None:
        noise = [torch.randn(count, 3, SIDE // s, SIDE // s) for s in (1, 4, 16, 56)]
        layers = [F.interpolate(n, size=(SIDE, SIDE), mode="bilinear") for n in noise]
        return (0.7 + sum(w * n for w, n in zip((0.04, 0.06, 0.08, 0.1), layers, strict=True))).clamp(0, 1)
    files = sorted(p for p in folder.iterdir() if p.suffix.lower() in {".png", ".jpg", ".jpeg", ".bmp", ".tif"})
    crops = []
    for file in files[:: max(1, len(files) // count)][:count]:
        array = np.asarray(Image.open(file).convert("RGB"))
        crops.append(torch.from_numpy(array[:SIDE, :SIDE].copy()).permute(2, 0, 1).float() / 255)
    return torch.stack(crops)


def step(
    images: torch.Tensor, logits: torch.Tensor, grid: int, soft: bool, form: dict[str, int]
) -> tuple[float, float, torch.Tensor, torch.Tensor]:
    """One forward and backward: loss, seconds, gradient by the probabilities and by the logits."""
    logits.grad = None
    probabilities = logits.softmax(1)
    weights = soft_filter(probabilities, probabilities.argmax(1)) if soft else None
    probabilities = probabilities.detach().requires_grad_()
    if images.device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    loss = dense_energy(
        images,
        probabilities,
        weights=weights,
        grid=grid,
        rows=form.get("rows"),
        displacements=form.get("displacements"),
    )
    loss.backward()
    value = loss.item()
    seconds = time.perf_counter() - start
    assert probabilities.grad is not None
    logits.softmax(1).backward(probabilities.grad)
    assert logits.grad is not None
    return value, seconds, probabilities.grad, logits.grad


def relative(one: torch.Tensor, reference: torch.Tensor) -> float:
    """Distance from the reference as a share of its norm."""
    return float((one - reference).norm() / reference.norm())


def compare(
    images: torch.Tensor,
    logits: torch.Tensor,
    grid: int,
    form: dict[str, int],
    exact: dict[bool, tuple[float, float, torch.Tensor, torch.Tensor]],
    draws: int,
) -> dict[str, float]:
    """Mean errors of single draws, and errors of the mean draw."""
    plain = [step(images, logits, grid, False, form) for _ in range(draws)]
    soft = [step(images, logits, grid, True, form) for _ in range(draws)]
    loss, _, by_probabilities, by_logits = exact[False]
    return {
        "gradient_error_probabilities": float(np.mean([relative(draw[2], by_probabilities) for draw in plain])),
        "gradient_error_logits": float(np.mean([relative(draw[3], by_logits) for draw in plain])),
        "gradient_error_logits_soft_filter": float(np.mean([relative(draw[3], exact[True][3]) for draw in soft])),
        "gradient_error_of_mean": relative(torch.stack([draw[3] for draw in plain]).mean(0), by_logits),
        "loss_bias": float(np.mean([draw[0] for draw in plain])) / loss - 1,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=Path, help="folder with images of at least 224 pixels; default: stand-ins")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument(
        "--repeats", type=int, default=3, help="timed repeats (the fastest counts); five times as many draws"
    )
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--grids", type=int, nargs="+", default=[28, 40, 56])
    parser.add_argument("--out", type=Path, default=Path(__file__).parent / "results" / "dense_energy.json")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    images = pictures(options.images, options.batch).to(options.device)
    coarse = 2 * torch.randn(len(images), TISSUES, 7, 7, device=options.device)
    logits = F.interpolate(coarse, size=(SIDE, SIDE), mode="bicubic").requires_grad_()

    figures: dict[str, float] = {}
    print("grid  form               ms/image  ratio      P      z   soft   bias  loss bias")
    for grid in options.grids:
        exact_time = 0.0
        exact: dict[bool, tuple[float, float, torch.Tensor, torch.Tensor]] = {}
        for form in FORMS:
            if form.get("rows", 0) >= grid * grid:
                continue
            name = " ".join(f"{count} {kind}" for kind, count in form.items()) or "exact"
            key = f"grid{grid}_" + ("_".join(f"{kind}{count}" for kind, count in form.items()) or "exact")
            step(images, logits, grid, False, form)
            times = [step(images, logits, grid, False, form)[1] for _ in range(options.repeats)]
            milliseconds = 1e3 * min(times) / len(images)
            exact_time = exact_time or milliseconds
            figures[f"{key}_ms_per_image"] = round(milliseconds, 3)
            line = f"{grid:>4}  {name:<18} {milliseconds:8.2f} {milliseconds / exact_time:6.3f}"
            if form:
                figures[f"{key}_time_ratio_to_exact"] = round(milliseconds / exact_time, 4)
                errors = compare(images, logits, grid, form, exact, 5 * options.repeats)
                figures |= {f"{key}_{figure}": round(value, 5) for figure, value in errors.items()}
                line += "".join(f" {value:6.3f}" for value in errors.values())
            else:
                exact = {soft: step(images, logits, grid, soft, form) for soft in (False, True)}
            print(line, flush=True)
    commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True).stdout.strip()
    machine = f"{options.device}, {options.threads} thread(s), {platform.machine()}, torch {torch.__version__}"
    if options.device == "cuda":
        machine = f"{torch.cuda.get_device_name()}, torch {torch.__version__}"
    source = "stand-ins" if options.images is None else "images of a folder"
    record = {"machine": machine, "commit": commit, "images": f"{len(images)} {source}", "figures": figures}
    write_text(options.out, json.dumps(record, indent=2) + "\n")
    print(f"written: {options.out}")


if __name__ == "__main__":
    main()
