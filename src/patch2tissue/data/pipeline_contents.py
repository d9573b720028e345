"""What pipelines of albumentations and MONAI are made of: told from their classes, and built from plain values.

A configuration may come from anyone, so that what it names is looked up among the colour transforms of the two
libraries and nowhere else: no other class, no function, no expression, no file.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

from patch2tissue.errors import ConfigError
from patch2tissue.optional import optional_import

_NAMES_FILES = frozenset({"FDA", "HistogramMatching", "PixelDistributionAdaptation", "TextImage"})
"""Pixel transforms of albumentations that read further files."""

_MONAI_COLORS = ("monai.transforms.intensity.", "monai.transforms.compose")
_MONAI_MOVES = ("monai.transforms.spatial.", "monai.transforms.croppad.")
_MONAI_KEYS = frozenset({"_target_", "transforms", "keys"})
_DEEPEST = 16


def albumentations_module() -> ModuleType:
    """Albumentations, which shall not ask a server whether there is a newer version."""
    os.environ.setdefault("NO_ALBUMENTATIONS_UPDATE", "1")
    return optional_import("albumentations", "A pipeline of albumentations")


def refuse_moving_albumentations(pipeline: Any) -> None:
    """ConfigError if a part of the pipeline is none that changes colours alone."""
    module = albumentations_module()
    for part in parts(pipeline):
        if not isinstance(part, module.ImageOnlyTransform) and type(part) is not module.NoOp:
            raise _moving("albumentations", type(part).__name__, "pixel-level transforms (ImageOnlyTransform)")


def albumentations_pipeline(plain: Mapping[str, Any]) -> Any:
    """Build a pipeline that `albumentations.to_dict` wrote.

    Raises:
        ConfigError: if the package is missing, or it is no such thing, or holds what is not a transform of colours.
    """
    module = albumentations_module()
    top = plain.get("transform")
    for name in _named(top, "__class_fullname__"):
        found = getattr(module, name, None)
        if not isinstance(found, type) or name in _NAMES_FILES:
            raise ConfigError(
                f"data.augmentation.albumentations: '{name}' is no transform of albumentations {module.__version__} "
                "that a configuration may name."
            )
        if not issubclass(found, module.ImageOnlyTransform | module.BaseCompose) and found is not module.NoOp:
            raise _moving("data.augmentation.albumentations", name, "pixel-level transforms (ImageOnlyTransform)")
    try:
        return module.from_dict(plain)
    except Exception as error:  # its checks raise every kind
        raise _unusable("data.augmentation.albumentations", error) from None


def refuse_moving_monai(pipeline: Any) -> frozenset[str]:
    """ConfigError if a part of the pipeline moves pixels; returns the keys of dictionary transforms, empty without."""
    keys = set()
    for part in parts(pipeline):
        kind = type(part)
        if kind.__module__.startswith(_MONAI_MOVES) or "CoarseShuffle" in kind.__name__:
            raise _moving("monai", kind.__name__, "transforms of intensity")
        keys |= {str(key) for key in getattr(part, "keys", ())}
    return frozenset(keys)


def monai_pipeline(plain: Mapping[str, Any]) -> Any:
    """Build a pipeline in the form of MONAI's bundles: `_target_` names a class, all else are its arguments.

    Of that form, only plain values are taken: no references (`@`, `%`) and no expressions (`$`), which are code.

    Raises:
        ConfigError: if the package is missing, or it is no such thing, or holds what is not a transform of colours.
    """
    top: Any = plain
    if "_target_" not in plain and len(plain) == 1:
        (top,) = plain.values()
    if isinstance(top, list):
        top = {"_target_": "Compose", "transforms": top}
    return _monai_part(optional_import("monai.transforms", "A pipeline of MONAI"), top, 0)


def _monai_part(module: ModuleType, plain: Any, depth: int) -> Any:
    field = "data.augmentation.monai"
    if not isinstance(plain, Mapping) or not isinstance(plain.get("_target_"), str) or depth > _DEEPEST:
        raise ConfigError(f"{field}: expected a transform with the key _target_, not {str(plain)[:60]!r}.")
    target = plain["_target_"]
    package, _, name = target.rpartition(".")
    found = getattr(module, name, None) if package.split(".")[:2] in ([""], ["monai", "transforms"]) else None
    if not isinstance(found, type) or not found.__module__.startswith((*_MONAI_COLORS, *_MONAI_MOVES)):
        raise ConfigError(
            f"{field}: '{target}' is no transform that a configuration may name. It may name Compose, OneOf, SomeOf, "
            "RandomOrder and the intensity transforms of monai.transforms."
        )
    if found.__module__.startswith(_MONAI_MOVES) or "CoarseShuffle" in name:
        raise _moving(field, name, "transforms of intensity")
    arguments = {}
    for key, value in plain.items():
        if str(key).startswith("_") and key not in _MONAI_KEYS:
            raise ConfigError(f"{field}: {name} has the key {key}, which is not taken here.")
        if key == "transforms" and isinstance(value, list):
            value = [_monai_part(module, part, depth + 1) for part in value]
        elif any(text.startswith(("$", "@", "%")) for text in _texts(value)):
            raise ConfigError(f"{field}: {name}.{key} is an expression or a reference; only plain values are taken.")
        if key != "_target_":
            arguments[key] = value
    try:
        return found(**arguments)
    except Exception as error:  # its checks raise every kind
        raise _unusable(f"{field}: {name}", error) from None


def parts(pipeline: Any) -> Iterator[Any]:
    """Transforms of a pipeline, looking into those that hold others."""
    inner = getattr(pipeline, "transforms", None)
    if isinstance(inner, list | tuple):
        for part in inner:
            yield from parts(part)
    else:
        yield pipeline


def _named(plain: Any, key: str, depth: int = 0) -> Iterator[str]:
    """Names of classes in a pipeline of plain values."""
    if not isinstance(plain, Mapping) or not isinstance(plain.get(key), str) or depth > _DEEPEST:
        raise ConfigError(
            "data.augmentation.albumentations: is not what albumentations.save writes. Save the pipeline with "
            "`albumentations.save(pipeline, 'colours.json')` and name that file."
        )
    yield str(plain[key]).rpartition(".")[2]
    for part in plain.get("transforms") or ():
        yield from _named(part, key, depth + 1)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _texts(key)
            yield from _texts(inner)
    elif isinstance(value, list | tuple):
        for inner in value:
            yield from _texts(inner)


def _moving(where: str, name: str, allowed: str) -> ConfigError:
    return ConfigError(
        f"{where}: {name} moves or removes pixels. Only {allowed} can be used: attention is put together in the "
        "patch's own frame. Turns and flips are made in any case."
    )


def _unusable(where: str, error: Exception) -> ConfigError:
    told = " ".join(str(error).split())
    return ConfigError(f"{where}: cannot be built ({type(error).__name__}: {told[:200]}).")
