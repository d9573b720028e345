"""Scores of every recipe, in a small form, are those of then; what must not happen to them is seen."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from golden import GOLDEN, RECIPES, VARIATIONS, differences, scores_of, tolerance

from patch2tissue import training_data
from patch2tissue.config import RunConfig
from patch2tissue.data.patches import Patch


def _golden(recipe: str) -> dict[str, Any]:
    return dict(json.loads(GOLDEN.read_text(encoding="utf-8"))[recipe])


@pytest.fixture
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def _outside(recipe: str, found: dict[str, float], times: float = 1.0) -> list[str]:
    """Scores that are further from those of then than their tolerance allows."""
    golden = _golden(recipe)
    return [
        name for name, far in differences(golden["scores"], found).items() if far > times * golden["tolerances"][name]
    ]


def test_every_recipe_has_scores_and_tolerances_that_were_measured() -> None:
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert sorted(golden) == RECIPES
    for found in golden.values():
        assert found["differences"].keys() == VARIATIONS.keys()
        for name, score in found["scores"].items():
            assert found["tolerances"][name] == tolerance(made[name] for made in found["differences"].values())
            assert score > 0.3


@pytest.mark.slow
@pytest.mark.parametrize("recipe", RECIPES)
@pytest.mark.usefixtures("one_thread")
def test_scores_are_those_of_then(recipe: str, tmp_path: Path) -> None:
    found = scores_of(recipe, tmp_path)
    assert _outside(recipe, found) == [], f"{found}; if that is meant: golden.py --update-golden"


def _shuffled_labels(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each patch has the label of another one."""
    original = training_data.load_split

    def shuffled(*arguments: Any) -> list[Patch]:
        patches = original(*arguments)
        order = np.random.default_rng(0).permutation(len(patches))
        return [
            Patch(patch.path, patch.name, patches[i].labels, patch.mask, patch.patient, patch.slide)
            for patch, i in zip(patches, order, strict=True)
        ]

    monkeypatch.setattr(training_data, "load_split", shuffled)


def _without_accumulation(config: RunConfig) -> None:
    """Pseudo labels come from the maps of the last epoch alone."""
    config.pseudo_labels.memory_weight = 0.0
    config.craanet.accumulation.start = 0.99


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_shuffled_labels_fall_out_of_the_tolerance(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _shuffled_labels(monkeypatch)
    assert "pseudo_labels.refined" in _outside("demo", scores_of("demo", tmp_path), times=3.0)


@pytest.mark.slow
@pytest.mark.usefixtures("one_thread")
def test_labels_without_accumulation_fall_out_of_the_tolerance(tmp_path: Path) -> None:
    assert "pseudo_labels.accumulated" in _outside("demo", scores_of("demo", tmp_path, _without_accumulation))
