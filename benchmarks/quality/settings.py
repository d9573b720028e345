"""Which settings a result depends on, and whether those of an earlier result are the same.

Settings are flat mappings of dotted names to plain values. They hold what changes a result and nothing else: a loss
that is off has no other settings, the classifier of plain CAM knows nothing of attention. So a new weight of one loss
leaves the rows without that loss alone. A field that the program got later does not outdate older results as long as it
has its default, which by the house's convention behaves as before.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import lru_cache
from typing import Any

from benchmarks.quality.recipes import source_version
from benchmarks.quality.rows import Row
from patch2tissue.config import EncoderConfig, RunConfig

Settings = dict[str, Any]

VERSIONS: dict[str, int] = {"energy_of_mosaics": 2}
"""Raise the number of `craanet`, a name of `workshop.LABELS`, one of `workshop.TRAINERS` or `energy_of_mosaics` when
its code changes what it gives: what was made by older code, and all that depends on it, is then made again."""

_ELSEWHERE = {"output", "seed", "data", "craanet", "pseudo_labels", "pfscnet", "comparisons", "inference", "hardware"}
"""Top-level fields that are taken apart below, or that change no result."""

_BESIDE_TRAINING = ("path", "cache", "test_path", "um_per_pixel")
"""Fields of `data` that say where, not what; the pictures themselves are told by `source`."""

_PEERS = {"seam": "seam", "mlps": "mlps", "mlps_deep": "mlps"}
"""Labels that a peer's own classifier gives, and the peer's name in `VERSIONS`."""

_FROM_ATTENTION = ("grad_cam", "residual_attention", "accumulated_max", "accumulated_mean", "accumulated_ema")


def flat(plain: Any, prefix: str = "") -> Settings:
    """Nested mappings as dotted names; lists are values."""
    if isinstance(plain, dict) and plain:
        return {k: v for name, value in plain.items() for k, v in flat(value, f"{prefix}{name}.").items()}
    return {prefix.rstrip("."): _strict(plain)}


def _strict(value: Any) -> Any:
    """A value as strict JSON knows it, which has no infinity."""
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def digest(settings: Settings) -> str:
    """SHA-256 of settings, as hexadecimal digits."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def same_settings(old: Settings, new: Settings) -> bool:
    """Whether a result of `old` is one of `new`: equal, but for fields that came since and have their default."""
    if any(name not in new or new[name] != value for name, value in old.items()):
        return False
    return all(name in old or value == _default(name) for name, value in new.items())


def _default(name: str) -> Any:
    for prefix in ("labels.", "start."):
        name = name.removeprefix(prefix)
    return _defaults().get(name, _NO_DEFAULT)


_NO_DEFAULT = object()


@lru_cache(1)
def _defaults() -> Settings:
    plain = RunConfig.model_validate({"output": "-", "tissues": "glas", "data": {"path": "-"}}).model_dump(mode="json")
    plain["pfscnet"]["encoder"] = EncoderConfig().model_dump(mode="json")
    return flat(plain)


def _common(config: RunConfig, patches: int | None) -> Settings:
    """What every training sees: the seed, the pictures, the augmentation."""
    plain = config.model_dump(mode="json")
    data = {name: value for name, value in plain["data"].items() if name not in _BESIDE_TRAINING}
    if data["source"] is None:
        data["path"] = plain["data"]["path"]
    else:
        data["source"]["version"] = source_version(data["source"]["kind"])
    others = {name: value for name, value in plain.items() if name not in _ELSEWHERE}
    return flat({"seed": config.seed, "data": data, **others}) | ({} if patches is None else {"patches": patches})


def _version(name: str) -> Settings:
    return {f"version.{name}": VERSIONS[name]} if name in VERSIONS else {}


def stage1_settings(config: RunConfig, patches: int | None = None, *, plain_cam: bool = False) -> Settings:
    """What a trained classifier depends on.

    Args:
        config: the resolved recipe.
        patches: how many training patches are used, None for all.
        plain_cam: of the classifier of plain CAM, which has no attention and no memory.
    """
    return _classifier(config, patches, attention=not plain_cam) | _version("craanet")


