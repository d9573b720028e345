"""Draw the figures of docs/method.md from a run of the demo: synthetic tissue, real networks.

    make demo
    .venv/bin/python scripts/draw_method_figures.py            # from runs/demo into docs/images/method/

`--only NAME` draws one of them. Pictures are quantised to 256 colours, so that the repository stays small.
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F

matplotlib.use("Agg")

import matplotlib.pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from patch2tissue.craanet.attention_maps import enlarge
from patch2tissue.craanet.epoch_maps import EpochMaps, replayed
from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.gaussian_kernel import kernel_matrix, pixel_features
from patch2tissue.inference.predictor import Predictor
from patch2tissue.inference.tiling import blending_window, tile_positions
from patch2tissue.pfscnet.mosaic import smooth_regions
from patch2tissue.pfscnet.network import load_pfscnet
from patch2tissue.pfscnet.pixel_contrast import PixelContrastLoss, labels_on_grid
from patch2tissue.run_folder import RunFolder
from patch2tissue.training_data import training_patches

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "docs" / "images" / "method"
NAMES = ("TUM", "STR", "LYM", "NEC")
INK, FAINT = "#37315c", "#b6b0d6"

plt.rcParams.update({"font.size": 9, "axes.titlesize": 9, "axes.edgecolor": FAINT, "figure.facecolor": "white"})


class Demo:
    """A finished run of the demo, its training patches and what was made of them."""

    def __init__(self, path: Path) -> None:
        self.run = RunFolder(path)
        self.config = self.run.config()
        self.tissues = self.config.tissue_set()
        self.patches = training_patches(self.config)
        self.epochs = EpochMaps(self.run.craanet / "attention_epochs.npy")
        self.first = int(self.config.craanet.accumulation.start * self.epochs.shape[0])
        self.colors = np.array(self.tissues.colors, dtype=np.float64) / 255.0

    def image(self, row: int) -> np.ndarray:
        """uint8 RGB [S, S, 3]."""
        return read_image(self.patches[row].path)

    def truth(self, row: int) -> np.ndarray:
        """Mask uint8 [S, S]; it is only looked at, training never reads it."""
        path = self.patches[row].mask
        assert path is not None
        return read_mask(path, self.tissues)

    def pseudo_label(self, row: int) -> np.ndarray:
        """uint8 [S, S], 255 where there is none."""
        return read_mask(self.run.pseudo_labels / "masks" / f"{self.patches[row].name}.png", self.tissues)

    def painted(self, mask: np.ndarray) -> np.ndarray:
        """A mask in the tissues' colours, white where there is no tissue."""
        shown = np.ones((*mask.shape, 3))
        for tissue, color in enumerate(self.colors):
            shown[mask == tissue] = color
        return shown

    def over(self, row: int, mask: np.ndarray, strength: float = 0.45) -> np.ndarray:
        """A mask over its patch, which stays as it is where there is no tissue."""
        image = self.image(row) / 255.0
        mixed = (1 - strength) * image + strength * self.painted(mask)
        return np.where((mask < len(self.tissues))[..., None], mixed, 0.5 * image + 0.5)

    def memory(self, row: int, mode: str = "mean") -> np.ndarray:
        """The memory of a patch after each epoch, [E, K, h, w]."""
        return replayed(self.epochs.of_patch(row), mode, first=self.first, ema_decay=0.7)

    def best_row(self, tissues: Sequence[int]) -> int:
        """Of the patches with exactly these tissues, each of 20% at least, one whose attention wandered rather much."""
        found: list[tuple[float, int]] = []
        wanted = tuple(int(k in tissues) for k in range(len(self.tissues)))
        for row, patch in enumerate(self.patches):
            if patch.labels != wanted:
                continue
            truth = self.truth(row)
            if min((truth == k).mean() for k in tissues) < 0.2:
                continue
            maps = self.epochs.of_patch(row)[self.first :, list(tissues)]
            found.append((float(maps.std(axis=0).mean()), row))
        return sorted(found)[3 * (len(found) - 1) // 4][1]


def picture(axes: Axes, image: Any, title: str = "", **options: Any) -> None:
    """An image without axes."""
    axes.imshow(image, interpolation=options.pop("interpolation", "nearest"), **options)
    axes.set_title(title, color=INK, pad=4)
    axes.set_xticks([])
    axes.set_yticks([])


def tensor(image: np.ndarray) -> torch.Tensor:
    """uint8 [S, S, 3] as float [1, 3, S, S] in 0..1."""
    return torch.from_numpy(image).permute(2, 0, 1)[None].float() / 255.0


def enlarged(maps: np.ndarray, side: int) -> np.ndarray:
    """[K, h, w] to [K, S, S], bilinearly."""
    return enlarge(torch.from_numpy(maps)[None].float(), (side, side))[0].numpy()


def draw_pipeline(demo: Demo) -> Figure:
    """From a patch and its label to a map, with what is handed on between the stages."""
    row = demo.best_row((0, 1))
    image = demo.image(row)
    side = image.shape[0]
    maps = demo.epochs.of_patch(row)
    shown = [maps[demo.first], maps[(demo.first + len(maps)) // 2], maps[-1]]
    prediction = Predictor.from_run(demo.run).predict_array(image)
    figure = plt.figure(figsize=(10, 3.7))
    canvas = figure.add_axes((0, 0, 1, 1))
    canvas.set_xlim(0, 10)
    canvas.set_ylim(0, 3.7)
    canvas.axis("off")

    def place(x: float, y: float, size: float, shown: Any, title: str, **options: Any) -> None:
        picture(figure.add_axes((x / 10, y / 3.7, size / 10, size / 3.7)), shown, title, **options)

    def box(x: float, y: float, width: float, height: float, text: str) -> None:
        style = FancyBboxPatch(
            (x, y), width, height, boxstyle="round,pad=0.02,rounding_size=0.12", fc="#efeafc", ec=INK
        )
        canvas.add_patch(style)
        canvas.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK, fontsize=9)

    def arrow(x1: float, y1: float, x2: float, y2: float) -> None:
        canvas.add_patch(FancyArrowPatch((x1, y1), (x2, y2), arrowstyle="-|>", mutation_scale=11, color=INK, lw=1.2))

    place(0.15, 1.35, 1.2, image, "patch")
    canvas.text(0.75, 1.05, "label: TUM, STR", ha="center", color=INK)
    box(1.75, 1.4, 1.15, 1.1, "CRAANet\nclass residual\nattention")
    for number, (one, y) in enumerate(zip(shown, (2.45, 1.45, 0.45), strict=True)):
        epoch = (demo.first, (demo.first + len(maps)) // 2, len(maps) - 1)[number] + 1
        place(3.35, y, 0.78, one[0], f"epoch {epoch}", cmap="magma", vmin=0, vmax=1)
        arrow(2.98, 1.95 + 0.25 * (1 - number), 3.3, y + 0.39)
        arrow(4.2, y + 0.39, 4.55, 1.95 + 0.25 * (1 - number))
    canvas.text(3.74, 0.2, "attention to TUM", ha="center", color=INK, fontsize=8)
    place(4.62, 1.4, 1.1, demo.memory(row)[-1][0], "memory: mean", cmap="magma", vmin=0, vmax=1)
    place(6.1, 1.4, 1.1, demo.over(row, demo.pseudo_label(row), 0.7), "pseudo label")
    canvas.text(6.65, 1.12, "faint: ignored", ha="center", color=INK, fontsize=8)
    arrow(5.76, 1.95, 6.06, 1.95)
    box(7.55, 1.4, 1.05, 1.1, "PFSCNet\nCE + energy\n+ contrast")
    arrow(1.4, 1.95, 1.7, 1.95)
    arrow(7.24, 1.95, 7.5, 1.95)
    arrow(8.65, 2.05, 8.83, 2.4)
    place(8.85, 2.1, 1.05, demo.over(row, prediction.mask, 0.7), "map")
    place(8.85, 0.5, 1.05, demo.over(row, demo.truth(row), 0.7), "truth, to compare")
    assert side == prediction.mask.shape[0]
    return figure


def draw_residual_attention(demo: Demo) -> Figure:
    """Scores of one tissue over the positions, and what the attention term makes of them at three temperatures."""
    row = demo.best_row((0, 3))
    network = load_craanet(demo.run.craanet)
    image = demo.image(row)
    with torch.inference_mode():
        scores = network(tensor(image)).attention[0, 0]
    flat = scores.flatten()
    weight = demo.config.craanet.residual_weight
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.55), width_ratios=(1, 1, 1, 1, 1))
    grid = scores.numpy()
    step = image.shape[0] / grid.shape[0]
    picture(axes[0], image, f"patch, {grid.shape[0]} × {grid.shape[1]} positions")
    for line in range(1, grid.shape[0]):
        axes[0].axhline(line * step - 0.5, color="white", lw=0.4)
        axes[0].axvline(line * step - 0.5, color="white", lw=0.4)
    limit = float(np.abs(grid).max())
    picture(axes[1], grid, "score $s_k(j)$ of tumour", cmap="RdBu_r", vmin=-limit, vmax=limit)
    axes[1].set_xlabel(f"mean: base = {float(flat.mean()):.2f}", color=INK)
    for place, temperature in zip(axes[2:], (0.5, 2.0, float("inf")), strict=True):
        attention = (flat == flat.max()).float() if np.isinf(temperature) else torch.softmax(temperature * flat, dim=0)
        attended = float((attention * flat).sum())
        name = "∞ (maximum)" if np.isinf(temperature) else f"{temperature:g}"
        picture(place, attention.reshape(scores.shape), f"softmax, T = {name}", cmap="magma", vmin=0)
        logit = float(flat.mean()) + weight * attended
        place.set_xlabel(f"att = {attended:.2f}\nlogit = base + {weight:g} att = {logit:.2f}", color=INK)
    figure.tight_layout()
    return figure


def draw_accumulation(demo: Demo) -> Figure:
    """Maps of one tissue epoch by epoch, the memory in three modes, and how right they are on all patches."""
    row = demo.best_row((1, 3))
    maps = demo.epochs.of_patch(row)
    count, first = len(maps), demo.first
    figure = plt.figure(figsize=(10, 3.9))
    columns = count - first + 1
    tissue = 1
    grid = figure.add_gridspec(3, columns, left=0.01, right=0.6, top=0.93, bottom=0.02, hspace=0.2, wspace=0.06)
    picture(figure.add_subplot(grid[0, 0]), demo.image(row), "patch")
    for epoch in range(first, count):
        axes = figure.add_subplot(grid[0, epoch - first + 1])
        picture(axes, maps[epoch, tissue], f"epoch {epoch + 1}", cmap="magma", vmin=0, vmax=1)
    picture(figure.add_subplot(grid[1, 0]), (demo.truth(row) == tissue), "stroma", cmap="gray")
    for line, mode in enumerate(("mean", "max")):
        memory = demo.memory(row, mode)
        for epoch in range(first, count):
            axes = figure.add_subplot(grid[line + 1, epoch - first + 1])
            picture(axes, memory[epoch, tissue], "", cmap="magma", vmin=0, vmax=1)
            if epoch == first:
                axes.set_title(f"memory, {mode}", color=INK, loc="left", pad=4)

    axes = figure.add_axes((0.66, 0.14, 0.33, 0.76))
    right: dict[str, list[float]] = {name: [] for name in ("the epoch alone", "mean", "max", "ema")}
    total = 0
    for number in range(len(demo.patches)):
        truth = demo.truth(number)
        own = demo.epochs.of_patch(number)
        total += truth.size
        for name in right:
            stack = own if name == "the epoch alone" else replayed(own, name, first=first, ema_decay=0.7)
            hits = [float((enlarged(one, truth.shape[0]).argmax(0) == truth).sum()) for one in stack[first:]]
            right[name] = hits if not right[name] else [a + b for a, b in zip(right[name], hits, strict=True)]
    styles = {"the epoch alone": ("#999999", "o--"), "mean": ("#6a3fb5", "o-"), "max": ("#e08214", "s-")}
    styles["ema"] = ("#1b9e77", "^-")
    for name, hits in right.items():
        color, style = styles[name]
        values = [100 * hit / total for hit in hits]
        axes.plot(range(first + 1, count + 1), values, style, color=color, label=name, ms=4, lw=1.3)
    axes.set_xlabel("epoch", color=INK)
    axes.set_xticks(range(first + 1, count + 1))
    axes.set_title(f"right pixels in %, all {len(demo.patches)} training patches", color=INK)
    axes.grid(color="#eeeeee")
    axes.legend(frameon=False)
    return figure


def draw_energy_kernel(demo: Demo) -> Figure:
    """The kernel of the dense energy around one pixel: its two factors, their product, and a narrower one."""
    row = demo.best_row((0, 1))
    image = demo.image(row)
    side = image.shape[0]
    truth = demo.truth(row)
    edge = np.abs(np.diff((truth == 0).astype(int), axis=1))
    candidates = np.argwhere(edge[side // 4 : -side // 4, side // 4 : -side // 4]) + side // 4
    y, x = (int(v) for v in candidates[len(candidates) // 2])
    x = max(4, x - 5)
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.5))
    outline = {"levels": [0.5], "colors": "white", "linewidths": 0.9}
    picture(axes[0], image, "patch, a pixel, and the edge")
    for place, (colour, distance, title) in zip(
        axes[1:],
        (
            (15.0, 1e6, "colour alone, σ = 15"),
            (1e6, 20.0, "place alone, σ = 20 px"),
            (15.0, 20.0, "G: σ = 15, 20 px"),
            (40.0, 10.0, "G: σ = 40, 10 px"),
        ),
        strict=True,
    ):
        features = pixel_features(tensor(image), colour, distance)
        kernel = kernel_matrix(features.part(y * side + x, y * side + x + 1), features).reshape(side, side).numpy()
        picture(place, kernel, title, cmap="magma", vmin=0, vmax=1)
    for place in axes:
        place.contour(truth == 0, **outline)
        place.plot([x], [y], "+", color="#00d0ff", ms=11, mew=2)
    figure.tight_layout()
    return figure


def draw_feature_space(demo: Demo) -> Figure:
    """Pixels in the feature space, seen along its two main directions, with prototypes and pixels they contradict."""
    network = load_pfscnet(demo.run.pfscnet)
    rows = list(range(0, len(demo.patches), max(1, len(demo.patches) // 48)))
    images = torch.cat([tensor(demo.image(row)) for row in rows])
    pseudo = torch.from_numpy(np.stack([demo.pseudo_label(row) for row in rows])).long()
    truth = torch.from_numpy(np.stack([demo.truth(row) for row in rows])).long()
    with torch.inference_mode():
        output = network(images)
    embedding, size = output.embedding, output.embedding.shape[2:]
    probabilities = F.interpolate(output.logits.softmax(1), size=size, mode="bilinear")
    count = len(demo.tissues)
    labels, real = (labels_on_grid(one, size, count) for one in (pseudo, truth))
    loss = PixelContrastLoss(count, embedding.shape[1], bank=0)
    loss.update(embedding, labels, probabilities)
    prototypes = loss.prototypes.vectors[:, 0]

    vectors, label, real = embedding.movedim(1, -1).flatten(0, 2), labels.flatten(), real.flatten()
    kept = (label != 255) & (real != 255)
    vectors, label, real = vectors[kept], label[kept], real[kept]
    middle = vectors.mean(dim=0)
    directions = torch.linalg.svd(vectors - middle, full_matrices=False).Vh[:2]
    flat, stars = ((v - middle) @ directions.T for v in (vectors, prototypes))
    similarity = vectors @ prototypes.T
    lead = similarity.max(dim=1).values - similarity.gather(1, label[:, None])[:, 0]
    against = lead > demo.config.pfscnet.correction.margin
    chosen = torch.randperm(len(label), generator=torch.Generator().manual_seed(0))[:2500]
    figure, axes = plt.subplots(1, 2, figsize=(10, 4.3))
    places = [(9, 7), (9, 7), (9, 7), (-34, 7)]  # of the names beside their stars; the last two lie close
    for place, colored, title in ((axes[0], label, "by pseudo label"), (axes[1], real, "by truth, not trained on")):
        for tissue in range(count):
            these = chosen[colored[chosen] == tissue]
            place.scatter(*flat[these].T, s=4, color=demo.colors[tissue], alpha=0.35, lw=0)
        doubtful = chosen[against[chosen]]
        place.scatter(*flat[doubtful].T, s=22, facecolors="none", edgecolors="black", lw=0.6)
        for tissue in range(count):
            place.scatter(*stars[tissue], marker="*", s=230, color=demo.colors[tissue], edgecolors="black", zorder=5)
            place.annotate(
                NAMES[tissue], stars[tissue], xytext=places[tissue], textcoords="offset points", weight="bold"
            )
        place.set_title(title, color=INK)
        place.set_xticks([])
        place.set_yticks([])
    wrong = (label != real)[against].float().mean().item()
    axes[0].set_xlabel(f"circles: {against.float().mean().item():.1%} that the prototypes contradict", color=INK)
    axes[1].set_xlabel(f"{wrong:.0%} of these have a wrong pseudo label", color=INK)
    figure.tight_layout()
    return figure


def draw_mosaic(demo: Demo) -> Figure:
    """Two patches of one tissue each, a smooth region, and the mosaic whose edge is known."""
    torch.manual_seed(5)
    single = {int(np.argmax(patch.labels)): row for row, patch in enumerate(demo.patches) if sum(patch.labels) == 1}
    one, other = single[0], single[1]
    side = demo.image(one).shape[0]
    stays = smooth_regions(1, side)[0].numpy()
    picture_of_both = np.where(stays[..., None], demo.image(one), demo.image(other))
    figure, axes = plt.subplots(1, 5, figsize=(10, 2.2))
    picture(axes[0], demo.image(one), "label: TUM")
    picture(axes[1], demo.image(other), "label: STR")
    picture(axes[2], stays, "a random smooth region", cmap="gray")
    picture(axes[3], picture_of_both, "the mosaic")
    picture(axes[4], demo.painted(np.where(stays, 0, 1)), "its label, exact")
    figure.tight_layout()
    return figure


def draw_blending(_: Demo) -> Figure:
    """The window of a tile, and the share of each of the overlapping tiles along a line."""
    tile, overlap, length = 96, 0.25, 288
    window = blending_window(tile, tile).numpy()
    figure, axes = plt.subplots(1, 3, figsize=(10, 2.7), width_ratios=(1, 2, 2))
    picture(axes[0], window, "weight of a tile's pixels", cmap="magma", vmin=0)
    starts = tile_positions(length, tile, overlap)
    profile = blending_window(tile, 1)[:, 0].numpy()
    weights = np.zeros((len(starts), length))
    for number, start in enumerate(starts):
        weights[number, start : start + tile] = profile
    colors = plt.get_cmap("viridis")(np.linspace(0.05, 0.85, len(starts)))
    for number, color in enumerate(colors):
        axes[1].plot(weights[number] / weights.max(), color=color)
    shares = weights / weights.sum(axis=0)
    axes[2].stackplot(range(length), shares, colors=colors)
    axes[1].set_title(f"{len(starts)} tiles of {tile} px along {length} px", color=INK)
    axes[2].set_title("share in the result", color=INK)
    for place in axes[1:]:
        place.set_xlabel("pixel", color=INK)
        place.margins(x=0)
    figure.tight_layout()
    return figure


FIGURES: dict[str, Callable[[Demo], Figure]] = {
    "pipeline": draw_pipeline,
    "residual-attention": draw_residual_attention,
    "accumulation": draw_accumulation,
    "energy-kernel": draw_energy_kernel,
    "feature-space": draw_feature_space,
    "mosaic": draw_mosaic,
    "blending": draw_blending,
}
"""What is drawn for each file name."""


def save(figure: Figure, path: Path) -> None:
    """Write a PNG of 256 colours."""
    content = io.BytesIO()
    figure.savefig(content, dpi=110)
    plt.close(figure)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.open(content).convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)


def main() -> None:
    """Draw all figures, or the one that is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--run", type=Path, default=Path("runs/demo"), help="run folder of the demo")
    parser.add_argument("--out", type=Path, default=OUT, help="where the pictures go")
    parser.add_argument("--only", choices=FIGURES, help="draw this one alone")
    arguments = parser.parse_args()
    demo = Demo(arguments.run)
    for name, draw in FIGURES.items():
        if arguments.only in (None, name):
            save(draw(demo), arguments.out / f"{name}.png")
            print(arguments.out / f"{name}.png")


if __name__ == "__main__":
    main()
