"""Peers in the quality benchmark: what their cells depend on, that they resume, and where they count."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from benchmarks.quality import peers, runner, tables, workshop
from benchmarks.quality.cells import Cell, Places
from benchmarks.quality.figures import METRICS, rank, table
from benchmarks.quality.recipes import load_recipe, merged
from benchmarks.quality.rows import BY_NAME, ROWS
from benchmarks.quality.settings import VERSIONS, cell_settings
from tiny_quality import tiny_places, write_recipe

from patch2tissue import training
from patch2tissue.craanet.network import load_craanet
from patch2tissue.data.images import read_image, read_mask
from patch2tissue.inference.predictor import Predictor
from patch2tissue.peers.mlps import GATE
from patch2tissue.pseudo_labels.background import white_pixels
from patch2tissue.tissues import load_tissue_set

PEERS = ["seam", "mlps_labels", "seam_pipeline", "mlps"]

TWO_EPOCHS: dict[str, Any] = {"pfscnet": {"epochs": 2}}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A benchmark of one tiny set, in a folder of its own."""
    return tiny_places(tmp_path, monkeypatch, TWO_EPOCHS)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Places, dict[str, dict[str, Any]]]:
    """The benchmark of `tiny` with all peers made in one go, and the results by row."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        places = tiny_places(tmp_path_factory.mktemp("finished"), monkeypatch, TWO_EPOCHS)
        return places, run(PEERS, places)


def plan(rows: list[str]) -> list[Cell]:
    return runner.planned_cells(["synthetic_hard"], ["random"], [BY_NAME[name] for name in rows], [0])


def run(rows: list[str], places: Places) -> dict[str, dict[str, Any]]:
    """Results by row."""
    assert runner.run_cells(plan(rows), places, threads=1, say=lambda _: None) == []
    return {cell.row.name: json.loads(cell.file(places).read_text(encoding="utf-8")) for cell in plan(rows)}


def settings_of(row: str, **changes: Any) -> dict[str, Any]:
    recipe = load_recipe("luad", "pretrained")
    changed = replace(recipe, plain=merged(recipe.plain, changes))
    return cell_settings(changed.config(BY_NAME[row], 0, Path("work")), BY_NAME[row], None, None)


@pytest.mark.parametrize("row", PEERS)
def test_cells_depend_on_what_they_use_and_on_nothing_else(row: str, monkeypatch: pytest.MonkeyPatch) -> None:
    now = settings_of(row)
    stage2 = BY_NAME[row].weak
    for name, changes in {
        "craanet": {"heads": 4, "residual_weight": 0.9, "accumulation": {"mode": "max", "start": 0.9}},
        "pseudo_labels": {"memory_weight": 1.0, "reliable_share": 0.9, "refinement": {"iterations": 5}},
        "pfscnet": {
            "dense_energy": {"weight": 9.0, "grid": 12},
            "contrast": {"weight": 9.0, "anchors": 7},
            "correction": {"mode": "relabel", "margin": 0.7},
            "mosaic": 0.1,
            "consistency": {"weight": 2.0},
            "losses_start": 0.7,
            "confidence_weighting": True,
        },
        "hardware": {"threads": 2},
    }.items():
        assert settings_of(row, **{name: changes}) == now, name
    views = {"pseudo_labels": {"scales": [1.0, 2.0]}}
    assert (settings_of(row, **views) == now) == row.startswith("mlps"), "SEAM averages over views, MLPS does not"
    assert (settings_of(row, inference={"symmetries": True}) == now) == (not stage2)
    assert (settings_of(row, pfscnet={"epochs": 1}) == now) == (not stage2)
    for changes in ({"craanet": {"epochs": 1}}, {"craanet": {"weight_decay": 0.5}}, {"data": {"stain_jitter": 0.2}}):
        assert settings_of(row, **changes) != now
    # code that is raised is that of the peer itself
    peer = "seam" if row.startswith("seam") else "mlps"
    monkeypatch.setitem(VERSIONS, "craanet", 2)
    assert settings_of(row) == now
    monkeypatch.setitem(VERSIONS, peer, 2)
    assert settings_of(row) != now


def test_peers_change_nothing_of_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [row.name for row in ROWS if row.name not in PEERS and row.encoders is None]
    before = {name: settings_of(name) for name in names}
    for peer in ("seam", "mlps"):
        monkeypatch.setitem(VERSIONS, peer, 2)
    assert {name: settings_of(name) for name in names} == before
    assert settings_of("cross_entropy", pfscnet={"losses_start": 0.7}) != before["cross_entropy"], "as it always was"
    assert settings_of("mlps")["inference.gate"] == GATE != before["oeem"]["inference.gate"]


def test_made_once_and_a_killed_cell_goes_on_and_ends_the_same(
    tiny: Places, finished: tuple[Places, dict[str, dict[str, Any]]], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = finished[1]
    saved: list[str] = []
    original, seam_labels, mlps_labels = (
        training.save_checkpoint,
        peers.generate_seam_labels,
        peers.generate_mlps_labels,
    )
    labels: Counter[str] = Counter()

    def killed(*arguments: Any) -> None:
        original(*arguments)
        saved.append(arguments[0].title)
        if len(saved) % 2:
            raise KeyboardInterrupt

    def killed_labels(name: str, generate: Any) -> Any:
        def generated(*arguments: Any, **named: Any) -> None:
            generate(*arguments, **named)
            labels[name] += 1
            if labels[name] == 1:
                max(Path(arguments[3]).rglob("*.png")).unlink()  # that which is written last
                raise KeyboardInterrupt

        return generated

    monkeypatch.setattr(training, "save_checkpoint", killed)
    monkeypatch.setattr(peers, "generate_seam_labels", killed_labels("seam", seam_labels))
    monkeypatch.setattr(peers, "generate_mlps_labels", killed_labels("mlps", mlps_labels))
    for _ in range(6):
        with pytest.raises(KeyboardInterrupt):
            run(PEERS, tiny)
    found = run(PEERS, tiny)
    titles = ["SEAM", "MLPS classifier", "cross-entropy on SEAM labels", "MLPS"]
    assert saved == [title for title in titles for _ in range(2)], "two epochs of each, none of them twice"
    assert labels == {"seam": 2, "mlps": 2}
    for row in PEERS:
        assert found[row]["scores"] == expected[row]["scores"] and found[row]["settings"] == expected[row]["settings"]
        assert 0 <= found[row]["scores"]["miou"] <= 1

    run(PEERS, tiny)
    # a setting of the method that no peer uses, and back from one that they do use
    write_recipe(
        merged(TWO_EPOCHS, {"craanet": {"residual_weight": 0.1}, "pfscnet": {"dense_energy": {"weight": 5.0}}})
    )
    assert {cell.state(tiny) for cell in plan(PEERS)} == {"done"}
    write_recipe(merged(TWO_EPOCHS, {"craanet": {"weight_decay": 0.3}}))
    assert {cell.state(tiny) for cell in plan(PEERS)} == {"outdated"}
    assert len(saved) == 8


def test_networks_start_from_their_own_classifier(
    tiny: Places, finished: tuple[Places, dict[str, dict[str, Any]]]
) -> None:
    places = finished[0]
    home = next(places.work.glob("artefacts/*/*/s0"))
    assert not list(home.glob("craanet-*")) and not list(home.glob("cam_classifier-*")), "they need no other"
    shops = {
        row: workshop.Workshop(plan([row])[0].recipe.config(BY_NAME[row], 0, places.work, 1), 8, 2) for row in PEERS
    }
    runs = {row: shops[row].network(BY_NAME[row]) for row in ("seam_pipeline", "mlps")}
    assert runs["seam_pipeline"].craanet.resolve().parent == next(home.glob("seam-*")).resolve()
    assert runs["mlps"].craanet.resolve() == next(home.glob("mlps_classifier-*")).resolve()
    for each in runs.values():
        assert load_craanet(each.craanet).settings["residual_weight"] == 0.0
    predictors = {row: Predictor.from_run(each, network=workshop.NETWORK) for row, each in runs.items()}
    assert predictors["seam_pipeline"].classifier is None and predictors["seam_pipeline"].settings.gate is None
    assert predictors["mlps"].classifier is not None and predictors["mlps"].settings.gate == 0.1
    masks = shops["mlps"].labels("mlps")
    assert masks.learned == masks.scored and masks.learned[0].parent.name == "deep"
    assert shops["mlps"].labels("mlps_deep") == masks, "no rule for white background: one set of masks serves both"


def test_white_background_is_scored_though_mlps_does_not_learn_it(tiny: Places) -> None:
    tissues = load_tissue_set("bcss-wsss").to_dict()
    tissues["background"]["white_above"] = 150
    write_recipe(merged(TWO_EPOCHS, {"tissues": tissues}))
    result = run(["mlps_labels"], tiny)["mlps_labels"]
    config = plan(["mlps_labels"])[0].recipe.config(BY_NAME["mlps_labels"], 0, tiny.work, 1)
    shop = workshop.Workshop(config, 8, 2)
    labels = shop.labels("mlps_deep")
    ignored = 0
    for patch, scored, learned in zip(shop.patches, labels.scored, labels.learned, strict=True):
        whole, kept = (read_mask(file, shop.tissues) for file in (scored, learned))
        white = white_pixels(read_image(patch.path), 150)
        assert (whole != 255).all() and np.array_equal(kept == 255, white)
        assert np.array_equal(whole[~white], kept[~white])
        ignored += int(white.sum())
    assert ignored > 0 and result["scores"]["acc"] > 0
    assert shop.labels("mlps").learned == labels.learned


def test_peers_are_ranked_and_shown() -> None:
    order = [row.name for row in ROWS]
    assert order[order.index("pseudo_labels") + 1 :][:2] == ["seam", "mlps_labels"]
    assert order[order.index("oeem") + 1 :][:2] == ["seam_pipeline", "mlps"]
    values = {"pseudo_labels": 0.6, "seam": 0.9, "mlps_labels": 0.9, "full_method": 0.7, "mlps": 0.8}
    values |= {"seam_pipeline": 0.75, "oeem": 0.5, "full_supervision": 0.95}
    results = {
        row: {0: {"scores": dict.fromkeys(METRICS, value), "label_noise": {"wrong_share": 0.1}, "seconds": 60.0}}
        for row, value in values.items()
    }
    # ahead of the method are two networks; pseudo labels and the ceiling do not count
    assert rank(results) == {"rank": 3, "of": 4}
    lines = tables._tables(table(results)).splitlines()
    heads = [number for number, line in enumerate(lines) if "seeds |" in line]
    shown = {row: [n for n, line in enumerate(lines) if line.startswith(f"| {BY_NAME[row].title} |")] for row in PEERS}
    assert all(len(found) == 1 for found in shown.values())
    assert heads[0] < shown["seam"][0] < shown["mlps_labels"][0] < heads[1] < shown["seam_pipeline"][0]
    assert shown["seam_pipeline"][0] < shown["mlps"][0]
