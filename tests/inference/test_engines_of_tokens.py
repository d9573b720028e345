"""Vision transformers in engines that are compiled from a graph: sizes that are no multiples of the patch."""

from __future__ import annotations

import pytest
import torch

from patch2tissue.config import EncoderConfig
from patch2tissue.inference.engines.making import make_engine
from patch2tissue.pfscnet.network import PFSCNet


@pytest.mark.extras
@pytest.mark.parametrize("name", ["phikon", "h0-mini"])
def test_onnxruntime_enlarges_images_as_torch_does(name: str) -> None:
    for package in ("onnx", "onnxscript", "onnxruntime"):
        pytest.importorskip(package)
    torch.manual_seed(0)
    config = EncoderConfig(name=name, options={"depth": 1, "out_indices": [0]})
    network = PFSCNet(config, 3, decoder_channels=16, embedding_dimensions=8).eval()
    engine = make_engine("onnxruntime", network, device=torch.device("cpu"), dtype=None, features=True)
    for size in ((96, 128), (224, 224), (160, 64)):
        images = torch.rand(2, 3, *size)
        with torch.no_grad():
            logits, fine = network.segment_with_features(images)
        found, found_fine = engine.segment_with_features(images)
        torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(found_fine, fine, atol=1e-4, rtol=1e-4)
