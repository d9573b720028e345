"""The scores of `evaluate` as metrics of torchmetrics, for anyone's training loop.

They count as `ConfusionMatrix` and `BoundaryCounts` do, on the CPU, and give what `evaluate` gives for the same images,
in one process or summed over several.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import Metric

from patch2tissue.evaluation.boundaries import BoundaryCounts, boundary_f_scores
from patch2tissue.evaluation.scores import ConfusionMatrix, scores_from_counts
from patch2tissue.tissues import IGNORE_INDEX, TissueSet


class _LabelMetric(Metric):
    """Integer counts of label maps, summed over images and processes."""

    is_differentiable = False
    higher_is_better = True
    full_state_update = False
    counts: Tensor

    def __init__(self, tissues: TissueSet | Sequence[str] | int, shape: tuple[int, ...], **settings: Any) -> None:
        super().__init__(**settings)
        if isinstance(tissues, int):
            self.names = tuple(str(k) for k in range(tissues))
        else:
            self.names = tissues.names if isinstance(tissues, TissueSet) else tuple(tissues)
        if not 0 < len(self.names) < IGNORE_INDEX:
            raise ValueError(f"tissues must be 1 to 254, not {len(self.names)}")
        self.add_state("counts", torch.zeros(shape, dtype=torch.int64), dist_reduce_fx="sum")

    def _pairs(self, preds: Tensor, target: Tensor) -> tuple[np.ndarray, np.ndarray]:
        """Label maps of predictions and truth, int64 [B, H, W]."""
        tissues = len(self.names)
        if preds.is_floating_point():
            if preds.ndim != target.ndim + 1 or preds.shape[-3] != tissues:
                raise ValueError(
                    f"logits or probabilities are [B, {tissues}, H, W] for a target [B, H, W], not "
                    f"{list(preds.shape)} for {list(target.shape)}"
                )
            preds = preds.argmax(dim=-3)
        if preds.shape != target.shape or target.ndim not in (2, 3):
            raise ValueError(f"preds {list(preds.shape)} and target {list(target.shape)} are not both [B, H, W]")
        found, true = (labels.reshape(-1, *labels.shape[-2:]).cpu().numpy() for labels in (preds, target))
        if ((true >= tissues) & (true != IGNORE_INDEX)).any() or (true < 0).any() or (found < 0).any():
            raise ValueError(f"labels are 0 to {tissues - 1}, or {IGNORE_INDEX} where the target is not scored")
        return found, true


class TissueScores(_LabelMetric):
    """MIoU, FwIoU, pixel accuracy and Dice from one confusion matrix over all scored pixels.

    Args:
        tissues: the tissue set, names of the tissues, or their number K.
        settings: of torchmetrics, such as `sync_on_compute`.

    `update` takes `preds`: logits or probabilities, float [B, K, H, W], or labels, integer [B, H, W], of which values
    from K on are no tissue; and `target`: integer [B, H, W], 255 where it is not scored. Both may lack B. It raises
    ValueError for other shapes or labels. `compute` gives a mapping of scalars in 0..1, NaN where a score is not
    defined: `miou`, `fwiou`, `acc`, `dice` and `iou_NAME` for each tissue; see `scores_from_counts`.

    Example:
        >>> metric = TissueScores(["tumour", "stroma"])
        >>> metric.update(torch.tensor([[0, 0, 1, 1]]), torch.tensor([[0, 1, 1, 255]]))
        >>> {name: round(float(value), 3) for name, value in metric.compute().items()}
        {'miou': 0.5, 'fwiou': 0.5, 'acc': 0.667, 'dice': 0.667, 'iou_tumour': 0.5, 'iou_stroma': 0.5}
    """

    def __init__(self, tissues: TissueSet | Sequence[str] | int, **settings: Any) -> None:
        count = tissues if isinstance(tissues, int) else len(tissues)
        super().__init__(tissues, (count, count + 1), **settings)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count images."""
        confusion = ConfusionMatrix(len(self.names))
        confusion.update(*self._pairs(preds, target))
        self.counts += torch.from_numpy(confusion.counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Scores of all images since the last reset."""
        scores = scores_from_counts(self.counts.cpu().numpy())
        plain = {name: scores[name] for name in ("miou", "fwiou", "acc", "dice")}
        plain |= {f"iou_{name}": value for name, value in zip(self.names, scores["iou"], strict=True)}
        return {name: torch.tensor(float(value), device=self.counts.device) for name, value in plain.items()}


class BoundaryFScore(_LabelMetric):
    """Boundary F-score within tolerances in pixels, summed over images; see `evaluation.boundaries`.

    Args:
        tissues: the tissue set, names of the tissues, or their number K.
        tolerances: distances in pixels.
        settings: of torchmetrics.

    `update` takes what that of `TissueScores` takes. `compute` gives a mapping of scalars in 0..1 with the names
    `boundary_f_2px` and so on, NaN where there is no edge.
    """

    def __init__(
        self, tissues: TissueSet | Sequence[str] | int, tolerances: Sequence[float] = (2.0, 5.0), **settings: Any
    ) -> None:
        self.tolerances = tuple(float(tolerance) for tolerance in tolerances)
        if not self.tolerances or min(self.tolerances) < 0:
            raise ValueError("tolerances are distances in pixels, 0 or more, and one at least")
        count = tissues if isinstance(tissues, int) else len(tissues)
        super().__init__(tissues, (len(self.tolerances), count, 4), **settings)

    def update(self, preds: Tensor, target: Tensor) -> None:
        """Count the edges of images."""
        counts = BoundaryCounts(len(self.names), self.tolerances)
        for found, true in zip(*self._pairs(preds, target), strict=True):
            counts.update(found, true)
        self.counts += torch.from_numpy(counts.counts).to(self.counts.device)

    def compute(self) -> dict[str, Tensor]:
        """Scores of all images since the last reset."""
        values = boundary_f_scores(self.counts.cpu().numpy())
        named = zip(self.tolerances, values, strict=True)
        return {f"boundary_f_{t:g}px": torch.tensor(float(v), device=self.counts.device) for t, v in named}
