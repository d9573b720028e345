"""Weights of encoders: local files under their real names, conversion, and downloads that fail or are made up."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import timm
import timm.models._hub
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from conftest import RECIPES
from patch2tissue.config import EncoderConfig
from patch2tissue.craanet.network import CRAANet, load_craanet, save_craanet
from patch2tissue.encoder_weights import timm_names
from patch2tissue.encoders import Encoder
from patch2tissue.errors import ConfigError, DataError

SHORT = {"depth": 2, "out_indices": [0, 1]}
"""Options of a model with two of its blocks."""

SMALL = {**SHORT, "embed_dim": 48, "num_heads": 3}
"""With tokens of a few channels, too; names of tensors are the same."""


def _weights(architecture: str = "vit_base_patch16_224", **options: Any) -> dict[str, Tensor]:
    """A model's state dict at random weights, under timm's names."""
    torch.manual_seed(0)
    small = {key: SMALL[key] for key in ("depth", "embed_dim", "num_heads")}
    state: dict[str, Tensor] = timm.create_model(architecture, **small, **options).state_dict()
    return state


def _features(encoder: Encoder, images: Tensor) -> Tensor:
    return encoder.eval()(images)[-1]


def test_a_local_file_gives_the_models_own_normalised_tokens(tmp_path: Path) -> None:
    torch.manual_seed(0)
    original = timm.create_model("vit_base_patch16_224", depth=2, num_classes=0).eval()
    save_file(original.state_dict(), tmp_path / "phikon.safetensors")
    config = EncoderConfig(name="phikon", options=SHORT, weights=tmp_path / "phikon.safetensors", train="frozen")
    encoder = Encoder(config)
    images = torch.rand(1, 3, 224, 224)
    tokens = original.forward_features(encoder.normalised(images))[:, 1:]
    torch.testing.assert_close(_features(encoder, images), tokens.mT.reshape(1, 768, 14, 14))
    network = CRAANet(config, 3)
    save_craanet(network, tmp_path / "network")
    settings = json.loads((tmp_path / "network" / "network.json").read_text())
    assert settings["encoder"]["name"] == "vit_base_patch16_224"
    assert settings["encoder_origin"] == {"repository": "owkin/phikon", "licence": "Owkin non-commercial"}
    loaded = load_craanet(tmp_path / "network")  # no short name, no Hub
    assert torch.equal(loaded(images).logits, network.eval()(images).logits)


def _of_transformers(state: dict[str, Tensor], *, dinov2: bool) -> dict[str, Tensor]:
    """The same weights under the names that transformers' models have."""
    outside = {
        "cls_token": "embeddings.cls_token",
        "pos_embed": "embeddings.position_embeddings",
        "patch_embed.proj": "embeddings.patch_embeddings.projection",
        "norm": "layernorm",
    }
    inside = {
        "norm1": "norm1" if dinov2 else "layernorm_before",
        "norm2": "norm2" if dinov2 else "layernorm_after",
        "attn.proj": "attention.output.dense",
        "mlp.fc1": "mlp.fc1" if dinov2 else "intermediate.dense",
        "mlp.fc2": "mlp.fc2" if dinov2 else "output.dense",
        "ls1": "layer_scale1",
        "ls2": "layer_scale2",
    }
    found = {}
    for name, tensor in state.items():
        layer, _, kind = name.rpartition(".")
        if name in outside:
            found[outside[name]] = tensor
        elif layer in outside:
            found[f"{outside[layer]}.{kind}"] = tensor
        elif name.startswith("blocks."):
            _, number, inner = layer.split(".", 2)
            prefix = f"encoder.layer.{number}."
            if inner == "attn.qkv":
                for part, piece in zip(("query", "key", "value"), tensor.chunk(3), strict=True):
                    found[f"{prefix}attention.attention.{part}.{kind}"] = piece.clone()
            else:
                found[f"{prefix}{inside[inner]}.{kind.replace('gamma', 'lambda1')}"] = tensor
    return found | {"pooler.dense.weight": torch.zeros(2, 2), "embeddings.mask_token": torch.zeros(1, 1, 2)}


@pytest.mark.parametrize(("name", "dinov2"), [("phikon", False), ("phikon-v2", True)])
def test_names_of_transformers_become_timms(name: str, dinov2: bool, tmp_path: Path) -> None:
    options = {"init_values": 1e-5} if dinov2 else {}
    state = _weights("vit_large_patch16_224" if dinov2 else "vit_base_patch16_224", num_classes=0, **options)
    renamed = _of_transformers(state, dinov2=dinov2)
    back = timm_names({f"vit.{key}" if not dinov2 else key: tensor for key, tensor in renamed.items()})
    assert back.keys() == state.keys() and all(torch.equal(back[key], state[key]) for key in state)
    assert timm_names(state) == state
    save_file(renamed, tmp_path / "model.safetensors")
    encoder = Encoder(EncoderConfig(name=name, options=SMALL, weights=tmp_path / "model.safetensors"))
    loaded = {key.removeprefix("model."): tensor for key, tensor in encoder.model.state_dict().items()}
    assert all(torch.equal(tensor, state[key]) for key, tensor in loaded.items())


