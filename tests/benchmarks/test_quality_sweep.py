"""Choosing settings without masks: held-out part, criteria, rule, and a tiny sweep on data without masks."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from benchmarks.quality import criteria, held_out, recipes, sweep, workshop
from benchmarks.quality.cells import Places, apart
from benchmarks.quality.criteria import Criteria, choose, energies, judge, label_f1, pairs_of_views
from benchmarks.quality.recipes import SETS, load_recipe

from patch2tissue.data.labels import slide_of
from patch2tissue.data.patches import Patch
from patch2tissue.errors import ConfigError, DataError, TrainingError
from patch2tissue.training_data import prepare_data

ROOT = Path(__file__).resolve().parents[2]

TINY = {
    "headline": "random",
    "tissues": "bcss-wsss",
    "data": {"source": {"kind": "synthetic", "train": 40, "val": 0, "test": 1, "size": 32, "seed": 3}},
    "craanet": {"epochs": 2, "batch_size": 8, "temperatures": [float("inf")], "accumulation": {"start": 0.0}},
    "pseudo_labels": {"scales": [1.0], "symmetries": False},
    "pfscnet": {
        "epochs": 2,
        "batch_size": 8,
        "decoder_channels": 8,
        "atrous_rates": [1, 2, 3],
        "losses_start": 0.0,
        "dense_energy": {"grid": 8, "weight": 2.0},
        "contrast": {"dimensions": 4, "anchors": 16, "bank": 8, "confidence": 0.0},
    },
    "inference": {"symmetries": True},
    "hardware": {"threads": 1},
}
GROUPS = {
    "dense_energy.weight": [{"pfscnet.dense_energy.weight": 2.0}, {"pfscnet.dense_energy.weight": 0.0}],
    "contrast.weight": [{"pfscnet.contrast.weight": 0.3}],
}


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Places:
    """A sweep of one tiny set in a folder of its own, whose data have no masks and no test images any more."""
    folder = tmp_path / "recipes"
    folder.mkdir()
    (folder / "synthetic_hard.yaml").write_text(yaml.safe_dump(TINY), encoding="utf-8")
    shutil.copy(recipes.FOLDER / "rows.yaml", folder)
    shutil.copy(recipes.FOLDER / "encoder-random.yaml", folder)
    monkeypatch.setattr(recipes, "FOLDER", folder)
    places = apart(tmp_path / "work")
    data = sweep.Trial(load_recipe("synthetic_hard", "random"), 100, {}, places).config()
    prepare_data(data)
    shutil.rmtree(Path(data.data.path) / "train" / "mask")
    shutil.rmtree(Path(data.data.path) / "test")
    return places


@pytest.mark.slow
def test_a_sweep_without_masks(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[str, set[str]]] = []
    for name in ("train_craanet", "train_pfscnet"):
        original = getattr(workshop, name)

        def wrapped(
            config: Any, patches: Any, *rest: Any, _name: str = name, _original: Any = original, **kw: Any
        ) -> None:
            made.append((_name, {patch.name for patch in patches}))
            _original(config, patches, *rest, **kw)

        monkeypatch.setattr(workshop, name, wrapped)
    measured: list[set[str]] = []
    original_measure = criteria.measure

    def measure(predictor: Any, single: Any, patches: Any, least_share: float, maps: Any) -> Any:
        measured.append({patch.name for patch in patches})
        assert predictor.settings.symmetries and not single.settings.symmetries
        return original_measure(predictor, single, patches, least_share, maps)

    monkeypatch.setattr(sweep, "measure", measure)
    recipe = load_recipe("synthetic_hard", "random")
    lines: list[str] = []
    carried = sweep.run_sweep(recipe, GROUPS, [100], tiny, threads=1, say=lines.append)

    assert Counter(name for name, _ in made) == {"train_craanet": 1, "train_pfscnet": 3}, "one stage 1 for all settings"
    assert len({frozenset(names) for names in measured}) == 1 and len(measured[0]) >= 4
    assert all(not names & measured[0] for _, names in made), "held-out patches were trained on"

    records = sweep.read_figures(tiny)
    assert list(records) == ["synthetic_hard.dense_energy.weight", "synthetic_hard.contrast.weight"]
    first, second = records.values()
    assert [e["changes"] for e in first["candidates"]] == GROUPS["dense_energy.weight"]
    assert [e["changes"]["pfscnet.contrast.weight"] for e in second["candidates"]] == [0.1, 0.3]
    expected = first["candidates"][1]["changes"] if first["chosen"] else {}
    assert second["carried"] == expected and expected.items() <= carried.items()
    # what the second group starts from was measured by the first
    assert second["candidates"][0]["measures"] == first["candidates"][first["chosen"]]["measures"]
    for entry in (*first["candidates"], *second["candidates"]):
        assert set(entry["criteria"]) == set(sweep.COLUMNS) and entry["held_out"] == len(measured[0])
        assert all(0 <= entry["criteria"][key] <= 1 for key in ("label_f1", "absent_share", "energy", "view_agreement"))
    assert sweep.markdown(records) in tiny.page.read_text(encoding="utf-8")

    before = {path: path.read_bytes() for path in tiny.results.rglob("*.json")}
    assert len(before) == 3 and sweep.run_sweep(recipe, GROUPS, [100], tiny, threads=1, say=lines.append) == carried
    assert len(made) == 4 and {path: path.read_bytes() for path in tiny.results.rglob("*.json")} == before


def test_a_setting_that_diverges_is_left_out(tiny: Places, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(trial: sweep.Trial, threads: int | None, code: Any) -> tuple[Path, dict[str, Any]]:
        if trial.changes["pfscnet.dense_energy.weight"] == 2.0:
            raise TrainingError("the loss is no longer a number")
        group = {"labels": [[1, 0, 0]] * 4, "absent": 0, "pixels": 9}
        found = {"groups": {"a": group}, "pairs": [[1, 1]] * 4, "energy": 0.1, "place_energy": 0.2, "patches": 1}
        return Path("x.json"), {"commit": "c", "measures": found}

    monkeypatch.setattr(sweep.Trial, "run", run)
    groups = {"dense_energy.weight": GROUPS["dense_energy.weight"]}
    recipe = load_recipe("synthetic_hard", "random")
    chosen = sweep.run_sweep(recipe, groups, [100], tiny, say=lambda _: None)
    assert chosen == {"pfscnet.dense_energy.weight": 0.0}
    assert "| dense_energy.weight | weight 2.0 (before) | diverged |" in tiny.page.read_text(encoding="utf-8")


def test_wrong_plans_are_refused(tiny: Places) -> None:
    recipe = load_recipe("synthetic_hard", "random")
    with pytest.raises(ConfigError, match="may be reported"):
        sweep.run_sweep(recipe, GROUPS, [2, 100], tiny, say=lambda _: None)
    with pytest.raises(ConfigError, match=r"no field 'pfscnet\.wieght'"):
        sweep.run_sweep(recipe, {"typo": [{"pfscnet.wieght": 1.0}]}, [100], tiny, say=lambda _: None)
    with pytest.raises(ConfigError, match="no group 'nonsense'"):
        sweep.load_plan("glas", ["nonsense"])


def test_nothing_here_opens_masks() -> None:
    for module in (sweep, criteria, held_out):
        assert module.__file__ is not None
        code = Path(module.__file__).read_text(encoding="utf-8")
        for name in (
            "read_mask",
            "patch.mask",
            "load_images_and_masks",
            "test_patches",
            "evaluate_",
            "ConfusionMatrix",
        ):
            assert name not in code, f"{module.__name__} mentions {name}"


def patches_of(slides: dict[str, int], labels: tuple[int, ...] = (1, 1)) -> list[Patch]:
    names = [f"{slide}_x{112 * i:06d}_y000000" for slide, count in slides.items() for i in range(count)]
    return [Patch(Path(f"{name}.png"), name, labels) for name in names]


def test_every_slide_is_held_out_once_and_whole() -> None:
    patches = patches_of({f"train_{i}": 3 + i % 4 for i in range(23)})
    seen: Counter[str] = Counter()
    for fold in range(held_out.FOLDS):
        kept, out = held_out.split(patches, fold)
        assert sorted([*kept, *out], key=lambda p: p.name) == sorted(patches, key=lambda p: p.name)
        assert not {slide_of(p.name) for p in kept} & {slide_of(p.name) for p in out}
        assert abs(len(out) - len(patches) / held_out.FOLDS) <= 4
        seen.update(p.name for p in out)
    assert set(seen.values()) == {1} and len(seen) == len(patches)
    kept, out = held_out.split(patches_of({"train_1": 20}), 0)
    assert len(kept) == 16 and len(out) == 4, "too few slides: single patches"
    with pytest.raises(DataError, match="more than half of the patches"):
        held_out.split([*patches_of({"one": 9}), *patches_of({f"train_{i}": 2 for i in range(9)}, (1, 0))], 0)


def test_folds_hold_tissues_evenly() -> None:
    patches = patches_of({f"a_{i}": 4 for i in range(20)}, (1, 0)) + patches_of(
        {f"b_{i}": 2 for i in range(10)}, (0, 1)
    )
    for fold in range(held_out.FOLDS):
        _, out = held_out.split(patches, fold)
        assert np.sum([patch.labels for patch in out], axis=0).tolist() == [16, 4]


def test_agreement_of_views_against_a_plain_loop() -> None:
    maps = np.random.default_rng(0).integers(0, 4, (8, 9, 7)).astype(np.uint8)
    expected = np.zeros((3, 2), dtype=np.int64)  # value 3 is background
    for a, b in combinations(maps, 2):
        for tissue in range(3):
            expected[tissue] += [((a == tissue) & (b == tissue)).sum(), ((a == tissue) | (b == tissue)).sum()]
    assert np.array_equal(pairs_of_views(maps, 3), expected)
    same = pairs_of_views(np.repeat(maps[:1], 8, axis=0), 3)
    assert np.array_equal(same[:, 0], same[:, 1])


def test_edges_that_follow_the_picture_have_less_energy() -> None:
    image = np.full((48, 48, 3), 220, dtype=np.uint8)
    image[:, 24:] = (120, 60, 140)
    right, shifted, nothing = (np.zeros((48, 48), dtype=np.uint8) for _ in range(3))
    right[:, 24:], shifted[:, 32:] = 1, 1
    (good, good_place), (bad, bad_place), (none, none_place) = (
        energies(image, m, 2) for m in (right, shifted, nothing)
    )
    assert good < bad and good / good_place < 0.01 < 0.5 < bad / bad_place
    assert none == none_place == 0.0, "a map without edges has no energy: why the rule does not look at it alone"
    noisy = np.random.default_rng(0).integers(0, 255, (48, 48, 3)).astype(np.uint8)
    assert energies(noisy, nothing, 4) == (0.0, 0.0), "rounding is no energy"
    ignored = shifted.copy()
    ignored[:, 24:] = 3  # background takes no part
    assert energies(image, ignored, 2) == (0.0, 0.0)


class Drawer:
    """A predictor that always draws the same map, turned or not."""

    def __init__(self, found: np.ndarray, tissues: int) -> None:
        self.found, self.tissues = found, range(tissues)

    def predict_array(self, image: np.ndarray) -> Any:
        return type("Found", (), {"mask": self.found})


def test_measures_of_one_patch(tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "train_1_x000000_y000000.png"
    Image.fromarray(np.full((20, 20, 3), 200, dtype=np.uint8)).save(path)
    found = np.zeros((20, 20), dtype=np.uint8)
    found[0, :10], found[1:5], found[19] = 1, 2, 3  # 10 pixels are less than 5%; 3 is background
    patch = Patch(path, path.stem, (1, 1, 0))
    drawer: Any = Drawer(found, 3)
    measured = criteria.measure(drawer, drawer, [patch], 0.05)
    group = measured["groups"]["train_1"]
    assert group == {"labels": [[1, 0, 0], [0, 0, 1], [0, 1, 0]], "absent": 80, "pixels": 380}
    assert json.loads(json.dumps(measured)) == measured
    values = judge([measured]).values
    assert values["label_f1"] == pytest.approx(1 / 3) and values["absent_share"] == pytest.approx(80 / 380)
    assert 0.9 < values["edge_energy"] <= 1.0 + 1e-6, "a picture of one colour gives edges no reason"
    assert 0 < values["view_agreement"] < 1


def test_label_f1() -> None:
    assert label_f1(np.array([[4, 1, 1], [0, 0, 0], [3, 0, 3]])) == pytest.approx((8 / 10 + 6 / 9) / 2)


def measures(right: list[int], absent: list[int], energy: float) -> dict[str, Any]:
    """One tissue, ten patches in each group."""
    groups = {
        f"g{i}": {"labels": [[r, 0, 10 - r]], "absent": a, "pixels": 100}
        for i, (r, a) in enumerate(zip(right, absent, strict=True))
    }
    return {"groups": groups, "pairs": [[1, 2]], "energy": energy, "place_energy": 1.0, "patches": len(right)}


def test_the_rule() -> None:
    def candidate(right: list[int], absent: list[int], energy: float) -> Criteria:
        return judge([measures(right, absent, energy)])

    base = candidate([9, 8, 9, 8, 9, 8], [5] * 6, 0.5)
    assert choose([base, base]) == 0, "of equals the first"
    assert choose([base, candidate([8, 9, 8, 9, 8, 8], [5] * 6, 0.4)]) == 1, "one patch less is noise: less energy wins"
    assert choose([base, candidate([4, 3, 4, 3, 4, 3], [5] * 6, 0.1)]) == 0, "tissues are lost"
    assert choose([base, candidate([9, 8, 9, 8, 9, 8], [9] * 6, 0.1)]) == 0, "absent tissues are drawn"
    assert choose([base, candidate([9, 8, 9, 8, 9, 8], [4] * 6, 0.6)]) == 0
    assert choose([base, candidate([10] * 6, [5] * 6, 0.9)]) == 1, "clearly better labels win over energy"


def test_noise_is_over_the_patients_of_all_seeds() -> None:
    one, two = measures([9, 5], [1, 2], 0.5), measures([7, 7], [3, 4], 0.7)
    both = judge([one, two])
    assert both.values["label_f1"] == pytest.approx(2 * 28 / (2 * 28 + 12))
    assert both.values["absent_share"] == pytest.approx(10 / 400)
    assert both.values["edge_energy"] == pytest.approx(0.6) and both.values["energy"] == pytest.approx(0.3)
    # the same two patients, so a draw is one of them twice or both
    outcomes = {round(float(value), 6) for value in both.draws["absent_share"]}
    assert outcomes == {4 / 200, 10 / 400, 6 / 200}


@pytest.mark.parametrize("name", SETS)
def test_the_plan_fits_every_recipe(name: str) -> None:
    seeds, groups = sweep.load_plan(name)
    assert min(seeds) >= sweep.TUNING_SEEDS and len({seed % held_out.FOLDS for seed in seeds}) == len(seeds)
    recipe = load_recipe(name, load_recipe(name, "random").headline)
    for tried in groups.values():
        settings = sweep.settings_of_group(recipe, tried, {}, sweep.SWEEP)
        digests = [json.dumps(sweep.Trial(recipe, 100, changes, sweep.SWEEP).settings()) for changes in settings]
        assert len(set(digests)) == len(settings) > 1
    assert (
        sweep.Trial(recipe, 100, {}, sweep.SWEEP).config().data
        == sweep.Trial(recipe, 101, {}, sweep.SWEEP).config().data
    )


def test_listing(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sweep, "SWEEP", apart(tmp_path / "work"))
    assert sweep.main(["--list", "--sets", "glas", "--groups", "contrast.weight"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("0 of 1 measured: glas, contrast.weight, weight ") and len(lines) == 2


def committed() -> dict[str, Any]:
    content = json.loads(sweep.SWEEP.figures.read_text(encoding="utf-8"))
    assert set(content) == {"machine", "commit", "figures"}
    return dict(content["figures"])


def test_committed_page_is_that_of_the_committed_decisions() -> None:
    page = sweep.SWEEP.page.read_text(encoding="utf-8")
    section = sweep.markdown(committed())
    assert sweep.with_section(page, section, sweep.BEGIN, sweep.END) == page, "run `python -m benchmarks.quality.sweep`"


def test_committed_decisions_are_those_of_the_committed_measures() -> None:
    for key, record in committed().items():
        folder = sweep.SWEEP.results / key.partition(".")[0]
        assert min(record["seeds"]) >= sweep.TUNING_SEEDS
        judged = {}
        for place, entry in enumerate(record["candidates"]):
            if "failed" in entry:
                continue
            results = [json.loads((folder / name).read_text(encoding="utf-8")) for name in entry["measures"]]
            assert [result["seed"] for result in results] == record["seeds"]
            judged[place] = judge([result["measures"] for result in results])
            assert {k: round(v, 4) for k, v in judged[place].values.items()} == entry["criteria"], key
        if record["chosen"] is not None:
            assert list(judged)[choose(list(judged.values()))] == record["chosen"], key
