"""What of an encoder is trained: nothing (frozen) or low-rank changes (LoRA), from checkpoint to saved network."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue import weights
from patch2tissue.config import EncoderConfig, OptimiserConfig, PFSCNetConfig, RunConfig, load_config
from patch2tissue.craanet import training as craanet_training
from patch2tissue.craanet.network import CRAANet, load_craanet, save_craanet
from patch2tissue.errors import ConfigError, WriteError
from patch2tissue.inference.folding import folded
from patch2tissue.lora import adapted_layers, load_plain_state, plain_state
from patch2tissue.pfscnet import training as pfscnet_training
from patch2tissue.pfscnet.network import PFSCNet, load_pfscnet
from patch2tissue.pfscnet.training import PFSCNetStage
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder
from patch2tissue.training import parameter_groups
from patch2tissue.weights import FROZEN_FILE, keep_frozen, load_trained_state, restore_frozen, trained_state

VIT = [
    "craanet.encoder.name=vit_tiny_patch16_224",
    "craanet.encoder.options={depth: 2, out_indices: [0, 1]}",
    "craanet.attention_stages=2",
    "pfscnet.atrous_rates=[1, 2, 3]",
    "data.um_per_pixel=0.5",
]
"""A transformer with two blocks instead of TINY's encoder."""


def _small(**settings: object) -> EncoderConfig:
    options = {"depth": 2, "out_indices": [0, 1]}
    return EncoderConfig.model_validate({"name": "vit_tiny_patch16_224", "options": options, **settings})


def test_a_frozen_encoder_stays_as_it_is() -> None:
    network = CRAANet(EncoderConfig(name="resnet10t", train="frozen"), 3).train()
    before = {name: tensor.clone() for name, tensor in network.encoder.state_dict().items()}
    settings = OptimiserConfig(learning_rate=1.0)
    groups = parameter_groups(network, settings)
    assert [len(group["params"]) for group in groups] == [1]
    optimiser = torch.optim.AdamW(groups)
    output = network(torch.rand(2, 3, 32, 32))
    assert not network.encoder.model.training and network.heads.training
    output.logits.square().sum().backward()
    optimiser.step()
    after = network.encoder.state_dict()
    assert all(torch.equal(after[name], tensor) for name, tensor in before.items()), "batch statistics too"


def test_frozen_weights_are_kept_once_and_found_again(tmp_path: Path) -> None:
    torch.manual_seed(0)
    network, other = (CRAANet(_small(train="frozen"), 3) for _ in range(2))
    state = trained_state(network)
    assert {name for name in state if name.endswith("weight")} == {"heads.classifiers.0.weight"}
    keep_frozen(network, tmp_path)
    written = (tmp_path / FROZEN_FILE).stat()
    keep_frozen(network, tmp_path)
    assert (tmp_path / FROZEN_FILE).stat().st_mtime_ns == written.st_mtime_ns
    restore_frozen(other, tmp_path)
    load_trained_state(other, state)
    assert all(
        torch.equal(a, b) for a, b in zip(network.state_dict().values(), other.state_dict().values(), strict=True)
    )
    with pytest.raises(RuntimeError, match="other weights than are frozen"):
        restore_frozen(CRAANet(_small(train="frozen", options={"depth": 3, "out_indices": [2]}), 3), tmp_path)
    with pytest.raises(RuntimeError, match="missing"):
        load_trained_state(other, {})
    keep_frozen(CRAANet(_small(), 3), tmp_path / "all")
    assert not (tmp_path / "all").exists()


def test_averaged_and_folded_networks_share_what_is_frozen() -> None:
    network = PFSCNet(_small(train="frozen"), 3, decoder_channels=16, embedding_dimensions=8)
    stage = PFSCNetStage(network, PFSCNetConfig(weight_averaging=0.5), "test", 3)
    stage.move_to(torch.device("cpu"))
    averaged = stage.final_network()
    assert averaged.encoder.model.state_dict().keys() == network.encoder.model.state_dict().keys()
    for one, two in zip(averaged.encoder.parameters(), network.encoder.parameters(), strict=True):
        assert one.data_ptr() == two.data_ptr()
    first = network.classifier.weight.detach().clone()
    stage.after_optimiser_step()
    with torch.no_grad():
        network.classifier.weight.add_(1.0)
    stage.after_optimiser_step()
    torch.testing.assert_close(averaged.classifier.weight, first + 0.5)
    light = folded(network.eval(), lambda one, images: one.segment(images))
    assert light.encoder.model.model.cls_token is network.encoder.model.model.cls_token  # type: ignore[union-attr]