@pytest.mark.extras
@pytest.mark.parametrize("name", ["phikon", "phikon-v2"])
def test_features_are_those_of_transformers(name: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    common = {"num_hidden_layers": 2, "image_size": 224, "patch_size": 16, "layer_norm_eps": 1e-6}
    torch.manual_seed(0)
    if name == "phikon":
        model = transformers.ViTModel(transformers.ViTConfig(**common), add_pooling_layer=False)
    else:
        large = {"hidden_size": 1024, "num_attention_heads": 16, "mlp_ratio": 4, "layerscale_value": 0.3}
        model = transformers.Dinov2Model(transformers.Dinov2Config(**common, **large))
    with torch.no_grad():  # biases and norms are trivial at the start
        for parameter in model.parameters():
            parameter.add_(0.02 * torch.randn_like(parameter))
    model.eval().save_pretrained(tmp_path)
    encoder = Encoder(EncoderConfig(name=name, options=SHORT, weights=tmp_path / "model.safetensors"))
    images = torch.rand(1, 3, 224, 224)
    with torch.no_grad():
        tokens = model(encoder.normalised(images)).last_hidden_state[:, 1:]
        found = _features(encoder, images)
    torch.testing.assert_close(found, tokens.mT.reshape(1, -1, 14, 14), atol=1e-3, rtol=1e-3)


@pytest.mark.parametrize("form", ["plain", "wrapped"])
def test_a_bin_file_is_converted(form: str, tmp_path: Path, run_command: Callable[..., int]) -> None:
    state = _weights(num_classes=0)
    torch.save(state if form == "plain" else {"model": state}, tmp_path / "pytorch_model.bin")
    target = tmp_path / "phikon.safetensors"
    assert run_command("encoders", "convert", tmp_path / "pytorch_model.bin", target) == 0
    written = load_file(target)
    assert all(torch.equal(written[key], tensor) for key, tensor in state.items())
    Encoder(EncoderConfig(name="phikon", options=SMALL, weights=target))
    with pytest.raises(DataError, match="`patch2tissue encoders convert`"):
        Encoder(EncoderConfig(name="phikon", options=SMALL, weights=tmp_path / "pytorch_model.bin"))


class _Trap:
    def __reduce__(self) -> tuple[Any, ...]:
        return (Path.touch, (Path("sprung"),))


def test_what_is_no_weights_is_not_converted(
    tmp_path: Path, run_command: Callable[..., int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    source, target = tmp_path / "pytorch_model.bin", tmp_path / "out.safetensors"

    def refused(*arguments: str) -> str:
        assert run_command("encoders", "convert", source, target, *arguments) == 2
        assert not target.exists()
        return " ".join(capsys.readouterr().err.split())

    torch.save({"weight": torch.zeros(2), "trap": _Trap()}, source)
    assert "never loaded" in refused() and not (tmp_path / "sprung").exists()
    source.write_bytes(b"half a file")
    assert "cannot be read as plain tensors" in refused()
    torch.save({"epoch": 3, "weight": torch.zeros(2)}, source)
    assert "'epoch' is no tensor" in refused()
    torch.save({}, source)
    assert "holds no state dict" in refused()
    torch.save({"weight": torch.zeros(2)}, source)
    assert "not in the file" in refused("--encoder", "phikon")
    torch.save(_weights("vit_large_patch16_224", num_classes=0, init_values=1e-5), source)
    assert "another shape" in refused("--encoder", "gigapath")


def _hub_gives(monkeypatch: pytest.MonkeyPatch, answer: Callable[[str, str], Path]) -> None:
    """Let timm's downloads be answered by a function of repository and file name."""

    def download(repo_id: str, filename: str, **_: object) -> str:
        return str(answer(repo_id, filename))

    monkeypatch.setattr(timm.models._hub, "hf_hub_download", download)


def _http_error(kind: str) -> Exception:
    from unittest.mock import MagicMock

    import huggingface_hub.errors

    return getattr(huggingface_hub.errors, kind)("401 Client Error", response=MagicMock(status_code=401, headers={}))


@pytest.mark.parametrize("suffix", ["safetensors", "bin"])
def test_pretrained_takes_the_file_that_the_repository_has(
    suffix: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    state = _weights(num_classes=0)
    save_file(state, tmp_path / "model.safetensors")
    torch.save(state, tmp_path / "pytorch_model.bin")
    asked = []

    def answer(repository: str, name: str) -> Path:
        asked.append((repository, name))
        if not name.endswith(suffix):
            raise _http_error("RemoteEntryNotFoundError")
        return tmp_path / name

    _hub_gives(monkeypatch, answer)
    encoder = Encoder(EncoderConfig(name="hf-hub:owkin/phikon", options=SMALL, pretrained=True))
    assert torch.equal(encoder.state_dict()["model.model.cls_token"], state["cls_token"])
    assert {repository for repository, _ in asked} == {"owkin/phikon"}
    assert "non-commercial use" in caplog.text


@pytest.mark.parametrize("name", ["uni", "hf-hub:somebody/private"])
def test_a_refused_download_says_what_to_do(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(repository: str, file: str) -> Path:
        raise _http_error("GatedRepoError")

    _hub_gives(monkeypatch, refuse)
    with pytest.raises(ConfigError) as caught:
        Encoder(EncoderConfig(name=name, options=SMALL, pretrained=True))
    page = "huggingface.co/MahmoodLab/UNI" if name == "uni" else "huggingface.co/somebody/private"
    for part in (page, "accept the terms", "`hf auth login`", "HF_TOKEN", "encoder.weights"):
        assert part in str(caught.value)


def test_train_ends_with_that_message_and_no_traceback(
    tmp_path: Path,
    fabricate: Callable[..., Path],
    run_command: Callable[..., int],
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def refuse(repository: str, file: str) -> Path:
        raise _http_error("GatedRepoError")

    _hub_gives(monkeypatch, refuse)
    data = fabricate(tmp_path / "data", "bcss-wsss")
    settings = (f"output={tmp_path / 'run'}", f"data.path={data}", "hardware.workers=0", "hardware.threads=1")
    small = f"craanet.encoder.options={json.dumps(SMALL)}"
    overrides = [part for setting in (*settings, small) for part in ("--set", setting)]
    assert run_command("train", RECIPES / "foundation-uni.yaml", *overrides) == 2
    told = " ".join(capsys.readouterr().err.split())
    assert "https://huggingface.co/MahmoodLab/UNI and accept the terms" in told and "Traceback" not in told


@pytest.mark.parametrize(
    ("kind", "told"),
    [
        ("RepositoryNotFoundError", "has no such weights"),
        ("LocalEntryNotFoundError", "cannot be reached"),
        ("OfflineModeIsEnabled", "HF_HUB_OFFLINE"),
    ],
)
def test_other_failures_of_the_hub_are_explained(kind: str, told: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import huggingface_hub.errors

    def fail(repository: str, file: str) -> Path:
        if kind == "RepositoryNotFoundError":
            raise _http_error(kind)
        raise getattr(huggingface_hub.errors, kind)("there is no way out")

    _hub_gives(monkeypatch, fail)
    with pytest.raises(ConfigError, match=told):
        Encoder(EncoderConfig(name="phikon", options=SMALL, pretrained=True))


def test_a_model_of_the_hub_is_kept_by_its_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a repository that is no foundation model of ours timm reads config.json; a saved network needs neither."""
    known = {"architecture": "vit_tiny_patch16_224", "model_args": {"depth": 2}, "num_classes": 0}
    cfg = {"input_size": [3, 224, 224], "mean": [0.1, 0.2, 0.3], "std": [1.0, 1.0, 1.0], "num_classes": 0}
    (tmp_path / "config.json").write_text(json.dumps({**known, "pretrained_cfg": cfg}))
    _hub_gives(monkeypatch, lambda repository, name: tmp_path / name)
    network = CRAANet(EncoderConfig(name="hf-hub:somebody/model", options={"out_indices": [0, 1]}), 3)
    assert network.encoder.config.name == "vit_tiny_patch16_224" and network.encoder.config.options["depth"] == 2
    save_craanet(network, tmp_path / "network")

    def nobody(repository: str, name: str) -> Path:
        raise AssertionError("nobody is asked")

    _hub_gives(monkeypatch, nobody)
    images = torch.rand(1, 3, 32, 32)
    assert torch.equal(load_craanet(tmp_path / "network")(images).logits, network.eval()(images).logits)


def test_the_list_as_json(run_command: Callable[..., int], capsys: pytest.CaptureFixture[str]) -> None:
    assert run_command("encoders", "list", "--json") == 0
    models = {model["name"]: model for model in json.loads(capsys.readouterr().out)}
    assert models["uni"]["licence"] == "CC-BY-NC-ND-4.0" and models["uni"]["gated"] and not models["uni"]["commercial"]
    assert models["virchow2"]["um_per_pixel"] == [0.25, 0.5, 1.0, 2.0]
    assert run_command("encoders", "list") == 0
    assert "h-optimus-0" in capsys.readouterr().out


def test_a_saved_network_that_names_the_hub_is_refused(tmp_path: Path) -> None:
    save_craanet(CRAANet("resnet10t", 3), tmp_path)
    settings = json.loads((tmp_path / "network.json").read_text())
    settings["encoder"]["name"] = "hf-hub:somebody/model"
    (tmp_path / "network.json").write_text(json.dumps(settings))
    with pytest.raises(DataError, match="nobody is asked"):
        load_craanet(tmp_path)
