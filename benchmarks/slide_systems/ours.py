"""patch2tissue on one slide.

python -m benchmarks.slide_systems.ours RUN SLIDE MASK OUT
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import patch2tissue.inference.predictor as predictor_module
from patch2tissue import SlideOptions, predict_slide


class ByColour(nn.Module):
    """Four tissues by how red a tile's squares of 24 pixels are: a map about as rugged as the demo's."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("redness", torch.tensor([0.55, 0.65, 0.75, 0.85])[None, :, None, None])

    def segment(self, images: Tensor) -> Tensor:
        """Logits [B, 4, H, W] of images [B, 3, H, W]."""
        coarse = F.avg_pool2d(images[:, :1].float(), 24)
        logits = -100 * (coarse - self.redness).square()
        return F.interpolate(logits, size=images.shape[-2:], mode="bilinear")


def main() -> None:
    """Predict the slide; MASK is a mask file, or `found`."""
    run, slide, mask, out = sys.argv[1:5]
    if "by-colour" in sys.argv[5:]:
        predictor_module.load_pfscnet = lambda *arguments: ByColour()
    options = SlideOptions(tissue=mask if mask == "found" else Path(mask))
    result = predict_slide(run, slide, out, options=options, progress=False)
    plain = {
        "tiles": result.tiles,
        "seconds": result.map_seconds,
        "all_seconds": result.seconds,
        "waiting_share": result.waiting_share,
    }
    print(json.dumps(plain))


if __name__ == "__main__":
    main()
