"""PFSCNet: shapes at any size, families of encoders, weights on disk."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from patch2tissue.config import EncoderConfig
from patch2tissue.errors import ConfigError
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet, save_pfscnet


@pytest.mark.parametrize(
    ("name", "output_stride"),
    [("resnet10t", 8), ("resnet18", 16), ("mobilenetv3_small_100", 8), ("mobilenetv1_100", 16), ("convnext_atto", 8)],
)
@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_shapes_and_unit_embedding(name: str, output_stride: int, size: tuple[int, int]) -> None:
    config = EncoderConfig(name=name, output_stride=output_stride)  # type: ignore[arg-type]
    network = PFSCNet(config, 3, decoder_channels=16, embedding_dimensions=8)
    output = network(torch.rand(2, 3, *size))
    assert output.logits.shape == (2, 3, *size)
    assert output.embedding.shape[:2] == (2, 8)
    torch.testing.assert_close(output.embedding.norm(dim=1), torch.ones_like(output.embedding[:, 0]))
    (output.logits.mean() + output.embedding.mean()).backward()
    assert all(p.grad is not None for p in network.decoder.parameters())


def test_encoders_without_a_fine_feature_map_are_refused() -> None:
    with pytest.raises(ConfigError, match="output_stride 8 or 16"):
        PFSCNet(EncoderConfig(name="resnet10t", output_stride=32), 3)


def test_saved_network_is_the_same(tmp_path: Path) -> None:
    network = PFSCNet("resnet10t", 3, decoder_channels=16, embedding_dimensions=8, atrous_rates=(2, 4, 6)).eval()
    save_pfscnet(network, tmp_path)
    loaded = load_pfscnet(tmp_path)
    image = torch.rand(1, 3, 40, 40)
    assert torch.equal(network(image).logits, loaded(image).logits)
    save_pfscnet(loaded, tmp_path / "again")
    assert (tmp_path / "again" / "network.json").read_text() == (tmp_path / "network.json").read_text()


@pytest.mark.parametrize("size", [(64, 64), (50, 71)])
def test_segment_gives_the_logits_of_forward(size: tuple[int, int]) -> None:
    network = PFSCNet(EncoderConfig(name="resnet10t", output_stride=16), 3, decoder_channels=16).eval()
    images = torch.rand(2, 3, *size)
    with torch.inference_mode():
        torch.testing.assert_close(network.segment(images), network(images).logits, rtol=0, atol=0)
