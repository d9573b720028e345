"""Attention of several encoder stages: against a slow reference, on disk, and through training and pseudo labels."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from patch2tissue.config import EncoderConfig, RunConfig, config_from_dict
from patch2tissue.craanet.accumulation import AttentionMemory
from patch2tissue.craanet.attention_maps import attention_maps, grad_cam
from patch2tissue.craanet.multi_stage import finest_stride, join_stages
from patch2tissue.craanet.network import CRAANet, load_craanet, save_craanet
from patch2tissue.craanet.residual_attention import position_scores, residual_attention
from patch2tissue.craanet.training import CRAANetStage, train_craanet
from patch2tissue.data.layouts import load_split
from patch2tissue.errors import ConfigError, DataError
from patch2tissue.pseudo_labels.generate import generate_pseudo_labels

ENCODER = EncoderConfig(name="resnet10t")
"""Feature maps at strides 2, 4, 8, 8, 8."""


def bilinear(grid: np.ndarray, height: int, width: int) -> np.ndarray:
    """Enlarge one grid pixel by pixel, pixel centres aligned."""
    rows, columns = grid.shape
    result = np.empty((height, width))
    for y in range(height):
        for x in range(width):
            v = min(max((y + 0.5) * rows / height - 0.5, 0.0), rows - 1.0)
            u = min(max((x + 0.5) * columns / width - 0.5, 0.0), columns - 1.0)
            top, left = int(v), int(u)
            bottom, right = min(top + 1, rows - 1), min(left + 1, columns - 1)
            upper = grid[top, left] * (1 - (u - left)) + grid[top, right] * (u - left)
            lower = grid[bottom, left] * (1 - (u - left)) + grid[bottom, right] * (u - left)
            result[y, x] = upper * (1 - (v - top)) + lower * (v - top)
    return result


@pytest.mark.parametrize(("stages", "stride"), [(1, 8), (2, 8), (3, 8), (4, 4), (5, 2)])
def test_forward_is_the_mean_over_stages(stages: int, stride: int) -> None:
    network = CRAANet(ENCODER, 3, heads=2, residual_weight=0.4, attention_stages=stages).eval()
    image = torch.rand(1, 3, 32, 48)
    with torch.no_grad():
        output, features = network(image), network.encoder(image)
        logits, maps = np.zeros(3), np.zeros((3, 32 // stride, 48 // stride))
        for head, stage in zip((*network.earlier_heads, network.heads), features[5 - stages :], strict=True):
            for classifier, temperature in zip(head.classifiers, (1.0, float("inf")), strict=True):
                scores = position_scores(stage, classifier.weight.flatten(1))
                logits += residual_attention(scores, temperature, 0.4)[0].numpy() / stages
                for k in range(3):
                    maps[k] += bilinear(scores[0, k].numpy(), *maps.shape[1:]) / (2 * stages)
    assert network.attention_stride == stride
    np.testing.assert_allclose(output.logits[0].numpy(), logits, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(output.attention[0].numpy(), maps, rtol=1e-4, atol=1e-5)


def test_one_stage_is_as_it_was() -> None:
    torch.manual_seed(5)
    plain = CRAANet(ENCODER, 3).eval()
    torch.manual_seed(5)
    several = CRAANet(ENCODER, 3, attention_stages=3).eval()
    names = plain.state_dict()
    assert not [name for name in names if "earlier" in name]
    assert all(torch.equal(tensor, several.state_dict()[name]) for name, tensor in names.items()), "drawn alike"
    image = torch.rand(2, 3, 32, 32)
    expected = plain.heads(plain.encoder(image)[-1])
    assert torch.equal(plain(image).logits, expected[0]) and torch.equal(plain(image).attention, expected[1])
    logits, scores = torch.rand(2, 3), torch.rand(2, 3, 4, 4)
    assert join_stages([(logits, scores)])[1] is scores


def test_finest_stride_counts_from_the_deepest() -> None:
    assert [finest_stride([2, 4, 8, 8], n) for n in (1, 2, 3, 4)] == [8, 8, 4, 2]
    assert finest_stride([16, 16, 16], 3) == 16


def test_every_stage_learns_and_reaches_its_features() -> None:
    network = CRAANet(ENCODER, 3, attention_stages=4)
    network(torch.rand(2, 3, 32, 32)).logits.sum().backward()
    heads = [p for n, p in network.named_parameters() if "heads" in n]
    assert len(heads) == 4 and all(p.grad is not None and p.grad.abs().sum() > 0 for p in heads)


@pytest.mark.parametrize("stages", [0, 6])
def test_more_stages_than_feature_maps_are_refused(stages: int) -> None:
    with pytest.raises(ConfigError, match=r"attention_stages is .* 'resnet10t' has 5 feature maps.* Use 1 to 5"):
        CRAANet(ENCODER, 3, attention_stages=stages)


def test_saved_network_is_the_same_and_old_folders_have_one_stage(tmp_path: Path) -> None:
    network = CRAANet(ENCODER, 3, attention_stages=4, residual_weight=0.2).eval()
    save_craanet(network, tmp_path / "four")
    loaded, image = load_craanet(tmp_path / "four"), torch.rand(2, 3, 40, 40)
    assert torch.equal(network(image).attention, loaded(image).attention) and loaded.settings == network.settings

    plain = CRAANet(ENCODER, 3).eval()
    save_craanet(plain, tmp_path / "old")
    told = tmp_path / "old" / "network.json"
    settings = json.loads(told.read_text())
    del settings["attention_stages"]
    told.write_text(json.dumps(settings))
    old = load_craanet(tmp_path / "old")
    assert torch.equal(plain(image).attention, old(image).attention) and old.attention_stride == 8
    # the file says how many: weights of four are no weights of one
    (tmp_path / "four" / "network.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match=r"weights\.safetensors"):
        load_craanet(tmp_path / "four")


def test_grad_cam_stays_on_the_deepest_map() -> None:
    torch.manual_seed(1)
    plain = CRAANet(ENCODER, 3).eval()
    several = CRAANet(ENCODER, 3, attention_stages=4).eval()
    several.load_state_dict(plain.state_dict(), strict=False)
    image = torch.rand(2, 3, 32, 32)
    torch.testing.assert_close(grad_cam(several, image), grad_cam(plain, image))


def tiny_config(folder: Path, stages: int) -> RunConfig:
    return config_from_dict(
        {
            "output": str(folder / "run"),
            "tissues": "bcss-wsss",
            "data": {"path": str(folder / "data")},
            "craanet": {
                "encoder": {"name": "resnet10t"},
                "epochs": 2,
                "batch_size": 4,
                "attention_stages": stages,
                "accumulation": {"start": 0.0},
            },
            "pseudo_labels": {"scales": [0.75, 1.0], "symmetries": False},
            "hardware": {"threads": 1, "device": "cpu"},
        }
    )


def test_training_memory_and_pseudo_labels_follow_the_finer_grid(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(tmp_path / "data", "bcss-wsss", train=8, test=1)
    config = tiny_config(tmp_path, 4)
    tissues = config.tissue_set()
    patches = load_split(tmp_path / "data", "train", tissues)
    folder, other = tmp_path / "whole", tmp_path / "killed"
    train_craanet(config, patches, folder, side=32)

    # killed in the second epoch, it ends the same
    step, steps = CRAANetStage.training_step, []

    def dies(self: CRAANetStage, *arguments: object) -> dict[str, torch.Tensor]:
        steps.append(0)
        if len(steps) == 4:
            raise KeyboardInterrupt
        return step(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(CRAANetStage, "training_step", dies)
    with pytest.raises(KeyboardInterrupt):
        train_craanet(config, patches, other, side=32)
    train_craanet(config, patches, other, side=32)
    for name in ("weights.safetensors", "attention_memory/maps.npy"):
        assert (folder / name).read_bytes() == (other / name).read_bytes(), name

    memory, network = AttentionMemory(folder / "attention_memory"), load_craanet(folder)
    assert memory.maps.shape == (8, 4, 8, 8) and (memory.counts == 2).all(), "at stride 4, not 8"
    assert {n.split(".")[1] for n in load_file(folder / "weights.safetensors") if n.startswith("earlier")} == set("012")
    history = np.load(folder / "attention_history.npz")
    assert history["current"].shape[-2:] == (8, 8)
    labels = tmp_path / "labels"
    generate_pseudo_labels(
        patches,
        tissues,
        network,
        memory,
        labels,
        side=32,
        config=config.pseudo_labels,
        form=config.craanet.accumulation.form,
        hardware=config.hardware,
    )
    assert len(list((labels / "masks").glob("*.png"))) == 8
    maps = attention_maps(network(torch.rand(1, 3, 32, 32)).attention, torch.ones(1, 4))
    torch.testing.assert_close(maps.sum(1), torch.ones(1, 8, 8))


def test_plain_cam_stays_on_the_deepest_map(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    fabricate(tmp_path / "data", "bcss-wsss", train=8, test=1)
    weights = []
    for stages in (1, 3):
        config = tiny_config(tmp_path, stages)
        patches = load_split(tmp_path / "data", "train", config.tissue_set())
        train_craanet(config, patches, tmp_path / f"cam{stages}", side=32, plain_cam=True)
        weights.append((tmp_path / f"cam{stages}" / "weights.safetensors").read_bytes())
    assert weights[0] == weights[1]