def test_recomputed_blocks_give_the_same_gradients() -> None:
    torch.manual_seed(0)
    plain, recomputed = CRAANet(_small(), 3), CRAANet(_small(gradient_checkpointing=True), 3)
    recomputed.load_state_dict(plain.state_dict())
    images = torch.rand(2, 3, 32, 32)
    for network in (plain, recomputed):
        network(images).logits.square().sum().backward()
    for one, two in zip(plain.parameters(), recomputed.parameters(), strict=True):
        assert (one.grad is None) == (two.grad is None)
        if one.grad is not None:
            torch.testing.assert_close(one.grad, two.grad)
    with pytest.raises(ConfigError, match="gradient_checkpointing is for vision transformers"):
        CRAANet(EncoderConfig(name="resnet10t", gradient_checkpointing=True), 3)


def _without_peft(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "peft"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "peft", None)  # an import of it fails, as of one that is not there


def test_without_peft_the_error_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    _without_peft(monkeypatch)
    with pytest.raises(ConfigError, match=r"is not installed.*pip install 'patch2tissue\[lora\]'"):
        CRAANet(_small(train="lora"), 3)


def _config(folder: Path, data: Path, *overrides: str) -> RunConfig:
    return load_config(RECIPES / "bcss-wsss.yaml", [f"output={folder}", f"data.path={data}", *TINY, *VIT, *overrides])


def _trained_alike(one: RunFolder, two: RunFolder) -> None:
    for first, second in ((one.craanet, two.craanet), (one.pfscnet, two.pfscnet)):
        a, b = load_file(first / "weights.safetensors"), load_file(second / "weights.safetensors")
        assert a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)
    maps = [np.load(run.craanet / "attention_memory" / "maps.npy") for run in (one, two)]
    assert maps[0].any() and np.array_equal(maps[0], maps[1])


