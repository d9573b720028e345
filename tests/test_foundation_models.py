"""Foundation models: the real architectures at their full size without memory, and with two blocks for training."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from conftest import RECIPES
from patch2tissue.config import EncoderConfig, load_config
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.attention_maps import attention_maps, grad_cam
from patch2tissue.craanet.network import CRAANet
from patch2tissue.encoders import Encoder, resolved
from patch2tissue.errors import ConfigError
from patch2tissue.foundation_models import FOUNDATION_MODELS, encoder_notes, foundation_model
from patch2tissue.pfscnet.network import PFSCNet

SHORT = {"depth": 2, "out_indices": [0, 1]}
"""Options of a model with two of its blocks."""

PUBLISHED = {
    "uni": 303,
    "uni2-h": 681,
    "virchow": 631,
    "virchow2": 631,
    "h-optimus-0": 1135,
    "h-optimus-1": 1135,
    "h0-mini": 86,
    "phikon": 86,
    "phikon-v2": 303,
    "gigapath": 1135,
}
"""Millions of parameters, as the models' pages and papers give them (1.1 billion for the giants)."""


@pytest.mark.parametrize("name", FOUNDATION_MODELS)
def test_the_whole_architecture_has_the_published_size(name: str) -> None:
    model = FOUNDATION_MODELS[name]
    with torch.device("meta"):
        encoder = Encoder(EncoderConfig(name=name))
        maps = encoder(torch.rand(2, 3, 224, 224))
    count = sum(parameter.numel() for parameter in encoder.parameters())
    assert count == model.parameters and round(count / 1e6) == PUBLISHED[name]
    grid = 224 // model.patch
    assert [tuple(one.shape) for one in maps] == [(2, model.width, grid, grid)] * 4
    assert encoder.strides == [model.patch] * 4 and encoder.channels == [model.width] * 4
    assert len(encoder.model.model.blocks) == model.depth  # type: ignore[union-attr]


