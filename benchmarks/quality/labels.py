"""Labels of the training patches: those of the method and its parts, plain CAM, Grad-CAM, and the masks."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch

from benchmarks.quality.settings import label_settings
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.attention_maps import enlarge
from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.images import image_size, write_mask
from patch2tissue.errors import DataError
from patch2tissue.pseudo_labels.baselines import generate_cam_labels
from patch2tissue.pseudo_labels.generate import generate_pseudo_labels, label_from_scores

if TYPE_CHECKING:
    from benchmarks.quality.workshop import Workshop

MEMORIES = {mode: f"attention_memory_{mode}" for mode in ("max", "mean", "ema")}
"""Folders of the memories that are filled beside the method's own."""


@dataclass(frozen=True)
class Labels:
    """Labels of the training patches, one PNG per patch and list entry.

    Attributes:
        scored: every pixel has a tissue.
        learned: what a network learns from; pixels may be ignored.
        confidences: confidence of `learned`, None if there is none.
        encoder: trained classifier whose encoder a network starts from.
    """

    scored: list[Path]
    learned: list[Path]
    confidences: list[Path] | None
    encoder: Path


LabelMaker = Callable[["Workshop", str], Labels]
"""Gets the workshop and the name of the labels."""


def _masks(shop: Workshop, name: str) -> Labels:
    unmasked = [patch.name for patch in shop.patches if patch.mask is None]
    if unmasked:
        raise DataError(f"{shop.config.data.path}: the ceiling needs a mask for every patch; {unmasked[0]} has none.")
    masks = [patch.mask for patch in shop.patches if patch.mask is not None]
    return Labels(masks, masks, None, shop.craanet())


def _single_view(shop: Workshop, name: str) -> Labels:
    """Rectified maps of one view of the last epoch: plain CAM, or Grad-CAM on the method's classifier."""
    classifier = shop.craanet(plain_cam=name == "cam")

    def make(folder: Path) -> None:
        generate_cam_labels(
            shop.patches,
            shop.tissues,
            load_craanet(classifier),
            folder,
            side=shop.side,
            hardware=shop.config.hardware,
            method="cam" if name == "cam" else "grad_cam",
        )

    folder = shop.artefact(f"labels_{name}", label_settings(shop.config, name, shop.limit), make)
    files = shop.named(folder / "variants" / name)
    return Labels(files, files, None, classifier)


def _accumulated(shop: Workshop, name: str) -> Labels:
    """The best tissue by the attention memory alone, of one mode."""
    classifier = shop.craanet()
    mode = name.removeprefix("accumulated_")

    def make(folder: Path) -> None:
        memory = AttentionMemory(classifier / MEMORIES[mode])
        for start in range(0, len(shop.patches), 64):
            part = shop.patches[start : start + 64]
            present = torch.tensor([patch.labels for patch in part])
            maps = enlarge(memory.read(np.arange(start, start + len(part))), (shop.side, shop.side))
            found = label_from_scores(maps, present).labels.numpy()
            for patch, labels in zip(part, found, strict=True):
                height, width = image_size(patch.path)
                write_mask(folder / f"{patch.name}.png", labels[:height, :width], shop.tissues)

    folder = shop.artefact(f"labels_{name}", label_settings(shop.config, name, shop.limit), make)
    files = shop.named(folder)
    return Labels(files, files, None, classifier)


def _pseudo_labels(shop: Workshop, name: str) -> Labels:
    """What the method hands to stage 2; `residual_attention` is its variant of the last epoch alone."""
    config, classifier = shop.config, shop.craanet()

    def make(folder: Path) -> None:
        torch.manual_seed(config.seed)
        generate_pseudo_labels(
            shop.patches,
            shop.tissues,
            load_craanet(classifier),
            AttentionMemory(classifier / "attention_memory"),
            folder,
            side=shop.side,
            config=config.pseudo_labels,
            form=config.craanet.accumulation.form,
            hardware=config.hardware,
        )

    folder = shop.artefact("labels_pseudo", label_settings(config, "pseudo_labels", shop.limit), make)
    if name == "residual_attention":
        last = shop.named(folder / "variants" / "last_epoch")
        return Labels(last, last, None, classifier)
    scored, learned = shop.named(folder / "variants" / "refined"), shop.named(folder / "masks")
    return Labels(scored, learned, shop.named(folder / "confidence"), classifier)


OWN_LABELS: dict[str, LabelMaker] = {
    "masks": _masks,
    "cam": _single_view,
    "grad_cam": _single_view,
    "residual_attention": _pseudo_labels,
    "accumulated_max": _accumulated,
    "accumulated_mean": _accumulated,
    "accumulated_ema": _accumulated,
    "pseudo_labels": _pseudo_labels,
}
"""How labels are made, by the name that rows use; those of peers are in `peers`."""
