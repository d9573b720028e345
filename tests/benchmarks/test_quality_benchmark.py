"""The quality benchmark: caching of cells, settings, order of work, arithmetic of its tables."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmarks.quality import cells, recipes, runner, tables, workshop
from benchmarks.quality.cells import Cell, Places, apart
from benchmarks.quality.figures import difference, gain_intervals, rank, set_figures, share, table
from benchmarks.quality.recipes import ENCODERS, SETS, load_recipe, merged
from benchmarks.quality.rows import BY_NAME, ROWS
from benchmarks.quality.settings import VERSIONS, cell_settings, flat, label_settings, network_settings, same_settings

from patch2tissue.evaluation.boundaries import BoundaryCounts
from patch2tissue.evaluation.scores import ConfusionMatrix

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "title": "tiny",
    "headline": "random",
    "tissues": "bcss-wsss",
    "train_patches": 8,
    "test_images": 3,
    "data": {"source": {"kind": "synthetic", "train": 12, "val": 0, "test": 4, "size": 32, "seed": 3}},
    "craanet": {"epochs": 2, "batch_size": 4, "temperatures": [float("inf")], "accumulation": {"start": 0.0}},
    "pseudo_labels": {"scales": [1.0], "symmetries": False},
    "pfscnet": {
        "epochs": 2,
        "batch_size": 4,
        "decoder_channels": 8,
        "atrous_rates": [1, 2, 3],
        "losses_start": 0.0,
        "dense_energy": {"grid": 8},
        "contrast": {"dimensions": 4, "anchors": 16, "bank": 8, "confidence": 0.0},
    },
    "hardware": {"threads": 1},
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A benchmark of one tiny set, in a folder of its own."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "synthetic_hard.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    encoder = yaml.safe_load((recipes.FOLDER / "encoder-random.yaml").read_text(encoding="utf-8"))
    shutil.copy(recipes.FOLDER / "rows.yaml", folder)
    for name in ENCODERS:
        (folder / f"encoder-{name}.yaml").write_text(yaml.safe_dump(encoder), encoding="utf-8")
    monkeypatch.setattr(recipes, "FOLDER", folder)
    monkeypatch.chdir(tmp_path)
    return apart(tmp_path / "work")


def plan(rows: list[str], seeds: list[int] | None = None) -> list[Cell]:
    return runner.planned_cells(["synthetic_hard"], ["random"], [BY_NAME[name] for name in rows], seeds or [0])


def count_trainings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    made: list[str] = []
    for name in ("train_craanet", "train_pfscnet"):
        original = getattr(workshop, name)

        def wrapped(*args: Any, _name: str = name, _original: Any = original, **kwargs: Any) -> None:
            made.append(_name)
            _original(*args, **kwargs)

        monkeypatch.setattr(workshop, name, wrapped)
    return made


def change_recipe(changes: dict[str, Any]) -> None:
    path = recipes.FOLDER / "synthetic_hard.yaml"
    path.write_text(yaml.safe_dump(merged(TINY, changes)), encoding="utf-8")
    recipes._text.cache_clear()


def test_cells_are_made_once_and_again_only_where_settings_changed(
    tiny: Places, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = count_trainings(monkeypatch)
    names = ["cam", "accumulated_max", "pseudo_labels", "cross_entropy", "dense_energy"]
    lines: list[str] = []
    assert runner.run_cells(plan(names), tiny, threads=1, say=lines.append) == []
    assert sorted(made) == ["train_craanet"] * 2 + ["train_pfscnet"] * 2, "one CAM, one CRAANet for all its rows"
    assert any(line.startswith("cell 1 of 5, ") for line in lines)
    result = cells.read_cell(plan(["cross_entropy"])[0].file(tiny))
    assert result is not None and result["images"] == 3 and 0 <= result["scores"]["miou"] <= 1
    assert result["settings"]["labels.craanet.temperatures"] == ["inf"], "strict JSON"
    assert result["threads"] == 1 and len(result["settings_digest"]) == 64

    before = {path: path.read_bytes() for path in tiny.results.rglob("*.json")}
    assert runner.run_cells(plan(names), tiny, threads=1, say=lines.append) == []
    assert len(made) == 4 and lines[-1] == "5 cells, 5 of them there already"
    assert {path: path.read_bytes() for path in tiny.results.rglob("*.json")} == before

    # the weight of one loss is nothing to the row without it
    change_recipe({"pfscnet": {"dense_energy": {"weight": 5.0}}})
    runner.run_cells(plan(names), tiny, threads=1, say=lines.append)
    assert made[4:] == ["train_pfscnet"]
    changed = {path for path in before if path.read_bytes() != before[path]}
    assert [path.name for path in changed] == ["dense_energy-s0.json"]

    # settings that were tried before are found again without training
    change_recipe({})
    runner.run_cells(plan(names), tiny, threads=1, say=lines.append)
    assert len(made) == 5
    restored = plan(["dense_energy"])[0].file(tiny)
    assert json.loads(restored.read_text())["scores"] == json.loads(before[restored])["scores"]

    figures = json.loads(tiny.figures.read_text(encoding="utf-8"))["figures"]
    assert [entry["row"] for entry in figures["synthetic_hard.table"]] == names
    assert "synthetic_hard.accumulation_gain_points" in figures
    assert tables.markdown(figures) in tiny.page.read_text(encoding="utf-8")


def test_a_killed_cell_goes_on_and_ends_the_same(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from patch2tissue import training

    alone = apart(tiny.work.parent / "alone")
    runner.run_cells(plan(["cross_entropy"]), alone, threads=1, say=lambda _: None)
    original, saved = training.save_checkpoint, []

    def killed(*arguments: Any) -> None:
        original(*arguments)
        saved.append(arguments[0].title)
        if len(saved) in (1, 4):
            raise KeyboardInterrupt

    monkeypatch.setattr(training, "save_checkpoint", killed)
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            runner.run_cells(plan(["cross_entropy"]), tiny, threads=1, say=lambda _: None)
        assert not plan(["cross_entropy"])[0].file(tiny).exists()
    runner.run_cells(plan(["cross_entropy"]), tiny, threads=1, say=lambda _: None)
    assert len(saved) == 4, "two epochs of each stage, none of them twice"
    ours, theirs = (json.loads(plan(["cross_entropy"])[0].file(p).read_text()) for p in (tiny, alone))
    assert ours["scores"] == theirs["scores"] and ours["settings"] == theirs["settings"]


def test_one_failure_does_not_stop_the_rest(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(shop: Any, name: str) -> Any:
        raise RuntimeError("no such luck")

    monkeypatch.setitem(workshop.LABELS, "grad_cam", broken)
    failed = runner.run_cells(plan(["cam", "grad_cam", "residual_attention"]), tiny, threads=1, say=lambda _: None)
    assert [cell.row.name for cell in failed] == ["grad_cam"]
    assert len(list(tiny.results.rglob("*.json"))) == 2
    assert "no such luck" in next((tiny.work / "failures").glob("*.txt")).read_text(encoding="utf-8")


def test_further_memories_do_not_change_training(tiny: Places) -> None:
    from patch2tissue.craanet.training import train_craanet

    cell = plan(["accumulated_mean"])[0]
    config = cell.recipe.config(cell.row, 0, tiny.work, 1)
    shop = workshop.Workshop(config, 8, 3)
    beside = shop.craanet()
    train_craanet(config, shop.patches, tiny.work / "plain", side=shop.side)
    weights = [(f / "weights.safetensors").read_bytes() for f in (beside, tiny.work / "plain")]
    assert weights[0] == weights[1]
    memories = {mode: np.load(beside / name / "maps.npy") for mode, name in workshop.MEMORIES.items()}
    assert np.array_equal(memories["mean"], np.load(beside / "attention_memory" / "maps.npy"))
    assert (memories["max"] >= memories["mean"]).all() and (memories["max"] > memories["mean"]).any()
    assert not np.array_equal(memories["ema"], memories["mean"])


def test_second_round_is_that_of_the_package(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    from patch2tissue.pfscnet.rounds import train_rounds
    from patch2tissue.run_folder import RunFolder

    made = count_trainings(monkeypatch)
    row = BY_NAME["second_round"]
    runner.run_cells(plan(["full_method", "second_round"]), tiny, threads=1, say=lambda _: None)
    assert made == ["train_craanet", "train_pfscnet", "train_pfscnet"], "the first round is the full method"
    config = plan(["second_round"])[0].recipe.config(row, 0, tiny.work, 1)
    shop = workshop.Workshop(config, 8, 3)
    ours = shop.network(row).comparison(workshop.NETWORK)
    run = RunFolder(tiny.work / "package")
    run.path.mkdir()
    run.pseudo_labels.symlink_to(shop.labels("pseudo_labels").learned[0].parents[1])
    run.craanet.symlink_to(shop.craanet())
    train_rounds(config, run, shop.patches, side=shop.side)
    assert (ours / "weights.safetensors").read_bytes() == (run.pfscnet / "weights.safetensors").read_bytes()


def test_a_later_field_with_its_default_outdates_nothing() -> None:
    recipe = load_recipe("synthetic_hard", "random")
    config = recipe.config(BY_NAME["full_method"], 0, Path("work"))
    now = cell_settings(config, BY_NAME["full_method"], None, None)
    for later in ("pfscnet.weight_decay", "labels.craanet.weight_decay", "pfscnet.encoder.mean"):
        old = {name: value for name, value in now.items() if name != later}
        assert same_settings(old, now), later
        assert not same_settings(old, now | {later: 0.123}), later
    assert not same_settings(now, {name: value for name, value in now.items() if name != "seed"})
    assert not same_settings(now, now | {"pfscnet.epochs": 99})


def test_settings_hold_what_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    recipe = load_recipe("glas", "pretrained")

    def settings(row: str, **changes: Any) -> dict[str, Any]:
        from dataclasses import replace

        changed = replace(recipe, plain=merged(recipe.plain, changes))
        return network_settings(changed.config(BY_NAME[row], 0, Path("work")), BY_NAME[row])

    attention = {"craanet": {"residual_weight": 0.9}}
    assert settings("cam_pipeline") == settings("cam_pipeline", **attention)
    assert settings("cross_entropy") != settings("cross_entropy", **attention)
    assert settings("full_supervision") != settings("full_supervision", **attention), "it starts from that encoder"
    assert settings("full_supervision") == settings("full_supervision", pseudo_labels={"margin": 0.4})
    assert settings("cross_entropy") == settings("cross_entropy", hardware={"threads": 2}, data={"cache": False})
    before = settings("full_method")
    monkeypatch.setitem(VERSIONS, "pseudo_labels", 2)
    assert before != settings("full_method") and "labels.version.pseudo_labels" in settings("full_method")
    assert settings("full_supervision") == settings("full_supervision", pseudo_labels={"margin": 0.4})
    config = recipe.config(BY_NAME["cam"], 1, Path("work"))
    assert label_settings(config, "cam")["data.source.version"] == 1
    synthetic, work = load_recipe("synthetic_hard", "random"), Path("work")
    before, path = synthetic.config(BY_NAME["cam"], 0, work), "benchmarks.quality.recipes.SYNTHETIC_VERSION"
    settings_before = label_settings(before, "cam")
    monkeypatch.setattr(path, 99)
    after = synthetic.config(BY_NAME["cam"], 0, work)
    assert before.data.path != after.data.path and settings_before != label_settings(after, "cam")
    assert label_settings(config, "cam")["seed"] == 1


@pytest.mark.parametrize("name", SETS)
@pytest.mark.parametrize("encoder", ENCODERS)
def test_every_row_has_the_same_budget(name: str, encoder: str) -> None:
    def budget(row: Any) -> dict[str, Any]:
        config = load_recipe(name, encoder).config(row, 0, Path("work"))
        plain = flat(config.model_dump(mode="json"))
        fixed = ("epochs", "batch_size", "learning_rate", "encoder_rate", "decoder_channels", "init")
        kept = {k: v for k, v in plain.items() if k.startswith(("craanet.", "pfscnet.")) and k.split(".")[1] in fixed}
        encoders = {k: v for k, v in plain.items() if ".encoder." in k}
        return kept | encoders | {k: v for k, v in plain.items() if k.startswith("data.source")}

    reference = budget(BY_NAME["full_method"])
    assert reference["craanet.epochs"] > 1 and reference["pfscnet.batch_size"] > 1
    for row in ROWS:
        if row.encoders is None or encoder in row.encoders:
            assert budget(row) == reference, row.name


def test_work_goes_seed_by_seed_with_the_headline_first() -> None:
    listed = runner.planned_cells(["glas", "luad"], None, [BY_NAME["cam"], BY_NAME["full_method"]], [0, 1])
    names = [cell.name for cell in listed]
    assert names[:4] == [
        "glas/pretrained/cam-s0",
        "luad/pretrained/cam-s0",
        "glas/pretrained/full_method-s0",
        "luad/pretrained/full_method-s0",
    ]
    assert names[4] == "glas/pretrained/cam-s1" and names[8] == "glas/random/cam-s0" and len(names) == 16


def test_listing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    from benchmarks.quality.__main__ import main

    monkeypatch.chdir(ROOT)
    assert (
        main(["--list", "--sets", "glas", "--encoders", "random", "--rows", "cam", "grad_cam", "--seeds", "0", "7"])
        == 0
    )
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[-1] for line in lines] == [
        f"glas/random/{r}-s{s}" for s in (0, 7) for r in ("cam", "grad_cam")
    ]
    with pytest.raises(SystemExit):
        main(["--list", "--seeds", "0", "100"])


def cell_result(miou: float, seconds: float = 60.0) -> dict[str, Any]:
    metrics = ("fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px")
    return {
        "scores": {"miou": miou} | dict.fromkeys(metrics, miou / 2),
        "label_noise": {
            "labelled_share": miou,
            "wrong_share": 1 - miou,
            "taken_for": {"gland": {"gland": 0.9, "stroma": 0.1}, "stroma": {"gland": 1 - miou, "stroma": miou}},
        },
        "seconds": seconds,
    }


def results_by_hand() -> dict[str, dict[int, dict[str, Any]]]:
    each = {
        "cam": [0.50, 0.60],
        "pseudo_labels": [0.56, 0.62],
        "cross_entropy": [0.60, 0.62],
        "all_losses": [0.63, 0.64],
        "full_method": [0.64, 0.66],
        "oeem": [0.60, 0.72],
        "full_supervision": [0.70, 0.80],
    }
    found = {row: {seed: cell_result(value) for seed, value in enumerate(values)} for row, values in each.items()}
    found["dense_energy"] = {0: cell_result(0.99)}  # a row without all seeds takes no part in the ranking
    return found


def test_arithmetic_of_the_table() -> None:
    results = results_by_hand()
    entries = {entry["row"]: entry for entry in table(results)}
    assert entries["cam"]["miou"] == pytest.approx(0.55) and entries["cam"]["miou_sd"] == pytest.approx(0.1 / 2**0.5)
    assert entries["cam"]["wrong_share"] == pytest.approx(0.45) and "wrong_share" not in entries["full_method"]
    assert entries["full_method"]["share_of_full_supervision"] == pytest.approx(0.65 / 0.75)
    assert entries["dense_energy"]["seeds"] == [0] and entries["dense_energy"]["miou_sd"] is None
    assert share(results, "dense_energy") == pytest.approx(0.99 / 0.70), "over the seeds of both"
    assert rank(results) == {"rank": 2, "of": 4}
    gain = difference(results, "pseudo_labels", "cam")
    assert gain is not None and gain["points"] == pytest.approx(4.0) and gain["worst_seed"] == pytest.approx(2.0)
    figures = set_figures(results, {})
    assert figures["accumulation_gain_points"] == pytest.approx(4.0)
    assert figures["losses_gain_miou_points"] == pytest.approx(2.5)
    assert figures["losses_gain_boundary_points"] == pytest.approx(1.25)
    assert "losses_gain_miou_points_ci_low" not in figures, "there are no counts to draw it from"
    noise = figures["label_noise"]
    assert noise["labelled_share"] == pytest.approx(0.59) and noise["wrong_share"] == pytest.approx(0.41)
    assert [(m["tissue"], m["taken_for"], round(m["share"], 3)) for m in noise["mistakes"]] == [
        ("stroma", "gland", 0.41),
        ("gland", "stroma", 0.1),
    ]


def random_counts(seed: int, images: int = 6) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    confusion, boundary = [], []
    for _ in range(images):
        truth = np.kron(rng.integers(0, 3, (4, 4)), np.ones((6, 6))).astype(np.uint8)
        found = np.where(rng.random(truth.shape) < 0.2, rng.integers(0, 3, truth.shape), truth).astype(np.uint8)
        matrix, edges = ConfusionMatrix(3), BoundaryCounts(3)
        matrix.update(found, truth)
        edges.update(found, truth)
        confusion.append(matrix.counts)
        boundary.append(edges.counts)
    return {"confusion": np.stack(confusion), "boundary": np.stack(boundary)}


def test_interval_of_a_gain_against_a_plain_loop() -> None:
    ours, theirs = [random_counts(1), random_counts(2)], [random_counts(3), random_counts(4)]
    found = gain_intervals(ours, theirs, resamples=50, seed=9)
    draws = np.random.default_rng(9).multinomial(6, np.full(6, 1 / 6), size=50)
    gains: dict[str, list[float]] = {"miou": [], "boundary_f_2px": []}
    for draw in draws:
        picked = np.repeat(np.arange(6), draw)
        each: dict[str, list[float]] = {"miou": [], "boundary_f_2px": []}
        for a, b in zip(ours, theirs, strict=True):
            pair = []
            for counts in (a, b):
                edges = BoundaryCounts(3)
                edges.counts = counts["boundary"][picked].sum(axis=0)
                miou = float(ConfusionMatrix(3, counts["confusion"][picked].sum(axis=0)).scores()["miou"])
                pair.append((miou, edges.scores()["boundary_f_2px"]))
            each["miou"].append(100 * (pair[0][0] - pair[1][0]))
            each["boundary_f_2px"].append(100 * (pair[0][1] - pair[1][1]))
        for metric, values in each.items():
            gains[metric].append(float(np.mean(values)))
    for metric, values in gains.items():
        assert found[metric] == pytest.approx(tuple(np.percentile(values, [2.5, 97.5])))
    # what is the same everywhere has no gain and no spread
    assert gain_intervals(ours, ours)["miou"] == (0.0, 0.0)


def test_the_section_is_replaced_and_nothing_else() -> None:
    page = f"# Page\n\nabove\n\n{tables.BEGIN}\nold\n{tables.END}\nbelow\n"
    assert tables.with_section(page, "new") == page.replace("old", "new")
    with pytest.raises(ValueError, match="must hold"):
        tables.with_section("# Page\n", "new")


def test_committed_tables_are_those_of_the_committed_figures() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text(encoding="utf-8"))["figures"]
    page = (ROOT / "docs" / "results.md").read_text(encoding="utf-8")
    assert tables.with_section(page, tables.markdown(figures)) == page, "run `python -m benchmarks.quality --no-train`"


def test_committed_figures_are_those_of_the_committed_cells() -> None:
    figures = json.loads((ROOT / "benchmarks" / "results" / "quality.json").read_text(encoding="utf-8"))["figures"]
    assert tables.all_figures(cells.REAL) == figures, "run `python -m benchmarks.quality --no-train`"


def test_a_row_with_the_settings_of_another_takes_its_result(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    made = count_trainings(monkeypatch)
    assert runner.run_cells(plan(["full_method"]), tiny, threads=1, say=lambda line: None) == []
    for made_before in tiny.work.iterdir():  # as on a machine that has the results alone
        if made_before.is_dir() and made_before != tiny.results:
            shutil.rmtree(made_before)
    before = len(made)
    # the recipe has stain augmentation as the row names it
    assert runner.run_cells(plan(["hed_augmentation_on"]), tiny, threads=1, say=lambda line: None) == []
    assert len(made) == before
    first, second = (cells.read_cell(plan([name])[0].file(tiny)) for name in ("full_method", "hed_augmentation_on"))
    assert first is not None and second is not None
    assert second["scores"] == first["scores"] and second["row"] == "hed_augmentation_on"
    assert second["commit"] == first["commit"] and second["settings_digest"] == first["settings_digest"]
    assert runner.run_cells(plan(["hed_augmentation_off"]), tiny, threads=1, say=lambda line: None) == []
    assert len(made) > before, "other settings are trained"
