"""Choosing settings of stage 2 without masks: one group of settings after the other, on seeds that are never reported.

    python -m benchmarks.quality.sweep [--sets glas …] [--groups dense_energy.weight …] [--quick] [--list]

What is tried stands in sweep.yaml, what it is judged by in criteria.py: a fifth of the training patches is held out,
by patient, slide or image, from both stages; stage 1 is trained once per set and seed on the others. What was
measured is not measured again, and an interrupted training goes on from its last whole epoch. Measures go to
benchmarks/results/quality_sweep/, decisions to benchmarks/results/quality_sweep.json and docs/results.md.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.cells import REAL, ROOT, Places, apart, code_state, machine, read_cell
from benchmarks.quality.criteria import VERSION, Criteria, choose, judge, measure
from benchmarks.quality.figures import TUNING_SEEDS
from benchmarks.quality.held_out import FOLDS, TuningShop
from benchmarks.quality.recipes import SETS, Recipe, load_recipe, merged
from benchmarks.quality.rows import BY_NAME
from benchmarks.quality.settings import Settings, digest, flat, network_settings, same_settings
from benchmarks.quality.surroundings import PictureMaps
from benchmarks.quality.tables import with_section
from benchmarks.quality.workshop import NETWORK
from patch2tissue.atomic import write_text
from patch2tissue.config import RegionSource, RunConfig
from patch2tissue.errors import ConfigError, TrainingError
from patch2tissue.inference.predictor import Predictor

ROW = BY_NAME["full_method"]
LEAST_SHARE = 0.05
"""Share of a patch from which on a tissue is present, where the recipe's data do not say."""
PLAN = Path(__file__).resolve().with_name("sweep.yaml")
SWEEP = replace(
    REAL, results=REAL.results.with_name("quality_sweep"), figures=REAL.figures.with_name("quality_sweep.json")
)
BEGIN = "<!-- quality sweep: written by `python -m benchmarks.quality.sweep`, do not edit -->"
END = "<!-- quality sweep: end -->"
COLUMNS = {
    "label_f1": "label F1",
    "absent_share": "absent tissue",
    "edge_energy": "edge energy",
    "energy": "energy",
    "view_agreement": "view agreement",
}

Changes = dict[str, Any]
"""Fields of a run's configuration, by dotted names."""


