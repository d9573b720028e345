"""What the benchmark of prediction predicts: patches of synthetic tissue, and a run folder with a network for them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from patch2tissue.config import EncoderConfig, config_from_dict
from patch2tissue.data.augment import SYMMETRIES, apply_symmetry
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.hardware import autocast_dtype
from patch2tissue.inference.png import write_png
from patch2tissue.inference.tiling import to_input
from patch2tissue.inference.training_distribution import DISTRIBUTION_FILE, learn_distribution
from patch2tissue.pfscnet.network import PFSCNet, save_pfscnet
from patch2tissue.tissues import IGNORE_INDEX, load_tissue_set

TISSUES = load_tissue_set("bcss-wsss")


def make_patches(folder: Path, count: int, size: int) -> list[Path]:
    """Write `count` patches: synthetic ones and their mirrored and turned copies.

    Args:
        folder: where to; `folder/set` holds the synthetic ones with their masks.
        count: how many.
        size: side of a patch in pixels.
    """
    drawn = -(-count // SYMMETRIES)
    make_synthetic(folder / "set", train=drawn, test=0, size=size, difficulty="hard", seed=3)
    (folder / "images").mkdir()
    files: list[Path] = []
    for operation in range(SYMMETRIES):
        for source in training_files(folder)[: count - len(files)]:
            files.append(folder / "images" / f"{len(files):04d}.png")
            picture = torch.from_numpy(read_image(source)).permute(2, 0, 1)
            write_png(files[-1], apply_symmetry(picture, operation).permute(1, 2, 0).numpy())
    return files


def training_files(folder: Path) -> list[Path]:
    """The synthetic patches that `make_patches` drew."""
    return sorted((folder / "set" / "train").glob("*.png"))


def make_run(
    folder: Path, patches: Path, *, encoder: str, channels: int, steps: int, side: int, threads: int, device: str
) -> Path:
    """A run folder whose network was trained on the masks of synthetic patches, long enough for plausible maps.

    Args:
        folder: the run folder to make.
        patches: folder of `make_patches`.
        encoder: timm name.
        channels: of the decoder.
        steps: of training, with 8 pieces of patches each.
        side: of these pieces in pixels.
        threads: hardware.threads of the run.
        device: hardware.device of the run.
    """
    plain = {
        "output": str(folder),
        "tissues": TISSUES.name,
        "data": {"path": str(patches)},
        "hardware": {"threads": threads, "device": device},
    }
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(config_from_dict(plain).to_yaml(), encoding="utf-8")
    torch.manual_seed(0)
    network = PFSCNet(EncoderConfig(name=encoder, output_stride=8), len(TISSUES), decoder_channels=channels)
    where, files = torch.device(device), training_files(patches)
    pictures = np.stack([read_image(file) for file in files])
    masks = np.stack([read_mask(file.parent / "mask" / file.name, TISSUES) for file in files])
    _train(network.to(where), pictures, masks, steps, side, where)
    save_pfscnet(network, folder / "pfscnet")
    known = [Patch(file, file.stem) for file in files]
    half = autocast_dtype(where)
    distribution = learn_distribution(network, known, pictures.shape[1], device=where, dtype=half, progress=False)
    if distribution is not None:
        distribution.save(folder / "pfscnet" / DISTRIBUTION_FILE)
    return folder


def _train(
    network: PFSCNet, pictures: np.ndarray, masks: np.ndarray, steps: int, side: int, device: torch.device
) -> None:
    """Cross-entropy on pieces of the patches: `side` pixels square, at random places."""
    rng = np.random.default_rng(0)
    network.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    optimiser = torch.optim.AdamW(network.parameters(), lr=1e-3)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=max(2, steps))
    half = autocast_dtype(device)
    for _ in range(steps):
        chosen = rng.integers(0, len(pictures), 8)
        y, x = (int(rng.integers(0, pictures.shape[1] - side + 1)) for _ in range(2))
        images = to_input(pictures[chosen, y : y + side, x : x + side], device)
        targets = torch.from_numpy(masks[chosen, y : y + side, x : x + side]).long().to(device)
        with torch.autocast(device.type, half) if half is not None else nullcontext():
            logits = network.segment(images)
        loss = F.cross_entropy(logits.float(), targets, ignore_index=IGNORE_INDEX)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
    network.eval()
