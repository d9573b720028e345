from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from timm.layers.norm_act import BatchNormAct2d
from timm.layers.std_conv import ScaledStdConv2d
from torch import Tensor, nn

from patch2tissue.config import EncoderConfig
from patch2tissue.inference.folding import folded
from patch2tissue.pfscnet.network import PFSCNet


def with_statistics(network: nn.Module, seed: int = 0) -> nn.Module:
    """Running means and variances, scales and shifts as after training, not those of a new network."""
    generator = torch.Generator().manual_seed(seed)
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            size = module.running_mean.shape
            module.running_mean.copy_(0.1 * torch.randn(size, generator=generator))
            module.running_var.copy_(0.5 + torch.rand(size, generator=generator))  # type: ignore[union-attr]
            nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            nn.init.uniform_(module.bias, -0.1, 0.1, generator=generator)
    return network.eval()


def normalisations(network: nn.Module) -> int:
    return sum(isinstance(module, nn.BatchNorm2d) for module in network.modules())


def plain(network: nn.Module, images: Tensor) -> object:
    return network(images)


ENCODERS = {"resnet18": 0, "resnet50d": 0, "convnext_atto": 0, "efficientnet_b0": 0, "resnetv2_50": 16}
"""Encoders and the normalisations that stay: pre-activation networks have some that follow no convolution."""


@pytest.mark.parametrize("encoder", ENCODERS)
def test_outputs_of_a_folded_network_are_the_same(encoder: str) -> None:
    torch.manual_seed(0)
    network = PFSCNet(EncoderConfig(name=encoder, output_stride=16), 4, decoder_channels=16)
    with_statistics(network)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    fused = folded(network, PFSCNet.segment_with_features)
    assert normalisations(network) > 9 or encoder == "convnext_atto"
    assert normalisations(fused) == ENCODERS[encoder]
    images = torch.rand(2, 3, 64, 96)
    with torch.inference_mode():
        for one, other in zip(network.segment_with_features(images), fused.segment_with_features(images), strict=True):
            assert (one - other).abs().max() < 1e-5 * one.abs().max()
    after = network.state_dict()
    assert before.keys() == after.keys() and all(torch.equal(before[name], after[name]) for name in before)
    assert not any(module._forward_hooks for module in network.modules())


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**16), st.integers(1, 4), st.booleans(), st.booleans(), st.sampled_from([1, 2]))
def test_folding_any_convolution(seed: int, width: int, bias: bool, activation: bool, groups: int) -> None:
    torch.manual_seed(seed)
    last = BatchNormAct2d(2 * width) if activation else nn.BatchNorm2d(2 * width)
    layers = nn.Sequential(
        nn.Conv2d(3, 2 * width, 3, bias=bias, stride=2),
        nn.BatchNorm2d(2 * width),
        nn.Conv2d(2 * width, 2 * width, 1 + 2 * (seed % 2), bias=not bias, groups=groups),
        last,
    )
    network = with_statistics(layers, seed)
    fused = folded(network, plain)
    assert normalisations(fused) == 0
    images = torch.rand(2, 3, 21, 17)
    torch.testing.assert_close(fused(images), network(images), rtol=1e-4, atol=1e-5)


class ReadTwice(nn.Module):
    """A convolution whose output goes around its normalisation as well."""

    def __init__(self, *, returned: bool) -> None:
        super().__init__()
        self.conv, self.norm, self.returned = nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4), returned

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        made = self.conv(images)
        return (made, self.norm(made)) if self.returned else (made + self.norm(made),)


class Shared(nn.Module):
    """One convolution before two normalisations."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.one, self.other = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.BatchNorm2d(3)

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        return (self.other(self.conv(self.one(self.conv(images)))),)


@pytest.mark.parametrize(
    "network",
    [
        ReadTwice(returned=False),
        ReadTwice(returned=True),
        Shared(),
        nn.Sequential(ScaledStdConv2d(3, 4, 3), nn.BatchNorm2d(4)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4, track_running_stats=False)),
        nn.Sequential(nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)),
    ],
)
def test_what_cannot_be_folded_stays(network: nn.Module) -> None:
    assert folded(with_statistics(network), plain) is network


def test_a_network_without_normalisations_is_not_run() -> None:
    def never(network: nn.Module, images: Tensor) -> object:
        raise AssertionError

    network = nn.Conv2d(3, 4, 1)
    assert folded(network, never) is network
