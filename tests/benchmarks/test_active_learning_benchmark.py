"""The arithmetic of the active-learning benchmark, its labelling step, and what the documentation cites of it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks.active_learning import RESULTS, cell_name, config_of, figures, label_up_to, table
from tests.inference.tiny_run import real_run

from patch2tissue.data.layouts import load_split
from patch2tissue.labelling.store import DATABASE, LabelStore
from patch2tissue.tissues import load_tissue_set

ROOT = Path(__file__).resolve().parents[2]
TISSUES = load_tissue_set("bcss-wsss")


def test_gain_is_taken_seed_by_seed_and_only_where_both_orders_are_there() -> None:
    values = {(0, "random"): 0.5, (0, "model"): 0.54, (1, "random"): 0.6, (1, "model"): 0.62, (2, "random"): 0.1}
    found = figures({cell_name(seed, order, 80): {"miou": miou} for (seed, order), miou in values.items()})
    assert found["80"] == {
        "seeds": 2,
        "random": 55.0,
        "random_sd": 7.1,
        "model": 58.0,
        "model_sd": 5.7,
        "gain": 3.0,
        "gain_sd": 1.4,
    }
    assert table(found).splitlines()[-1] == "| 80 | 55.0 ± 7.1 | 58.0 ± 5.7 | +3.0 ± 1.4 |"


def test_budgets_are_filled_in_the_order_of_the_page(tmp_path: Path, fabricate: Callable[..., Path]) -> None:
    folder = fabricate(tmp_path / "data", "bcss-wsss", train=16, test=0)
    again = tmp_path / "again"
    shutil.copytree(folder, again)
    assert label_up_to(6, folder, TISSUES, 3, None) == 6
    label_up_to(6, again, TISSUES, 3, None)
    assert (folder / "labels.csv").read_bytes() == (again / "labels.csv").read_bytes()
    assert label_up_to(6, folder, TISSUES, 3, None) == 0  # gone on with, nothing is asked twice
    run = real_run(tmp_path / "run", "bcss-wsss")
    assert label_up_to(10, folder, TISSUES, 3, run) == 4
    assert len(load_split(folder, "train", TISSUES)) == 10
    with LabelStore(folder / DATABASE, TISSUES) as store:
        chosen = [answer.chosen for answer in store.answers()]
    assert chosen[:6] == ["order"] * 6 and set(chosen[6:]) <= {"model", "random"} and "model" in chosen[6:]


def test_every_budget_has_about_as_many_steps(tmp_path: Path) -> None:
    for budget in (40, 80, 160):
        config = config_of(tmp_path, tmp_path / "run", 0, budget)
        for stage in (config.craanet, config.pfscnet):
            assert stage.epochs * (budget // stage.batch_size) == pytest.approx(160, rel=0.05)
        assert not any(config.comparisons.model_dump().values())


def test_documentation_has_the_committed_table() -> None:
    plain = json.loads(RESULTS.read_text(encoding="utf-8"))
    assert plain["figures"] == figures(plain["cells"])
    assert table(plain["figures"]) in (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