def pretraining_settings(config: RunConfig, patches: int | None = None) -> Settings:
    """What a pre-trained encoder depends on: its section, and the encoder of stage 1 but for its output stride."""
    encoder = config.craanet.encoder.model_dump(mode="json", exclude={"output_stride"})
    return _common(config, patches) | flat({"craanet": {"encoder": encoder}}) | _version("pretraining")


def peer_stage1_settings(config: RunConfig, labels: str, patches: int | None = None) -> Settings:
    """What a peer's trained classifier depends on: it is that of plain CAM, trained otherwise.

    Args:
        config: the resolved recipe.
        labels: `seam`, `mlps` or `mlps_deep`, the labels that it gives.
        patches: how many training patches are used, None for all.
    """
    return _classifier(config, patches, attention=False) | _version(_PEERS[labels])


def _classifier(config: RunConfig, patches: int | None, *, attention: bool) -> Settings:
    craanet = config.craanet.model_dump(mode="json")
    if not attention:
        for name in ("accumulation", "heads", "temperatures", "residual_weight", "attention_stages"):
            craanet.pop(name)
    return _common(config, patches) | flat({"craanet": craanet})


def label_settings(config: RunConfig, labels: str, patches: int | None = None) -> Settings:
    """What labels depend on; `labels` is a name of `workshop.LABELS`."""
    if labels == "masks":
        return {"kind": "masks"}
    if labels == "cam":
        return {"kind": "cam"} | stage1_settings(config, patches, plain_cam=True) | _version("cam")
    if labels in _PEERS:
        views = config.pseudo_labels.model_dump(mode="json", include={"scales", "symmetries"})
        settings = {"kind": labels} | peer_stage1_settings(config, labels, patches)
        return settings | (flat({"pseudo_labels": views}) if labels == "seam" else {})
    settings = {"kind": labels} | stage1_settings(config, patches) | _version(labels)
    if labels not in _FROM_ATTENTION:
        settings |= flat({"pseudo_labels": config.model_dump(mode="json")["pseudo_labels"]})
    return settings


def network_settings(config: RunConfig, row: Row, patches: int | None = None) -> Settings:
    """What a trained segmentation network depends on: its own section, its labels, and the encoder it starts from."""
    pfscnet = config.model_dump(mode="json")["pfscnet"]
    pfscnet["encoder"] = config.stage2_encoder().model_dump(mode="json")
    contrast = pfscnet["contrast"]
    if contrast["weight"] == 0:
        # the embedding's layers are drawn all the same, and with them the rest of the network
        pfscnet["contrast"] = {"weight": 0.0, "dimensions": contrast["dimensions"]}
        pfscnet["correction"] = {"mode": "off"}
    for name, off in (("dense_energy", ("weight", 0)), ("consistency", ("weight", 0)), ("correction", ("mode", "off"))):
        section = pfscnet.get(name)
        if isinstance(section, dict) and section.get(off[0]) == off[1]:
            pfscnet[name] = {off[0]: off[1]}
    if pfscnet["mosaic"] == 0:
        del pfscnet["mosaic_of"]
    if row.labels in _PEERS:
        # nor do they have a confidence; older rows keep what they do not use, or their results would be outdated
        del pfscnet["confidence_weighting"]
        if not any(pfscnet[name]["weight"] for name in ("dense_energy", "contrast", "consistency")):
            del pfscnet["losses_start"]
    settings = {"trainer": row.trainer} | _common(config, patches) | flat({"pfscnet": pfscnet}) | _version(row.trainer)
    if pfscnet["mosaic"] and pfscnet["dense_energy"]["weight"]:
        settings |= _version("energy_of_mosaics")
    settings |= {f"labels.{name}": value for name, value in label_settings(config, row.labels, patches).items()}
    if row.labels == "masks" and config.pfscnet.init == "craanet":
        settings |= {f"start.{name}": value for name, value in stage1_settings(config, patches).items()}
    return settings


def cell_settings(config: RunConfig, row: Row, patches: int | None, images: int | None) -> Settings:
    """What the scores of a cell depend on.

    Args:
        config: the resolved recipe of the row.
        row: the row.
        patches: how many training patches are used, None for all.
        images: how many test images are scored, None for all.
    """
    if row.kind == "stage1":
        return label_settings(config, row.labels, patches)
    inference = config.inference.model_dump(mode="json", exclude={"batch_size"})
    settings = network_settings(config, row, patches) | flat({"inference": inference})
    return settings | ({} if images is None else {"images": images})
