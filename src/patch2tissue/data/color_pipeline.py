"""Pipelines of albumentations, MONAI or torchvision, or functions, that change the colours of training patches.

What moves pixels is refused, since attention is accumulated, and pseudo labels lie, in the patch's own frame;
symmetries come from `data.augment`, which undoes them exactly. Randomness is drawn from (seed, epoch, index), whatever
the number of worker processes and wherever a training resumes.
"""

from __future__ import annotations

import hashlib
import inspect
import io
import json
import random
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from patch2tissue.config import DataConfig
from patch2tissue.config_sections import AugmentationConfig
from patch2tissue.data.pipeline_contents import (
    albumentations_module,
    albumentations_pipeline,
    monai_pipeline,
    parts,
    refuse_moving_albumentations,
    refuse_moving_monai,
)
from patch2tissue.data.position_probe import moving_seed
from patch2tissue.errors import ConfigError

TRIES = 48
"""Seeds with which a pipeline is tried on a made picture before a training."""


class ColorPipeline:
    """A pipeline as training calls it.

    Args:
        call: the pipeline with seeding and conversions: uint8 RGB [H, W, 3] and a seed to what ought to be the same.
        name: for messages.
        draws_globally: it draws from the generators that belong to the whole process, so that it must not run in a
            thread beside the training.
    """

    def __init__(self, call: Callable[[np.ndarray, int], Any], name: str, *, draws_globally: bool) -> None:
        self._call, self.name, self.draws_globally = call, name, draws_globally

    def __call__(self, image: np.ndarray, seed: int) -> np.ndarray:
        """Change a picture's colours.

        Args:
            image: uint8 RGB [H, W, 3]; not changed.
            seed: of everything random, 0 to 2³² - 1.

        Returns:
            uint8 RGB [H, W, 3].

        Raises:
            ConfigError: if the pipeline fails, or gives something else.
        """
        try:
            found = self._call(image.copy(), seed)
        except Exception as error:  # anyone's code
            told = (str(error).strip().splitlines() or [""])[0]
            raise ConfigError(
                f"{self.name}: fails on a picture of {image.shape[1]} × {image.shape[0]} pixels "
                f"({type(error).__name__}: {told})."
            ) from error
        if not isinstance(found, np.ndarray) or found.shape != image.shape or found.dtype != np.uint8:
            what = f"{found.dtype} {found.shape}" if isinstance(found, np.ndarray) else type(found).__name__
            raise ConfigError(
                f"{self.name}: gives {what} for a picture of uint8 {image.shape}. Training wants the same size and "
                "type back: leave out what crops, resizes, normalises or converts."
            )
        return found


def color_pipeline(config: AugmentationConfig) -> ColorPipeline:
    """The pipeline that a configuration describes, or that was given in Python.

    Raises:
        ConfigError: if a package is missing, or it is not one that may be used; see `check_colors`, too.
    """
    if config.albumentations is not None:
        return as_color_pipeline(albumentations_pipeline(config.albumentations))
    if config.monai is not None:
        return as_color_pipeline(monai_pipeline(config.monai))
    if config.given is None:
        raise ConfigError(
            f"data.augmentation: the run is trained with what was given in Python ({config.python}), which a "
            "configuration cannot hold. Go on with `patch2tissue.train(config, augmentation=...)`."
        )
    return as_color_pipeline(config.given)


def color_options(config: DataConfig) -> dict[str, Any]:
    """What `TrainingPatches` is to do with colours: its arguments `stain`, `brightness` and `colors`."""
    augmentation = config.augmentation
    if augmentation is None:
        return {"stain": config.stain_jitter, "brightness": config.brightness_jitter}
    shift = {"stain": config.stain_jitter, "brightness": config.brightness_jitter} if augmentation.stain else {}
    return {**shift, "colors": color_pipeline(augmentation)}


def check_colors(config: AugmentationConfig) -> None:
    """Try a pipeline on a made picture, before hours are spent on it.

    Raises:
        ConfigError: if it moves pixels, or see `ColorPipeline`.
    """
    pipeline = color_pipeline(config)
    seed = moving_seed(pipeline, TRIES)
    if seed is not None:
        raise ConfigError(
            f"{pipeline.name}: moves pixels, or leaves nothing to be recognised (tried on a made picture, seed "
            f"{seed}). Only colours may change here: attention is put together in the patch's own frame. Turns and "
            "flips are made in any case."
        )


def given_augmentation(pipeline: object, *, stain: bool = False) -> AugmentationConfig:
    """The configuration of a pipeline that was given in Python.

    Args:
        pipeline: of albumentations, MONAI (array or dictionary transforms) or torchvision, or any function of a uint8
            RGB array [H, W, 3] that gives the same.
        stain: also change stain and brightness, after it.

    Raises:
        ConfigError: if it cannot be called, or moves pixels by what it is.
    """
    library = _library(pipeline)
    if library == "albumentations":
        refuse_moving_albumentations(pipeline)
        try:
            text = io.StringIO()
            albumentations_module().save(pipeline, text, data_format="json")
            plain = json.loads(text.getvalue())
            albumentations_pipeline(plain)
            return AugmentationConfig(albumentations=plain, stain=stain)
        except (NotImplementedError, TypeError, ConfigError):
            pass  # it holds functions or classes of one's own, which a configuration cannot name
    as_color_pipeline(pipeline)
    config = AugmentationConfig(python=_described(pipeline), stain=stain)
    config.give(pipeline)
    return config


