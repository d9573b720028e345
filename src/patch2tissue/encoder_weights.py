"""Weights of encoders: from a local file or the Hugging Face Hub, under timm's names or those of transformers."""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from timm.models import load_state_dict_from_hf
from torch import Tensor, nn

from patch2tissue.errors import ConfigError, DataError
from patch2tissue.foundation_models import FoundationModel, foundation_model, hub_repository
from patch2tissue.plain_files import reason
from patch2tissue.weights import write_tensors

log = logging.getLogger(__name__)

_BLOCK = re.compile(r"^(?:vit\.|dinov2\.)?(?:encoder\.)?layers?\.(\d+)\.(.+)$")
_OUTSIDE = {
    "embeddings.cls_token": "cls_token",
    "embeddings.position_embeddings": "pos_embed",
    "embeddings.patch_embeddings.projection.weight": "patch_embed.proj.weight",
    "embeddings.patch_embeddings.projection.bias": "patch_embed.proj.bias",
    "layernorm.weight": "norm.weight",
    "layernorm.bias": "norm.bias",
}
_INSIDE = {
    "layernorm_before": "norm1",
    "layernorm_after": "norm2",
    "norm1": "norm1",
    "norm2": "norm2",
    "attention.output.dense": "attn.proj",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
    "mlp.fc1": "mlp.fc1",
    "mlp.fc2": "mlp.fc2",
}
_PARTS = ("query", "key", "value")


def load_encoder_weights(model: nn.Module, path: Path, *, allow_missing: bool = False) -> list[str]:
    """Load a safetensors file with timm's names, or those of transformers' ViT and DINOv2, into a feature model.

    Tensors the feature model does not use (a classifier) are passed over.

    Returns:
        Names of encoder tensors that the file lacks (empty unless `allow_missing`).

    Raises:
        DataError: if the file is missing, not safetensors, of other shapes, or incomplete.
    """
    if path.suffix != ".safetensors":
        raise DataError(
            f"{path}: encoder weights must be a .safetensors file (other formats can run code when loaded). "
            "`patch2tissue encoders convert` makes one of a pytorch_model.bin."
        )
    try:
        given = load_file(path)
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path}: cannot read the encoder's weights: {error}.") from None
    return take_weights(model, given, str(path), allow_missing=allow_missing)


def take_weights(
    model: nn.Module, given: Mapping[str, Tensor], source: str, *, allow_missing: bool = False
) -> list[str]:
    """Put tensors into a feature model; see `load_encoder_weights`.

    Args:
        model: the feature model, whose own names may begin with `model.`.
        given: tensors under timm's names or those of transformers.
        source: where they come from, for messages.
        allow_missing: accept that some are missing.
    """
    fitting, missing = fitting_weights(model, given, source, allow_missing=allow_missing)
    if missing:
        log.warning(
            "%s lacks %d of the encoder's tensors; they start at random: %s …", source, len(missing), missing[0]
        )
    model.load_state_dict(fitting, strict=False)
    return missing


def fitting_weights(
    model: nn.Module, given: Mapping[str, Tensor], source: str, *, allow_missing: bool = False
) -> tuple[dict[str, Tensor], list[str]]:
    """What of some tensors a feature model takes, under its own names, and what it lacks; see `take_weights`."""
    own = model.state_dict()
    given = {name if name in own else f"model.{name}": tensor for name, tensor in timm_names(given).items()}
    wrong = [n for n, t in given.items() if n in own and own[n].shape != t.shape]
    if wrong:
        raise DataError(
            f"{source}: {len(wrong)} tensors have another shape than the encoder's, first {wrong[0]} "
            f"{tuple(given[wrong[0]].shape)} instead of {tuple(own[wrong[0]].shape)}. Is it another model?"
        )
    fitting = {name: tensor for name, tensor in given.items() if name in own}
    missing = [n for n in own if n not in fitting and not n.endswith("num_batches_tracked")]
    if not fitting or (missing and not allow_missing):
        raise DataError(
            f"{source}: {len(missing)} of the encoder's {len(own)} tensors are not in the file, first {missing[0]}. "
            "Check encoder.name and encoder.options, or set encoder.allow_missing to start these at random."
        )
    return fitting, missing


