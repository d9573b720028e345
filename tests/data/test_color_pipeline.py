"""Pipelines of other libraries as augmentation: colours only, drawn from (seed, epoch, index)."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torchvision.transforms import v2

from conftest import RECIPES, TINY
from killing import killed_at
from patch2tissue.config import DataConfig, RunConfig, load_config
from patch2tissue.config_sections import AugmentationConfig
from patch2tissue.craanet.training import CRAANetStage
from patch2tissue.data.color_pipeline import check_colors, color_options, color_pipeline, given_augmentation
from patch2tissue.data.datasets import TrainingPatches, read_ahead, training_loader
from patch2tissue.data.layouts import load_split
from patch2tissue.data.position_probe import texture
from patch2tissue.errors import ConfigError
from patch2tissue.pipeline import run_training
from patch2tissue.tissues import load_tissue_set

ALBUMENTATIONS = {
    "__version__": "2.0.8",
    "transform": {
        "__class_fullname__": "Compose",
        "p": 1.0,
        "transforms": [
            {"__class_fullname__": "HueSaturationValue", "p": 1.0},
            {
                "__class_fullname__": "OneOf",
                "p": 0.5,
                "transforms": [
                    {"__class_fullname__": "GaussNoise", "p": 1.0},
                    {"__class_fullname__": "GaussianBlur", "p": 1.0},
                ],
            },
        ],
    },
}
MONAI = {
    "_target_": "monai.transforms.Compose",
    "transforms": [
        {"_target_": "RandGaussianNoised", "keys": ["image"], "prob": 0.5, "std": 0.1},
        {"_target_": "monai.transforms.RandAdjustContrastd", "keys": "image", "prob": 0.5},
    ],
}


def darker(image: np.ndarray) -> np.ndarray:
    """Draws from all three global generators."""
    strength = 0.5 + 0.1 * random.random() + 0.2 * np.random.random() + 0.2 * float(torch.rand(()))
    return (image * strength).astype(np.uint8)


def flipped(image: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(image[:, ::-1])


GIVEN: dict[str, Callable[[], Any]] = {
    "function": lambda: darker,
    "torchvision": lambda: v2.Compose([v2.ColorJitter(0.2, 0.2, 0.2, 0.05), v2.RandomGrayscale(0.2)]),
}


def items(dataset: TrainingPatches, workers: int) -> dict[int, torch.Tensor]:
    loader = training_loader(dataset, 5, workers, pin_memory=False)
    loader.sampler.set_epoch(2)  # type: ignore[attr-defined]
    return {int(i): image for b in read_ahead(loader) for i, image in zip(b["index"], b["image"], strict=True)}


@pytest.mark.parametrize("name", GIVEN)
def test_draws_depend_on_seed_epoch_and_index_alone(name: str, tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    fabricate(tmp_path, "bcss-wsss", train=8, test=1)
    tissues = load_tissue_set("bcss-wsss")
    patches = load_split(tmp_path, "train", tissues, "bcss-wsss")
    colors = color_pipeline(given_augmentation(GIVEN[name]()))
    assert colors.draws_globally
    dataset = TrainingPatches(patches, tissues, 32, seed=3, colors=colors)
    states = random.getstate(), torch.get_rng_state()
    numpy_state = np.random.get_state()[1]
    here, again, elsewhere = items(dataset, 0), items(dataset, 0), items(dataset, 2)
    assert all(torch.equal(here[i], again[i]) and torch.equal(here[i], elsewhere[i]) for i in range(8))
    assert random.getstate() == states[0] and torch.equal(torch.get_rng_state(), states[1])
    assert np.array_equal(np.random.get_state()[1], numpy_state)  # type: ignore[arg-type]
    plain = items(TrainingPatches(patches, tissues, 32, seed=3), 0)
    assert not any(torch.equal(here[i], plain[i]) for i in range(8))
    assert not torch.equal(dataset[0, 0]["image"], dataset[1, 0]["image"])
    assert dataset[0, 0]["symmetry"] == TrainingPatches(patches, tissues, 32, seed=3)[0, 0]["symmetry"]


def test_padding_keeps_its_colour(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    fabricate(tmp_path, "bcss-wsss", train=2, test=1)
    tissues = load_tissue_set("bcss-wsss")
    patches = load_split(tmp_path, "train", tissues, "bcss-wsss")
    colors = color_pipeline(given_augmentation(darker))
    image = TrainingPatches(patches, tissues, 48, seed=0, colors=colors)._recolored(
        np.full((48, 48, 3), 255, np.uint8), 0, 0
    )
    assert (image[32:] == 255).all() and (image[:, 32:] == 255).all() and (image[:32, :32] < 255).all()


@pytest.mark.parametrize(
    ("pipeline", "said"),
    [
        (flipped, "flipped: moves pixels"),
        (v2.RandomHorizontalFlip(0.2), "torchvision: moves pixels"),
        (v2.RandomAffine(15), "torchvision: moves pixels"),
        (v2.Resize(64), "torchvision: gives uint8"),
        (lambda image: image[:50], "gives uint8"),
        (lambda image: image / 255.0, "gives float64"),
        (lambda image: 1 / 0, r"fails on a picture of 160 × 160 pixels \(ZeroDivisionError"),
        (3, "int cannot be called"),
    ],
)
def test_what_cannot_be_used_is_refused(pipeline: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        check_colors(given_augmentation(pipeline))


@pytest.mark.parametrize("name", GIVEN)
def test_what_was_given_is_described_alike_in_every_process(name: str) -> None:
    described = given_augmentation(GIVEN[name]()).python
    assert described is not None and " at 0x" not in described
    assert described == given_augmentation(GIVEN[name]()).python
    assert described != given_augmentation(v2.ColorJitter(0.3)).python


def test_stain_is_kept_if_asked_for() -> None:
    def options(**more: Any) -> dict[str, Any]:
        return color_options(DataConfig(path=Path("data"), stain_jitter=0.2, **more))

    assert options() == {"stain": 0.2, "brightness": 0.05}
    assert options(augmentation=given_augmentation(darker)).keys() == {"colors"}
    assert options(augmentation=given_augmentation(darker, stain=True)).items() >= {"stain": 0.2}.items()


@pytest.mark.parametrize(
    ("plain", "said"),
    [
        ({}, "give one pipeline"),
        ({"albumentations": ALBUMENTATIONS, "monai": MONAI}, "give one pipeline"),
        ({"albumentations": "nowhere.json"}, r"nowhere\.json: there is no such file"),
        ({"monai": "/dev/zero"}, "/dev/zero: there is no such file"),
    ],
)
def test_a_section_names_one_pipeline(plain: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        AugmentationConfig.model_validate(plain)


@pytest.mark.parametrize("name", ["colours.json", "colours.yaml"])
def test_a_configuration_keeps_what_the_file_holds(name: str, tmp_path: Path) -> None:
    text = json.dumps(MONAI) if name.endswith("json") else yaml.safe_dump(MONAI)
    (tmp_path / name).write_text(text, encoding="utf-8")
    config = AugmentationConfig.model_validate({"monai": str(tmp_path / name)})
    assert config.model_dump()["monai"] == MONAI
    (tmp_path / name).write_text("{", encoding="utf-8")
    with pytest.raises(ValueError, match=name):
        AugmentationConfig.model_validate({"monai": str(tmp_path / name)})


def configured(folder: Path, *settings: str) -> RunConfig:
    changes = [f"output={folder}", f"data.path={folder.parent / 'data'}", "data.layout=bcss-wsss", *TINY, *settings]
    return load_config(RECIPES / "bcss-wsss.yaml", changes)


def weights(run: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(run / "craanet" / "weights.safetensors")


@pytest.mark.slow
def test_a_run_that_is_killed_or_has_workers_ends_alike(
    tmp_path: Path, fabricate: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    fabricate(tmp_path / "data", "bcss-wsss")

    def train(name: str, augmentation: Any, *settings: str) -> Path:
        return run_training(
            configured(tmp_path / name, *settings), stages=["craanet"], progress=False, augmentation=augmentation
        ).path

    whole = train("whole", darker)
    killed_at(monkeypatch, CRAANetStage, 5, lambda: train("broken", darker))
    for wrong in (None, v2.ColorJitter(0.2)):  # not with other colours, nor without those that Python was given
        with pytest.raises(ConfigError, match=r"data\.augmentation"):
            train("broken", wrong)
    broken, worked = train("broken", darker), train("worked", darker, "hardware.workers=1")
    for other in (broken, worked):
        assert all(torch.equal(tensor, weights(other)[name]) for name, tensor in weights(whole).items())
    assert "darker" in (broken / "config.yaml").read_text(encoding="utf-8")
    with pytest.raises(ConfigError, match="given in Python"):
        run_training(load_config(broken / "config.yaml"), progress=False)


@pytest.fixture
def albumentations(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setenv("NO_ALBUMENTATIONS_UPDATE", "1")
    return pytest.importorskip("albumentations")


@pytest.mark.extras
def test_albumentations_from_a_file_and_from_python_are_the_same(albumentations: Any, tmp_path: Path) -> None:
    pipeline = albumentations.from_dict(ALBUMENTATIONS)
    albumentations.save(pipeline, tmp_path / "colours.json")
    one = AugmentationConfig.model_validate({"albumentations": str(tmp_path / "colours.json")})
    other = given_augmentation(pipeline)
    assert one == other and AugmentationConfig.model_validate(one.model_dump()) == one
    check_colors(one)
    first, second, picture = color_pipeline(one), color_pipeline(other), texture(0)
    assert all(np.array_equal(first(picture, seed), second(picture, seed)) for seed in (0, 1, 2, 1, 0))
    assert not np.array_equal(first(picture, 0), first(picture, 1))
    assert not first.draws_globally


@pytest.mark.extras
@pytest.mark.parametrize(
    "name", ["HorizontalFlip", "Affine", "CoarseDropout", "Lambda", "HistogramMatching", "os.system"]
)
def test_other_transforms_of_albumentations_are_refused(name: str, albumentations: Any) -> None:
    plain = {"transform": {"__class_fullname__": "OneOf", "transforms": [{"__class_fullname__": name, "p": 0.001}]}}
    with pytest.raises(ConfigError, match=rf"{name.rpartition('.')[2]}"):
        check_colors(AugmentationConfig(albumentations=plain))
    if name in ("HorizontalFlip", "Affine"):
        with pytest.raises(ConfigError, match="moves or removes pixels"):
            given_augmentation(albumentations.Compose([getattr(albumentations, name)(p=0.001)]))


@pytest.mark.extras
def test_functions_inside_albumentations_are_taken_from_python(albumentations: Any) -> None:
    class Inverted(albumentations.ImageOnlyTransform):  # type: ignore[misc]
        def apply(self, img: np.ndarray, **more: Any) -> np.ndarray:
            return 255 - img

    check_colors(given_augmentation(albumentations.Compose([Inverted(p=1)])))


@pytest.mark.extras
@pytest.mark.parametrize("keys", [True, False])
def test_monai_as_arrays_and_dictionaries(keys: bool) -> None:
    monai = pytest.importorskip("monai.transforms")
    array = {"_target_": "OneOf", "transforms": [{"_target_": "RandGaussianNoise", "prob": 1.0, "std": 0.1}]}
    plain = MONAI if keys else array
    config = AugmentationConfig(monai={"transform": plain} if keys else {"transform": [plain]})
    check_colors(config)
    pipeline, picture = color_pipeline(config), texture(0)
    found = {seed: pipeline(picture, seed) for seed in range(4)}
    assert all(np.array_equal(pipeline(picture, seed), found[seed]) for seed in (3, 1, 0, 2))
    assert not np.array_equal(found[0], found[1])
    built = monai.Compose([monai.RandGaussianNoise(prob=1.0, std=0.1)])
    given = given_augmentation(built)
    check_colors(given)
    assert given.python is not None and "'std': 0.1" in given.python and " at 0x" not in given.python
    with pytest.raises(ConfigError, match="RandFlip moves or removes pixels"):
        given_augmentation(monai.Compose([monai.RandFlip(prob=0.001)]))


@pytest.mark.extras
@pytest.mark.parametrize(
    ("part", "said"),
    [
        ({"_target_": "RandFlip", "prob": 0.001}, "RandFlip moves"),
        ({"_target_": "RandCoarseShuffle", "holes": 1, "spatial_size": 8}, "RandCoarseShuffle moves"),
        ({"_target_": "os.system", "command": "true"}, r"'os\.system' is no transform"),
        ({"_target_": "monai.transforms.LoadImage"}, "is no transform that a configuration may name"),
        ({"_target_": "monai.bundle.ConfigParser"}, "is no transform that a configuration may name"),
        ({"_target_": "Lambda", "func": "$print"}, "is no transform that a configuration may name"),
        ({"_target_": "RandGaussianNoise", "prob": "$__import__('os').getpid()"}, "is an expression"),
        ({"_target_": "RandGaussianNoise", "prob": "@train#prob"}, "or a reference"),
        ({"_target_": "RandGaussianNoise", "_mode_": "debug"}, "_mode_"),
        ({"_target_": "RandGaussianNoise", "probability": 1}, "RandGaussianNoise: cannot be built"),
        ("RandGaussianNoise", "expected a transform with the key _target_"),
    ],
)
def test_other_contents_of_monai_are_refused(part: Any, said: str) -> None:
    pytest.importorskip("monai")
    with pytest.raises(ConfigError, match=said):
        check_colors(AugmentationConfig(monai={"_target_": "Compose", "transforms": [part]}))


@pytest.mark.extras
def test_a_run_keeps_the_pipeline_of_its_file(
    albumentations: Any, tmp_path: Path, fabricate: Callable[..., Path]
) -> None:
    fabricate(tmp_path / "data", "bcss-wsss")
    file = tmp_path / "colours.json"
    file.write_text(json.dumps(ALBUMENTATIONS), encoding="utf-8")
    setting = f"data.augmentation.albumentations={file}"
    run = run_training(configured(tmp_path / "run", setting), stages=["craanet"], progress=False)
    kept = run.config().data.augmentation
    assert kept is not None and kept.albumentations == ALBUMENTATIONS
    run_training(configured(tmp_path / "run", setting), stages=["craanet"], progress=False)
    file.write_text(json.dumps(ALBUMENTATIONS).replace('"p": 0.5', '"p": 0.6'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"other settings \(data\.augmentation\.albumentations"):
        run_training(configured(tmp_path / "run", setting), stages=["craanet"], progress=False)
