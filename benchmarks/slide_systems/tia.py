"""TIAToolbox's semantic segmentor with the same network, tile size, overlap and mask.

    PYTHONPATH=src:. TIA_PYTHON -m benchmarks.slide_systems.tia RUN SLIDE MASK OUT [bfloat16]

Runs in an environment of its own, with tiatoolbox, segmentation-models-pytorch, pydantic, pyyaml and filelock. It draws
probabilities in float32, as it comes; with `bfloat16` its network computes as ours does.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import numpy as np
import tiatoolbox
import torch
from PIL import Image
from tiatoolbox.models.engine.io_config import IOSegmentorConfig
from tiatoolbox.models.engine.semantic_segmentor import SemanticSegmentor
from tiatoolbox.models.models_abc import ModelABC

from patch2tissue.inference.slides.reading import default_workers
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.run_folder import RunFolder

TILES = [0]


class Segmentor(ModelABC):
    """Our network as TIAToolbox wants it."""

    def __init__(self, network: PFSCNet, dtype: torch.dtype | None) -> None:
        super().__init__()
        self.network, self.dtype = network, dtype

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Probabilities [B, K, H, W] of images [B, 3, H, W]."""
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits = self.network.segment(images)
        return torch.softmax(logits.float(), dim=1)

    @staticmethod
    def infer_batch(model: torch.nn.Module, batch_data: torch.Tensor, *, device: str) -> np.ndarray:
        """Tiles uint8 [B, H, W, 3] to probabilities [B, H, W, K]."""
        images = batch_data.to(device).permute(0, 3, 1, 2).float() / 255
        if model.dtype is not None:
            images = images.contiguous(memory_format=torch.channels_last)
        TILES[0] += len(images)
        with torch.inference_mode():
            return model(images).permute(0, 2, 3, 1).cpu().numpy()


def main() -> None:
    """Predict the slide."""
    run, slide, mask, out = (Path(argument) for argument in sys.argv[1:5])
    dtype = torch.bfloat16 if "bfloat16" in sys.argv[5:] else None
    config = RunFolder(run).config()
    network = load_pfscnet(RunFolder(run).pfscnet, torch.device("cpu")).eval()
    if dtype is not None:
        network = network.to(memory_format=torch.channels_last)
    settings = config.inference
    stride = round(settings.tile * (1 - settings.overlap))
    resolution = [{"units": "mpp", "resolution": config.tissue_set().um_per_pixel}]
    begin = time.perf_counter()
    engine = SemanticSegmentor(
        model=Segmentor(network, dtype), batch_size=settings.batch_size, num_workers=default_workers(), verbose=False
    )
    engine.run(
        [slide],
        masks=[np.asarray(Image.open(mask)) > 0],
        patch_mode=False,
        ioconfig=IOSegmentorConfig(
            input_resolutions=resolution,
            output_resolutions=resolution,
            patch_input_shape=[settings.tile, settings.tile],
            patch_output_shape=[settings.tile, settings.tile],
            stride_shape=[stride, stride],
        ),
        device="cpu",
        save_dir=out,
        overwrite=True,
        output_type="zarr",
        auto_get_mask=False,
    )
    plain = {"tiles": TILES[0], "seconds": time.perf_counter() - begin, "tiatoolbox": tiatoolbox.__version__}
    print(json.dumps(plain))


if __name__ == "__main__":
    main()
