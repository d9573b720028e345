"""Attention of several encoder stages: their scores as one, on the grid of the finest of them.

Our reading throughout. That class evidence of earlier stages sharpens maps is known (Jiang et al., LayerCAM, IEEE TIP
2021; Han C. et al., Multi-Layer Pseudo-Supervision, Med. Image Anal. 2022); there it is read from gradients of one
classifier, here every stage has a classifier of its own, which patch labels train.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from patch2tissue.errors import ConfigError


def check_stages(stages: int, strides: Sequence[int], encoder: str) -> None:
    """Check that an encoder has as many feature maps as shall give attention.

    Args:
        stages: how many feature maps, counted from the deepest.
        strides: input pixels per position of each of the encoder's feature maps, shallow to deep.
        encoder: its name, for the message.

    Raises:
        ConfigError: if there are fewer feature maps, or `stages` is below 1.
    """
    if not 1 <= stages <= len(strides):
        raise ConfigError(
            f"craanet.attention_stages is {stages}, but the encoder '{encoder}' has {len(strides)} feature maps, at "
            f"strides {list(strides)}. Use 1 to {len(strides)}."
        )


def finest_stride(strides: Sequence[int], stages: int) -> int:
    """Input pixels per position of the finest of the last `stages` feature maps.

    Args:
        strides: of every feature map of the encoder, shallow to deep.
        stages: how many are used, counted from the deepest, at least 1.
    """
    return min(strides[-stages:])


def join_stages(outputs: Sequence[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Join what the classifiers of several stages say; each counts alike (our reading).

    Position scores are on the scale of logits, whatever the stage: a logit is their mean over positions plus the
    attention term. So they are averaged as they are, after coarser ones were enlarged bilinearly, pixel centres
    aligned.

    Args:
        outputs: of each stage the logits [B, K] and the position scores [B, K, h, w], any grids of one shape ratio.

    Returns:
        Logits [B, K], mean over stages, and scores [B, K, h, w] on the finest grid, mean over stages; one stage's
        are returned as they are.
    """
    if len(outputs) == 1:
        return outputs[0]
    logits, scores = zip(*outputs, strict=True)
    height, width = max(score.shape[-2] for score in scores), max(score.shape[-1] for score in scores)
    grids = [
        score
        if score.shape[-2:] == (height, width)
        else F.interpolate(score, size=(height, width), mode="bilinear", align_corners=False)
        for score in scores
    ]
    return torch.stack(logits).mean(dim=0), torch.stack(grids).mean(dim=0)
