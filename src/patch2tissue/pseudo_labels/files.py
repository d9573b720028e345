"""The files of pseudo labels: palette PNGs, confidence PNGs and a manifest, written so that a killed run can go on."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from patch2tissue.atomic import atomic_path
from patch2tissue.config import PseudoLabelConfig
from patch2tissue.data.images import image_size, write_mask
from patch2tissue.data.patches import Patch
from patch2tissue.data.tables import write_table
from patch2tissue.distributed.group import barrier
from patch2tissue.distributed.place import is_first, joined
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.pseudo_labels.reliability import unreliable_pixels
from patch2tissue.tissues import IGNORE_INDEX, TissueSet

BATCH = 32
"""Patches per forward pass."""


def rows_to_do(patches: Sequence[Patch], done: Path) -> list[int]:
    """Rows of the patches to compute: whole batches of `BATCH` of which a `NAME.png` is missing in the folder `done`.

    Whole batches, since rounding may depend on a patch's neighbours in its batch: a resumed run writes the same files.
    Processes that train together take turns at the batches; each looks at its own only, which no other one writes.
    """
    place = joined()
    rank, world = (0, 1) if place is None else (place.rank, place.world)
    own = (i for i in range(len(patches)) if i // BATCH % world == rank)
    missing = {i // BATCH for i in own if not (done / f"{patches[i].name}.png").is_file()}
    return [i for i in range(len(patches)) if i // BATCH in missing]


def write_patch(
    patch: Patch,
    tissues: TissueSet,
    folder: Path,
    image: np.ndarray,
    variants: dict[str, np.ndarray],
    labels: np.ndarray,
    confidence: np.ndarray,
    config: PseudoLabelConfig,
) -> None:
    """Write one patch's files, the confidence last: it marks the patch as done.

    Args:
        patch: says name and size; what the canvas holds beyond it is cut off.
        tissues: palette and rule for white background.
        folder: gets `variants/KEY/`, `masks/` and `confidence/`.
        image: RGB uint8 [S, S, 3].
        variants: label maps uint8 [S, S] that are kept as they are.
        labels: label map uint8 [S, S] for `masks/`, where white background and pixels of little confidence become 255.
        confidence: float [S, S] in 0..1.
        config: which labels are too unsure to be kept in `masks/`.
    """
    height, width = image_size(patch.path)
    crop = (slice(0, height), slice(0, width))
    for name, kept in variants.items():
        write_mask(folder / "variants" / name / f"{patch.name}.png", kept[crop], tissues)
    final = labels[crop].copy()
    unreliable = unreliable_pixels(final, confidence[crop], margin=config.margin, reliable_share=config.reliable_share)
    final[unreliable] = IGNORE_INDEX
    if tissues.background is not None and tissues.background.white_above is not None:
        final[white_pixels(image[crop], tissues.background.white_above)] = IGNORE_INDEX
    write_mask(folder / "masks" / f"{patch.name}.png", final, tissues)
    with atomic_path(folder / "confidence" / f"{patch.name}.png") as temporary:
        Image.fromarray(np.rint(confidence[crop] * 255.0).astype(np.uint8)).save(temporary)


def write_manifest(patches: Sequence[Patch], tissues: TissueSet, folder: Path) -> None:
    """Write `manifest.csv`: files and share of every tissue, one line per patch. It marks the folder as complete.

    Processes that share the work come here when theirs is done; the first one writes.
    """

    def row(patch: Patch) -> list[str]:
        with Image.open(folder / "masks" / f"{patch.name}.png") as mask:
            counts = np.bincount(np.asarray(mask).ravel(), minlength=256)
        shares = [f"{counts[k] / counts.sum():.4f}" for k in range(len(tissues))]
        ignored = f"{counts[IGNORE_INDEX] / counts.sum():.4f}"
        files = [f"{kind}/{patch.name}.png" for kind in ("masks", "confidence")]
        return [patch.name, patch.path.as_posix(), *files, *shares, ignored]

    columns = ["name", "image", "mask", "confidence", *tissues.names, "ignored_share"]
    barrier()
    if is_first():
        write_table(folder / "manifest.csv", columns, map(row, patches))
    barrier()