def as_color_pipeline(pipeline: Any) -> ColorPipeline:
    """Wrap a pipeline by the library that it is of; see `given_augmentation`."""
    library = _library(pipeline)
    if library == "albumentations":
        refuse_moving_albumentations(pipeline)
        return ColorPipeline(_Albumentations(pipeline), "albumentations", draws_globally=False)
    if library == "monai":
        keys = refuse_moving_monai(pipeline)
        return ColorPipeline(_Monai(pipeline, keys), "monai", draws_globally=False)
    if library == "torchvision":
        return ColorPipeline(_Torchvision(pipeline), "torchvision", draws_globally=True)
    if not callable(pipeline):
        raise ConfigError(
            f"augmentation: {type(pipeline).__name__} cannot be called. Give a pipeline of albumentations, MONAI or "
            "torchvision, or a function of a uint8 RGB array [H, W, 3]."
        )
    name = getattr(pipeline, "__qualname__", None) or type(pipeline).__name__
    return ColorPipeline(_Function(pipeline), f"augmentation {name}", draws_globally=True)


def _described(pipeline: object) -> str:
    """A pipeline in words that are the same in every process, for the run folder."""
    if inspect.isfunction(pipeline):
        try:
            code = inspect.getsource(pipeline)
        except (OSError, TypeError):
            code = repr(pipeline.__code__.co_code)
        return f"{pipeline.__module__}.{pipeline.__qualname__} {hashlib.sha256(code.encode()).hexdigest()[:12]}"
    if _library(pipeline) != "monai":
        return re.sub(r" at 0x[0-9a-fA-F]+", "", repr(pipeline))
    plain = (bool, int, float, str, tuple, list)
    return "; ".join(
        f"{type(part).__name__} { ({name: v for name, v in sorted(vars(part).items()) if isinstance(v, plain)}) }"
        for part in parts(pipeline)
    )


def _library(pipeline: object) -> str:
    return type(pipeline).__module__.partition(".")[0]


class _Albumentations:
    """Albumentations has generators of its own."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __call__(self, image: np.ndarray, seed: int) -> Any:
        # one generator for all transforms: `set_random_seed` would let each draw the same numbers
        self.pipeline.set_random_state(np.random.default_rng(seed), random.Random(seed))
        return self.pipeline(image=image)["image"]


class _Monai:
    """MONAI has generators of its own; its intensities are float32 in 0..1 here, channels first, as it wants them."""

    def __init__(self, pipeline: Any, keys: frozenset[str]) -> None:
        self.pipeline, self.keys = pipeline, keys

    def __call__(self, image: np.ndarray, seed: int) -> Any:
        if hasattr(self.pipeline, "set_random_state"):
            self.pipeline.set_random_state(seed=seed)
        plain = torch.from_numpy(image).permute(2, 0, 1).float().div_(255.0)
        found = self.pipeline(dict.fromkeys(self.keys, plain) if self.keys else plain)
        return _bytes(found[min(self.keys)] if self.keys else found)


class _Torchvision:
    """Torchvision draws from torch's global generator; it gets and gives uint8 [3, H, W]."""

    def __init__(self, pipeline: Any) -> None:
        self.pipeline = pipeline

    def __call__(self, image: np.ndarray, seed: int) -> Any:
        with _seeded(seed):
            return _bytes(self.pipeline(torch.from_numpy(image).permute(2, 0, 1).contiguous()))


class _Function:
    """A function may draw from any of the global generators."""

    def __init__(self, function: Callable[[np.ndarray], Any]) -> None:
        self.function = function

    def __call__(self, image: np.ndarray, seed: int) -> Any:
        with _seeded(seed):
            return self.function(image)


@contextmanager
def _seeded(seed: int) -> Iterator[None]:
    """Seed the global generators of Python, numpy and torch in a block, and put them back as they were."""
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    random.seed(seed)
    np.random.seed(seed)
    torch.set_rng_state(torch.Generator().manual_seed(seed).get_state())
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def _bytes(found: Any) -> np.ndarray:
    """uint8 RGB [H, W, 3] of what a pipeline of channels-first pictures gave: uint8, or float in 0..1."""
    tensor = torch.as_tensor(found).as_subclass(torch.Tensor).detach().cpu()  # MONAI's own kind is slow
    if tensor.is_floating_point():
        tensor = tensor.mul(255.0).round().clamp(0.0, 255.0).to(torch.uint8)
    return np.ascontiguousarray(tensor.movedim(0, -1).numpy())