@pytest.mark.parametrize("name", ["uni", "uni2-h", "virchow2", "h-optimus-0", "phikon", "h0-mini", "gigapath"])
def test_tokens_give_attention_that_is_accumulated(name: str, tmp_path: Path) -> None:
    model = FOUNDATION_MODELS[name]
    network = CRAANet(EncoderConfig(name=name, options=SHORT, train="frozen"), tissues=3, attention_stages=2)
    images, labels = torch.rand(2, 3, 64, 64), torch.tensor([[1.0, 1.0, 0.0], [0.0, 1.0, 1.0]])
    output = network(images)  # 64 is no multiple of 14
    grid = -(-64 // model.patch)
    assert output.logits.shape == (2, 3) and output.attention.shape == (2, 3, grid, grid)
    output.logits.sum().backward()
    trained = {name for name, parameter in network.named_parameters() if parameter.grad is not None}
    assert trained == {"heads.classifiers.0.weight", "earlier_heads.0.classifiers.0.weight"}
    memory = AttentionMemory.create(tmp_path / "memory", (2, 3, grid, grid), mode="mean", ema_decay=0.5, dtype="uint8")
    memory.accumulate(torch.arange(2), attention_maps(output.attention, labels).detach())
    torch.testing.assert_close(memory.read(torch.arange(2)).sum(dim=1), torch.ones(2, grid, grid), atol=0.02, rtol=0)


@pytest.mark.slow
def test_the_whole_uni_computes() -> None:
    network = CRAANet(EncoderConfig(name="uni", train="frozen"), tissues=3)
    output = network(torch.rand(1, 3, 64, 64))
    output.logits.sum().backward()
    assert output.attention.shape == (1, 3, 4, 4) and torch.isfinite(output.attention).all()


@pytest.mark.parametrize("name", ["phikon", "h0-mini"])
@pytest.mark.parametrize("size", [(64, 64), (50, 75)])
def test_pfscnet_segments_with_tokens_of_any_patch_at_any_size(name: str, size: tuple[int, int]) -> None:
    network = PFSCNet(EncoderConfig(name=name, options=SHORT), 3, decoder_channels=16, embedding_dimensions=8)
    images = torch.rand(2, 3, *size)
    output = network(images)
    fine = (-(-size[0] // 4), -(-size[1] // 4))
    assert output.logits.shape == (2, 3, *size) and output.embedding.shape == (2, 8, *fine)
    assert network.fine_features(images).shape[-2:] == fine
    (output.logits.mean() + output.embedding.mean()).backward()
    used = [parameter for key, parameter in network.named_parameters() if not key.endswith("mask_token")]
    assert all(parameter.grad is not None for parameter in used)


def test_maps_cover_the_image_whatever_its_sides() -> None:
    encoder = Encoder(EncoderConfig(name="phikon", options=SHORT)).eval()
    images = torch.rand(1, 3, 48, 56)
    larger = torch.nn.functional.interpolate(encoder.normalised(images), (48, 64), mode="bilinear")
    torch.testing.assert_close(encoder(images)[-1], encoder.model(larger)[-1])
    assert torch.equal(encoder(images[..., :48])[-1], encoder.model(encoder.normalised(images[..., :48]))[-1])


def test_a_bright_corner_is_found_where_it_is() -> None:
    """Pixels map to positions of both networks without a shift: a change of the image changes the maps there most."""
    torch.manual_seed(0)
    network = PFSCNet(
        EncoderConfig(name="h0-mini", options=SHORT), 3, decoder_channels=16, atrous_rates=(1, 1, 1)
    ).eval()
    images = torch.rand(1, 3, 100, 100)
    changed = images.clone()
    changed[..., 88:, 88:] = 1.0
    with torch.no_grad():
        tokens = (network.encoder(changed)[0] - network.encoder(images)[0]).abs().mean(dim=1)[0]
        fine = (network.fine_features(changed) - network.fine_features(images)).abs().mean(dim=1)[0]
    assert divmod(int(tokens.argmax()), 8) == (7, 7)  # 100 px as 8 tokens of 12.5 px
    row, column = divmod(int(fine.argmax()), 25)
    assert row >= 21 and column >= 21


def test_grad_cam_sees_through_a_frozen_encoder() -> None:
    config = EncoderConfig(name="phikon", options=SHORT)
    network = CRAANet(config, 3)
    frozen = CRAANet(config.model_copy(update={"train": "frozen"}), 3)
    frozen.load_state_dict(network.state_dict())
    images = torch.rand(1, 3, 32, 32)
    torch.testing.assert_close(grad_cam(frozen, images), grad_cam(network, images))


def test_a_model_is_known_by_its_name_and_by_its_repository() -> None:
    for name in ("uni", "UNI", "hf-hub:MahmoodLab/UNI", "hf_hub:mahmoodlab/uni"):
        assert foundation_model(name) is FOUNDATION_MODELS["uni"]
    assert foundation_model("hf-hub:somebody/else") is None and foundation_model("resnet50d") is None
    one, two = (resolved(EncoderConfig(name=name)) for name in ("uni2-h", "hf-hub:MahmoodLab/UNI2-h"))
    assert one == two and one.name == "vit_giant_patch14_224" and one.options["out_indices"] == [5, 11, 17, 23]
    given = resolved(EncoderConfig(name="uni", options={"depth": 8}, mean=(0.5, 0.5, 0.5), final_norm=False))
    assert given.options["out_indices"] == [1, 3, 5, 7] and given.mean == (0.5, 0.5, 0.5) and not given.final_norm


def test_what_is_wrong_with_a_name_or_an_option_is_said() -> None:
    with pytest.raises(ConfigError, match=r"Similar names: .*virchow, virchow2"):
        Encoder(EncoderConfig(name="virchow3"))
    with pytest.raises(ConfigError, match="mlp_layer is 'os'"):
        Encoder(EncoderConfig(name="uni", options={**SHORT, "mlp_layer": "os"}))
    with pytest.raises(ConfigError, match="final_norm is for vision transformers"):
        Encoder(EncoderConfig(name="resnet10t", final_norm=True))


def test_resolution_and_random_weights_are_told_of() -> None:
    def notes(*overrides: str) -> list[str]:
        return encoder_notes(load_config(RECIPES / "foundation-uni.yaml", list(overrides)))

    assert notes() == []
    (coarse,) = notes("data.um_per_pixel=1.0")
    assert "1 µm per pixel, but uni was trained at 0.5" in coarse
    assert notes("data.um_per_pixel=1.0", "craanet.encoder.name=virchow2") == []
    (random,) = notes("craanet.encoder.pretrained=false")
    assert "frozen at random weights" in random
    assert encoder_notes(load_config(RECIPES / "foundation-virchow2-lora.yaml")) == []


def test_the_page_lists_every_model_as_it_is() -> None:
    page = (RECIPES.parent / "docs" / "encoders.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| `")]
    found = {row.split("|")[1].strip(" `"): row for row in rows}
    for name, model in FOUNDATION_MODELS.items():
        row = found[name]
        assert f"]({model.page})" in row and model.licence in row
        assert f"| {model.parameters / 1e6:,.0f} M |" in row and f"| {model.patch} px |" in row
        assert f"| {', '.join(f'{value:g}' for value in model.um_per_pixel)} |" in row
        assert ("| gated |" if model.gated else "| open |") in row
        assert ("*" in row) == bool(model.to_check)


def test_the_page_tells_the_memory_that_was_measured() -> None:
    folder = RECIPES.parent
    page = (folder / "docs" / "encoders.md").read_text(encoding="utf-8")
    found = json.loads((folder / "benchmarks" / "results" / "encoder_memory.json").read_text())
    assert found["settings"] == {"encoder": "uni", "batch": 4, "side": 224}
    for figures in found["figures"].values():
        told = f"| {figures['memory_gib']:.1f} GiB | {figures['checkpoint_mib']:,.1f} MiB |"
        assert f"| {figures['trained_millions']:.2f} M {told}" in page