@dataclass(frozen=True)
class Trial:
    """One setting with one seed.

    Attributes:
        recipe: of the table.
        seed: a tuning seed.
        changes: what differs from the recipe.
        places: results and artefacts.
    """

    recipe: Recipe
    seed: int
    changes: Changes
    places: Places

    def config(self, threads: int | None = None) -> RunConfig:
        """Its whole configuration; data are those of the table, artefacts lie apart."""
        rows = self.recipe.rows
        for name, value in self.changes.items():
            for part in reversed([ROW.name, *name.split(".")]):
                value = {part: value}
            rows = merged(rows, value)
        config = replace(self.recipe, rows=rows).config(ROW, self.seed, self.places.work, threads)
        config.output = self.places.work / "sweep" / self.recipe.set / self.recipe.encoder / f"s{self.seed}"
        return config

    def settings(self) -> Settings:
        """What its measures depend on."""
        config = self.config()
        inference = config.inference.model_dump(mode="json", exclude={"batch_size"})
        fold = {"held_out": f"fold {self.seed % FOLDS} of {FOLDS}", "criteria": VERSION}
        return network_settings(config, ROW, self.recipe.train_patches) | flat({"inference": inference}) | fold

    def found(self) -> tuple[Path, dict[str, Any]] | None:
        """File and content of its measures, None if it was not measured."""
        settings = self.settings()
        for file in sorted((self.places.results / self.recipe.set).glob(f"*-s{self.seed}.json")):
            result = read_cell(file)
            if result is not None and same_settings(result["settings"], settings):
                return file, result
        return None

    def run(self, threads: int | None, code: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
        """Train and measure, unless that was done."""
        there = self.found()
        if there is not None:
            return there
        begin = time.perf_counter()
        config = self.config(threads)
        shop = TuningShop(config, self.recipe.train_patches)
        source = config.data.source
        least = source.least_share if isinstance(source, RegionSource) else LEAST_SHARE
        run = shop.network(ROW)
        predictor, single = (Predictor.from_run(run, network=NETWORK, symmetries=on) for on in (None, False))
        # tiles larger than a patch are judged with what is around it
        wide = isinstance(source, RegionSource) and config.inference.tile > source.size
        maps = PictureMaps(predictor, source.path) if wide and isinstance(source, RegionSource) else None
        settings = self.settings()
        result = {
            "set": self.recipe.set,
            "encoder": self.recipe.encoder,
            "seed": self.seed,
            "trained_on": len(shop.patches),
            "measures": measure(predictor, single, shop.held_out, least, maps),
            **code,
            "machine": machine(),
            "seconds_of_this_call": round(time.perf_counter() - begin, 1),
            "settings": settings,
        }
        file = self.places.results / self.recipe.set / f"{digest(settings)[:12]}-s{self.seed}.json"
        write_text(file, json.dumps(result, allow_nan=False) + "\n")
        return file, result


def load_plan(
    name: str, groups: Sequence[str] | None = None, *, quick: bool = False
) -> tuple[list[int], dict[str, list[Changes]]]:
    """Seeds of a set, and settings by group in the order of work; `quick` keeps the first of each."""
    plan = yaml.safe_load(PLAN.read_text(encoding="utf-8"))
    own = plan["groups_of"].get(name, {})
    known = {group for each in plan["groups_of"].values() for group in each} | set(plan["groups"])
    unknown = sorted(set(groups or []) - known)
    if unknown:
        raise ConfigError(f"{PLAN}: has no group '{unknown[0]}'; it has {', '.join(sorted(known))}.")
    seeds, most = plan["seeds"].get(name, plan["seeds"]["all"]), 1 if quick else None
    tried = {
        group: list(tried)[:most]
        for group, tried in (own | plan["groups"]).items()
        if groups is None or group in groups
    }
    return seeds[:most], tried


def settings_of_group(recipe: Recipe, tried: Sequence[Changes], carried: Changes, places: Places) -> list[Changes]:
    """What the recipe and earlier groups say of the group's fields, then what is tried, each once."""
    now = flat(Trial(recipe, TUNING_SEEDS, carried, places).config().model_dump(mode="json"))
    fields = sorted({name for changes in tried for name in changes})
    unknown = [name for name in fields if name not in now]
    if unknown:
        raise ConfigError(f"{PLAN}: a run's configuration has no field '{unknown[0]}'.")
    own = {name: now[name] for name in fields}
    every = [own, *(own | changes for changes in tried)]
    return [changes for place, changes in enumerate(every) if changes not in every[:place]]


def run_sweep(
    recipe: Recipe,
    groups: dict[str, list[Changes]],
    seeds: Sequence[int],
    places: Places,
    *,
    threads: int | None = None,
    say: Callable[[str], None] = print,
) -> Changes:
    """Work through the groups of one set, writing figures and page after every setting.

    Args:
        recipe: the set with its headline encoder.
        groups: settings by group.
        seeds: tuning seeds.
        places: where results go.
        threads: CPU threads, None: all cores.
        say: gets a line per setting.

    Returns:
        The chosen settings that differ from the recipe's.

    Raises:
        ConfigError: for a seed that is reported, or a field that does not exist.
    """
    if min(seeds) < TUNING_SEEDS:
        raise ConfigError(
            f"Seed {min(seeds)} is one that may be reported; settings are tuned on {TUNING_SEEDS} and more."
        )
    code = code_state()
    carried: Changes = {}
    for group, tried in groups.items():
        entries: list[dict[str, Any]] = []
        judged: dict[int, Criteria] = {}
        candidates = settings_of_group(recipe, tried, carried, places)
        record: dict[str, Any] = {"encoder": recipe.encoder, "seeds": list(seeds), "carried": carried, "chosen": None}
        for number, changes in enumerate(candidates, start=1):
            say(f"{recipe.set}, {group}, setting {number} of {len(candidates)}: {shown(changes)}")
            try:
                results = [Trial(recipe, seed, carried | changes, places).run(threads, code) for seed in seeds]
            except TrainingError as error:  # a setting with which training diverges cannot be chosen
                say(f"  left out: {error}")
                entries.append({"changes": changes, "failed": str(error)})
            else:
                judged[number - 1] = judge([result["measures"] for _, result in results])
                entries.append(entry(changes, results, judged[number - 1]))
            record["candidates"] = entries
            write_figures(places, f"{recipe.set}.{group}", record)
        if not judged:
            raise TrainingError(f"{recipe.set}, {group}: training diverges with every setting.")
        best = list(judged)[choose(list(judged.values()))]
        write_figures(places, f"{recipe.set}.{group}", record | {"chosen": best})
        say(f"  chosen: {shown(candidates[best])}")
        if best:
            carried = carried | candidates[best]
    return carried


def entry(changes: Changes, results: Sequence[tuple[Path, dict[str, Any]]], judged: Criteria) -> dict[str, Any]:
    """What quality_sweep.json says of one setting."""
    return {
        "changes": changes,
        "measures": [file.name for file, _ in results],
        "commits": sorted({str(result["commit"]) for _, result in results}),
        "held_out": sum(result["measures"]["patches"] for _, result in results),
        "criteria": {name: round(value, 4) for name, value in judged.values.items()},
    }


def write_figures(places: Places, key: str, record: dict[str, Any]) -> None:
    """Put one group's record into quality_sweep.json, and write the page from it."""
    figures = read_figures(places) | {key: record}
    content = {"machine": machine(), "commit": code_state()["commit"], "figures": figures}
    write_text(places.figures, json.dumps(content, indent=1, allow_nan=False) + "\n")
    page = places.page.read_text(encoding="utf-8") if places.page.is_file() else f"# Sweep\n\n{BEGIN}\n{END}\n"
    write_text(places.page, with_section(page, markdown(figures), BEGIN, END))


def read_figures(places: Places) -> dict[str, Any]:
    """Records by `<set>.<group>`; empty if there are none."""
    content = read_cell(places.figures)
    return {} if content is None else dict(content["figures"])


def shown(changes: Changes) -> str:
    """Settings in words: `weight 2.0`."""
    return ", ".join(f"{name.split('.')[-1]} {value}" for name, value in changes.items())


def markdown(figures: dict[str, Any]) -> str:
    """The section of docs/results.md that says what quality_sweep.json says."""
    parts = []
    for name in SETS:
        records = {key.removeprefix(f"{name}."): found for key, found in figures.items() if key.startswith(f"{name}.")}
        if not records:
            continue
        lines = [f"| {name} | setting | {' | '.join(COLUMNS.values())} |", "|---" * (len(COLUMNS) + 2) + "|"]
        for group, record in records.items():
            for place, found in enumerate(record["candidates"]):
                criteria = found.get("criteria", {})
                values = " | ".join(f"{100 * criteria[key]:.1f}" if criteria else "diverged" for key in COLUMNS)
                text, mark = shown(found["changes"]), "**" if place == record["chosen"] else ""
                own = " (before)" if place == 0 else ""
                lines.append(f"| {group if place == 0 else ''} | {mark}{text}{mark}{own} | {values} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts) if parts else "No setting has been tried yet."


def main(arguments: list[str] | None = None) -> int:
    """Sweep what the arguments name."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.quality.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--sets", nargs="+", choices=SETS, default=list(SETS), metavar="SET", help=", ".join(SETS))
    parser.add_argument("--groups", nargs="+", metavar="GROUP", help="groups of sweep.yaml (default: all)")
    parser.add_argument("--quick", action="store_true", help="next to nothing, in runs/quality-sweep-quick/")
    parser.add_argument("--threads", type=int, help="CPU threads (default: all cores)")
    parser.add_argument("--list", action="store_true", help="list what is tried and what was measured, and stop")
    chosen = parser.parse_args(arguments)
    os.chdir(ROOT)  # recipes name data relative to the checkout
    places = apart(ROOT / "runs" / "quality-sweep-quick") if chosen.quick else SWEEP
    for name in chosen.sets:
        seeds, groups = load_plan(name, chosen.groups, quick=chosen.quick)
        headline = load_recipe(name, "random", quick=chosen.quick).headline
        recipe = load_recipe(name, headline, quick=chosen.quick)
        if not chosen.list:
            print(f"{name}: {shown(run_sweep(recipe, groups, seeds, places, threads=chosen.threads)) or 'as it is'}")
            continue
        figures, carried = read_figures(places), Changes()
        for group, tried in groups.items():
            candidates = settings_of_group(recipe, tried, carried, places)
            for changes in candidates:
                done = sum(Trial(recipe, s, carried | changes, places).found() is not None for s in seeds)
                print(f"{done} of {len(seeds)} measured: {name}, {group}, {shown(changes)}")
            record = figures.get(f"{name}.{group}", {})
            if record.get("chosen"):
                carried = carried | record["candidates"][record["chosen"]]["changes"]
    return 0


if __name__ == "__main__":
    sys.exit(main())
