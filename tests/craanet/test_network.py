"""CRAANet on encoders of several families, its weights on disk, its maps, and Grad-CAM."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file, save_file

from patch2tissue.config import EncoderConfig
from patch2tissue.craanet.attention_maps import attention_maps, grad_cam
from patch2tissue.craanet.network import CRAANet, load_craanet, save_craanet
from patch2tissue.encoders import Encoder
from patch2tissue.errors import ConfigError, DataError


@pytest.mark.parametrize(
    "option", ["checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay", "cache_dir", "pretrained"]
)
def test_options_name_no_weights(option: str) -> None:
    with pytest.raises(ValueError, match=f"'{option}' is not taken here: use pretrained, weights"):
        EncoderConfig(name="resnet10t", options={option: "a"})


@pytest.mark.parametrize(
    ("name", "output_stride", "grid"),
    [
        ("resnet10t", 8, 8),
        ("resnet18", 16, 4),
        ("mobilenetv3_small_100", 8, 8),
        ("mobilenetv1_100", 8, 8),
        ("convnext_atto", 8, 8),
        ("convnext_atto", 16, 4),
        ("efficientnet_b0", 16, 4),
        ("vit_small_patch16_224", 8, 4),  # a ViT keeps its own grid
    ],
)
def test_encoder_families_train(name: str, output_stride: int, grid: int) -> None:
    network = CRAANet(EncoderConfig(name=name, output_stride=output_stride), tissues=3, heads=2)
    output = network(torch.rand(2, 3, 64, 64))
    assert output.logits.shape == (2, 3)
    assert output.attention.shape == (2, 3, grid, grid)
    output.logits.sum().backward()
    assert all(p.grad is not None for n, p in network.named_parameters() if n.startswith("heads"))
    first = next(network.encoder.parameters())
    assert first.grad is not None and first.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["vgg11", "swin_tiny_patch4_window7_224", "resnet_that_is_not"])
def test_encoder_without_such_feature_maps_is_named(name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        Encoder(EncoderConfig(name=name))


def test_normalisation_is_inside() -> None:
    encoder = Encoder(EncoderConfig(name="resnet10t", mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))).eval()
    image = torch.rand(1, 3, 32, 32)
    expected = encoder.model((image - 0.5) / 0.25)[-1]
    torch.testing.assert_close(encoder(image)[-1], expected)


def test_local_weights_give_the_models_own_features(tmp_path: Path) -> None:
    original = timm.create_model("resnet10t", num_classes=7).eval()
    save_file(original.state_dict(), tmp_path / "weights.safetensors")
    config = EncoderConfig(name="resnet10t", output_stride=32, weights=tmp_path / "weights.safetensors")
    encoder = Encoder(config.model_copy(update={"mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)})).eval()
    image = torch.rand(1, 3, 64, 64)
    torch.testing.assert_close(encoder(image)[-1], original.forward_features(image))


def test_bad_weight_files_are_named(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    config = EncoderConfig(name="resnet10t", weights=path)
    with pytest.raises(DataError, match="cannot read"):
        Encoder(config)
    path.write_bytes(b"not safetensors")
    with pytest.raises(DataError, match="cannot read"):
        Encoder(config)
    tensors = timm.create_model("resnet10t").state_dict()
    save_file({k: v for k, v in tensors.items() if not k.startswith("layer4")}, path)
    with pytest.raises(DataError, match="allow_missing"):
        Encoder(config)
    Encoder(config.model_copy(update={"allow_missing": True}))
    save_file({**tensors, "conv1.0.weight": torch.zeros(5, 3, 3, 3)}, path)
    with pytest.raises(DataError, match="another shape"):
        Encoder(config)
    with pytest.raises(DataError, match=r"\.safetensors"):
        Encoder(EncoderConfig(name="resnet10t", weights=tmp_path / "weights.pth"))


def test_pretrained_trunk(shared_data: Path) -> None:
    path = shared_data / "weights" / "mobilenetv1_100_imagenet_trunk.safetensors"
    config = EncoderConfig(
        name="mobilenetv1_100",
        weights=path,
        allow_missing=True,
        options={"pad_type": "same", "bn_eps": 1e-3, "act_layer": "relu6"},
        mean=(0.5, 0.5, 0.5),
        std=(0.5, 0.5, 0.5),
    )
    encoder = Encoder(config)
    stem = dict(encoder.named_parameters())["model.model.conv_stem.weight"]
    assert torch.equal(stem, load_file(path)["conv_stem.weight"])


def test_saved_network_is_the_same(tmp_path: Path) -> None:
    network = CRAANet("resnet10t", 3, heads=4, residual_weight=0.2).eval()
    save_craanet(network, tmp_path)
    loaded = load_craanet(tmp_path)
    image = torch.rand(2, 3, 48, 48)
    assert torch.equal(network(image).logits, loaded(image).logits)
    assert loaded.heads.temperatures == network.heads.temperatures
    (tmp_path / "weights.safetensors").write_bytes(b"half")
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_craanet(tmp_path)
    settings = json.loads((tmp_path / "network.json").read_text())
    (tmp_path / "network.json").write_text(json.dumps({**settings, "kind": "PFSCNet"}))
    with pytest.raises(DataError, match="describes no CRAANet"):
        load_craanet(tmp_path)


@pytest.mark.parametrize("form", ["softmax", "rectified", "plain"])
def test_maps_are_in_range_and_absent_tissues_get_nothing(form: str) -> None:
    scores = 3 * torch.randn(4, 3, 5, 5)
    labels = torch.tensor([[1, 1, 0], [0, 0, 1], [1, 1, 1], [0, 0, 0]]).float()
    maps = attention_maps(scores, labels, form)  # type: ignore[arg-type]
    assert maps.min() >= 0 and maps.max() <= 1 and torch.isfinite(maps).all()
    assert (maps[labels == 0] == 0).all()
    if form == "softmax":
        torch.testing.assert_close(maps[:3].sum(1), torch.ones(3, 5, 5))
    if form == "rectified":
        assert (maps.amax((2, 3))[labels == 1].sub(1).abs() < 1e-5).all()


def test_grad_cam_of_average_pooling_is_cam() -> None:
    # with average pooling and a linear classifier, Grad-CAM on the last features is CAM up to a factor
    network = CRAANet("resnet10t", 3, residual_weight=0.0).eval()
    images = torch.rand(2, 3, 64, 64)
    cam = network(images).attention
    found = grad_cam(network, images)
    torch.testing.assert_close(found * cam.shape[-1] * cam.shape[-2], cam, rtol=1e-3, atol=1e-4)
    earlier = grad_cam(network, images, stage=-2)
    assert earlier.shape == (2, 3, 8, 8) and not torch.allclose(earlier, found)