def timm_names(given: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A state dict under timm's names; one of transformers' `ViTModel` or `Dinov2Model` is renamed, others stay.

    Query, key and value, three matrices there, are one in timm, in this order. Pooler and mask token are left out.
    """
    plain = {name.removeprefix("vit.").removeprefix("dinov2."): tensor for name, tensor in given.items()}
    if "embeddings.cls_token" not in plain:
        return dict(given)
    found: dict[str, Tensor] = {}
    apart: dict[str, dict[str, Tensor]] = {}
    for name, tensor in plain.items():
        block = _BLOCK.match(name)
        if name in _OUTSIDE:
            found[_OUTSIDE[name]] = tensor
        elif block is not None:
            prefix, (inner, _, kind) = f"blocks.{block[1]}.", block[2].rpartition(".")
            part = inner.rpartition(".")[2]
            if part in _PARTS:
                apart.setdefault(f"{prefix}attn.qkv.{kind}", {})[part] = tensor
            elif inner in _INSIDE:
                found[f"{prefix}{_INSIDE[inner]}.{kind}"] = tensor
            elif inner in ("layer_scale1", "layer_scale2"):
                found[f"{prefix}ls{inner[-1]}.gamma"] = tensor
    for name, parts in apart.items():
        if len(parts) == len(_PARTS):
            found[name] = torch.cat([parts[part] for part in _PARTS])
    return found


def download_weights(model: FoundationModel) -> dict[str, Tensor]:
    """The weights of a foundation model from the Hugging Face Hub, or from its cache on this machine.

    timm takes the safetensors file where the repository has one, else the `.bin` file, without unpickling objects.

    Raises:
        ConfigError: if they cannot be downloaded, with what to do.
    """
    with explained(model.name):
        found: dict[str, Tensor] = load_state_dict_from_hf(model.repository, weights_only=True)
        return found


@contextmanager
def explained(name: str) -> Iterator[None]:
    """Turn what goes wrong with a download from the Hub into an error that says what to do.

    Args:
        name: as `encoder.name`.

    Raises:
        ConfigError: instead of the library's errors.
    """
    try:
        yield
    except (ConfigError, DataError):
        raise
    except Exception as error:  # the Hub's errors are known by name: what they derive from differs between versions
        kinds = {kind.__name__ for kind in type(error).__mro__}
        if not kinds & {"OSError", "HfHubHTTPError", "EntryNotFoundError", "HTTPError", "TransportError"}:
            raise
        raise ConfigError(_what_to_do(name, kinds, error)) from None


def _what_to_do(name: str, kinds: set[str], error: Exception) -> str:
    model = foundation_model(name)
    repository = model.repository if model is not None else hub_repository(name) or name
    page = f"https://huggingface.co/{repository}"
    local = (
        "Or download the file in the browser and name it in encoder.weights; `patch2tissue encoders convert` makes "
        "safetensors of a .bin file."
    )
    if "GatedRepoError" in kinds or ("RepositoryNotFoundError" in kinds and model is not None and model.gated):
        return (
            f"encoder.name is '{name}', whose weights are gated: the Hugging Face Hub refused the download. Log in at "
            f"{page} and accept the terms there; wait until access is granted, which may be done by hand. Then run "
            f"`hf auth login` here, or set HF_TOKEN to a token with read access, and give the command again. {local}"
        )
    absent = {"RepositoryNotFoundError", "EntryNotFoundError", "RevisionNotFoundError"}
    if kinds & absent and "LocalEntryNotFoundError" not in kinds:
        return (
            f"encoder.name is '{name}', but the Hugging Face Hub has no such weights ({reason(error)}). Check the name "
            f"at {page}; of a private repository, run `hf auth login` first."
        )
    return (
        f"encoder.name is '{name}', and encoder.pretrained asks for a download from the Hugging Face Hub, which cannot "
        f"be reached ({reason(error)}). Connect this machine, unset HF_HUB_OFFLINE, or copy the Hub's cache folder "
        f"from another machine (HF_HOME names it). {local}"
    )


def read_weights(source: Path) -> dict[str, Tensor]:
    """The weights in a file of torch or safetensors, under timm's names.

    Only tensors are read from it, and no code in it is run.

    Args:
        source: a `.bin`, `.pt` or `.pth` file with a state dict, or `.safetensors`.

    Raises:
        DataError: if it cannot be read, or holds something else than tensors by name.
    """
    try:
        if source.suffix == ".safetensors":
            content: object = load_file(source)
        else:
            content = torch.load(source, map_location="cpu", weights_only=True)
    except Exception as error:  # damaged and forbidden contents raise every kind
        raise DataError(
            f"{source}: cannot be read as plain tensors ({reason(error)[:200]}). It may be damaged, or hold objects "
            "that could run code, which are never loaded."
        ) from None
    for key in ("state_dict", "model"):  # as training programs wrap it
        if isinstance(content, Mapping) and isinstance(content.get(key), Mapping):
            content = content[key]
    if not isinstance(content, Mapping) or not content:
        raise DataError(f"{source}: holds no state dict. Give the file with the model's weights.")
    tensors = {str(name): value for name, value in content.items() if isinstance(value, Tensor)}
    if len(tensors) < len(content):
        odd = next(str(name) for name, value in content.items() if not isinstance(value, Tensor))
        raise DataError(f"{source}: '{odd}' is no tensor. Give the file with the model's weights alone.")
    return timm_names(tensors)


def write_weights(tensors: Mapping[str, Tensor], target: Path) -> None:
    """Write tensors as safetensors, for `encoder.weights`."""
    # a copy each: safetensors refuses tensors that share memory
    write_tensors({name: tensor.clone() for name, tensor in tensors.items()}, target)