def _killed_and_resumed(
    folder: Path, data: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[RunFolder, RunFolder]:
    """A run left alone, and one that was killed in the second epoch of each stage."""
    whole = run_training(_config(folder / "whole", data, *overrides))
    broken = _config(folder / "broken", data, *overrides)
    killed_at(monkeypatch, craanet_training.CRAANetStage, 5, lambda: run_training(broken))
    _light(RunFolder(folder / "broken").craanet)
    killed_at(monkeypatch, pfscnet_training.PFSCNetStage, 5, lambda: run_training(broken))
    _light(RunFolder(folder / "broken").pfscnet)
    resumed = run_training(broken)
    _trained_alike(whole, resumed)
    return whole, resumed


def _light(stage: Path) -> None:
    """The checkpoint of a killed stage holds frozen weights once, apart from the state of the epoch."""
    (state,) = (stage / "checkpoint").glob("epoch-*/state.pt")
    frozen = load_file(stage / "checkpoint" / FROZEN_FILE)
    content = torch.load(state, map_location="cpu", weights_only=True)
    assert frozen and not frozen.keys() & content["network"].keys()
    average = content["stage"].get("average")
    assert average is None or not {f"module.{name}" for name in frozen} & average.keys()


@pytest.mark.slow
def test_a_frozen_transformer_is_trained_on_in_both_stages(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, run_command: Callable[..., int]
) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss")
    run, _ = _killed_and_resumed(tmp_path, data, monkeypatch, "craanet.encoder.train=frozen")
    one, two = load_craanet(run.craanet), load_pfscnet(run.pfscnet)
    assert all(torch.equal(a, b) for a, b in zip(one.encoder.parameters(), two.encoder.parameters(), strict=True))
    image = next((data / "test" / "img").glob("*.png"))
    assert run_command("predict", run.path, image, "--out", tmp_path / "maps") == 0
    assert list((tmp_path / "maps").glob("*_mask.png"))


def test_a_frozen_transformer_accumulates_attention(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    data = fabricate(tmp_path / "data", "bcss-wsss", train=8)
    fast = ["craanet.encoder.train=frozen", "craanet.epochs=2", "pfscnet.epochs=1"]
    run = run_training(_config(tmp_path / "run", data, *fast), progress=False)
    maps = np.load(run.craanet / "attention_memory" / "maps.npy")
    assert maps.shape == (8, 4, 2, 2) and maps.any()
    assert not (run.craanet / "checkpoint").exists()
    assert json.loads((run.pfscnet / "network.json").read_text())["encoder"]["train"] == "frozen"
    trunk = (
        load_file(run.craanet / "weights.safetensors").keys() & load_file(run.pfscnet / "weights.safetensors").keys()
    )
    assert "encoder.model.model.blocks.1.mlp.fc2.weight" in trunk, "each network's folder holds all it needs"


@pytest.mark.extras
def test_only_low_rank_changes_and_heads_learn_and_are_merged(tmp_path: Path) -> None:
    pytest.importorskip("peft")
    torch.manual_seed(0)
    network = CRAANet(_small(train="lora", lora={"rank": 4, "alpha": 8.0, "dropout": 0.1}), 3)
    trained = [name for name, parameter in network.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 2 + 1, "A and B of two layers in two blocks, and the head"
    assert all(".lora_" in name or name.startswith("heads.") for name in trained)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    optimiser = torch.optim.AdamW(parameter_groups(network, OptimiserConfig(learning_rate=0.01)))
    for _ in range(3):
        optimiser.zero_grad()
        network(torch.rand(2, 3, 32, 32)).logits.square().sum().backward()
        optimiser.step()
    changed = {name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])}
    assert changed == set(trained)
    save_craanet(network, tmp_path)
    merged = load_craanet(tmp_path)
    assert not adapted_layers(merged) and merged.state_dict().keys() == CRAANet(_small(), 3).state_dict().keys()
    images = torch.rand(2, 3, 48, 48)
    torch.testing.assert_close(merged(images).logits, network.eval()(images).logits, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(merged(images).logits, CRAANet(_small(), 3)(images).logits, atol=1e-2)
    again = CRAANet(_small(train="lora"), 3).eval()  # as stage 2 starts: changes of its own, of nothing yet
    again.encoder.load_plain(merged.encoder.state_dict())
    torch.testing.assert_close(again.encoder(images)[-1], merged.encoder(images)[-1])
    with pytest.raises(RuntimeError, match="missing"):
        load_plain_state(again, {})
    assert plain_state(nn.Linear(2, 2)).keys() == {"weight", "bias"}


@pytest.mark.extras
def test_a_transformer_adapted_in_both_stages_resumes_exactly_and_needs_no_peft_later(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, run_command: Callable[..., int]
) -> None:
    pytest.importorskip("peft")
    data = fabricate(tmp_path / "data", "bcss-wsss")
    changes = ["craanet.encoder.train=lora", "craanet.encoder.lora={rank: 2, dropout: 0.1}"]
    run, _ = _killed_and_resumed(tmp_path, data, monkeypatch, *changes)
    for folder in (run.craanet, run.pfscnet):
        assert not [name for name in load_file(folder / "weights.safetensors") if "lora" in name or "base" in name]
    one, two = load_craanet(run.craanet), load_pfscnet(run.pfscnet)
    attention = "encoder.model.model.blocks.0.attn.qkv.weight"
    assert not torch.equal(one.state_dict()[attention], two.state_dict()[attention]), "stage 2 went on adapting"
    _without_peft(monkeypatch)
    image = next((data / "test" / "img").glob("*.png"))
    assert run_command("predict", run.path, image, "--out", tmp_path / "maps") == 0


@pytest.mark.extras
def test_layers_that_are_not_there_are_named() -> None:
    pytest.importorskip("peft")
    with pytest.raises(ConfigError, match=r"attn\.proj, attn\.qkv, mlp\.fc1, mlp\.fc2"):
        CRAANet(_small(train="lora", lora={"targets": ["attention.query"]}), 3)


def test_trained_state_is_everything_where_nothing_is_frozen() -> None:
    network = CRAANet("resnet10t", 3)
    assert trained_state(network).keys() == network.state_dict().keys()


def test_a_full_disk_is_told_of_as_such(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise SafetensorError("Error while serializing: I/O error: No space left on device (os error 28)")

    monkeypatch.setattr(weights, "save_file", full)
    with pytest.raises(WriteError, match="Make room") as caught:
        weights.write_tensors({"a": torch.zeros(2)}, tmp_path / "a.safetensors")
    assert caught.value.full and not list(tmp_path.iterdir())
