"""MLPS, second phase: our segmentation network under the supervision of three pseudo masks at once.

Published: Han C. et al., Medical Image Analysis 2022: `L = 0.6 · CE(deep) + 0.2 · CE(middle) + 0.2 · CE(shallow)`. At
inference the classification gate takes all pixels from tissues that the classifier finds less likely than 0.1: set
`inference.gate` to `mlps.GATE`, with the classifier's folder in the place of the run's CRAANet. Network, start, steps,
augmentation and optimiser are those of PFSCNet (the authors' network is a DeepLabv3+, too).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from patch2tissue.config import RunConfig
from patch2tissue.data.augment import apply_symmetry
from patch2tissue.data.canvas import place_on_canvas
from patch2tissue.data.datasets import TrainingPatches
from patch2tissue.data.images import read_mask
from patch2tissue.data.patches import Patch
from patch2tissue.errors import ConfigError
from patch2tissue.pfscnet.training import PFSCNetStage, train_pfscnet
from patch2tissue.tissues import IGNORE_INDEX
from patch2tissue.training import Batch

LAYER_WEIGHTS = {"target": 0.6, "target_middle": 0.2, "target_shallow": 0.2}
"""Published weight of each target's cross-entropy; `target` is the mask of the deepest feature map."""


class LayeredPatches(TrainingPatches):
    """Training patches with further label maps, which undergo the same symmetry as the picture.

    Args:
        further: one mask file per patch for each further item name; items are uint8 [S, S], 0..K-1 or 255.
        arguments: those of `TrainingPatches`.
        named: those of `TrainingPatches`.
    """

    def __init__(self, *arguments: Any, further: Mapping[str, Sequence[Path]], **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.further = {name: list(files) for name, files in further.items()}
        self._masks: dict[tuple[str, int], Tensor] = {}

    def _mask(self, name: str, index: int) -> Tensor:
        if (name, index) in self._masks:
            return self._masks[name, index]
        mask = place_on_canvas(read_mask(self.further[name][index], self.tissues), self.side, IGNORE_INDEX)
        found = torch.from_numpy(np.array(mask))
        # a label map is a third of a picture: where pictures are kept, it is
        if self._cache is not None:
            self._masks[name, index] = found
        return found

    def __getitem__(self, key: tuple[int, int]) -> dict[str, Tensor]:
        item = super().__getitem__(key)
        operation = int(item["symmetry"])
        for name in self.further:
            item[name] = apply_symmetry(self._mask(name, key[1]), operation).contiguous()
        return item


class MLPSStage(PFSCNetStage):
    """Cross-entropy on three targets; arguments as for `PFSCNetStage`."""

    in_parts = False

    def training_step(self, images: Tensor, batch: Batch, epoch: int) -> dict[str, Tensor]:
        """One step: the weighted sum of the three cross-entropies."""
        logits = self.network(images).logits
        losses = {
            name.replace("target", "loss_ce"): self._cross_entropy(logits, batch[name].long(), None)
            for name in LAYER_WEIGHTS
        }
        weighted = [weight * loss for weight, loss in zip(LAYER_WEIGHTS.values(), losses.values(), strict=True)]
        return {"loss": torch.stack(weighted).sum(), **losses}


def train_mlps_segmentation(
    config: RunConfig,
    patches: Sequence[Patch],
    label_folders: Sequence[Path],
    folder: Path,
    *,
    side: int,
    craanet: Path | None = None,
    title: str = "MLPS",
) -> None:
    """Train the network of stage 2 under multi-layer pseudo-supervision, in as many steps as `config.pfscnet` says.

    Args:
        config: the run's configuration.
        patches: training patches.
        label_folders: folders of the pseudo masks from the deepest, the middle and the shallow feature map, `NAME.png`
            in each, as `generate_mlps_labels` writes them.
        folder: stage folder; gets weights, to be read by `load_pfscnet`, and `metrics.csv`.
        side: canvas side in pixels, see `canvas_size`.
        craanet: folder of the trained classifier, whose encoder is the start if `pfscnet.init` is `craanet`.
        title: shown in progress bars.

    Raises:
        ConfigError: if there are not three label folders; and see `fit`.
        DataError, TrainingError: see `fit`.
    """
    if len(label_folders) != len(LAYER_WEIGHTS):
        raise ConfigError(f"MLPS learns from {len(LAYER_WEIGHTS)} folders of pseudo masks, not {len(label_folders)}.")
    files = {
        name: [labels / f"{patch.name}.png" for patch in patches]
        for name, labels in zip(LAYER_WEIGHTS, label_folders, strict=True)
    }
    train_pfscnet(
        config,
        patches,
        files.pop("target"),
        folder,
        side=side,
        title=title,
        craanet=craanet,
        cross_entropy_only=True,
        stage_type=MLPSStage,
        dataset_type=partial(LayeredPatches, further=files),
    )
