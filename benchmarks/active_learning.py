"""Does it pay to label first what the model is least sure of? MIoU by number of labelled patches, on synthetic tissue.

    python -m benchmarks.active_learning [--seeds 0 1 2] [--budgets 40 80 160] [--no-train]

The loop of `patch2tissue label`, with an annotator who never errs: a budget of patches is answered in the order in
which the page asks (`labelling.queue`), the answers go through the database and its export to labels.csv, both stages
are trained on it from scratch for a fixed number of steps, and the test split is scored. `random`: the random order
that all annotators get without a model. `model`: after the first budget, which is the same, the page is given the run
of the budget before, so that four in five of the new patches are those that its CRAANet is least sure of. Labels of the
annotator are the file names'; masks are read by scoring alone.

Every cell (seed, order, budget) is written when it is done, with its seed, commit and seconds, and is not done again.
Writes benchmarks/results/active_learning.json and the curve docs/images/active-learning.png. Synthetic tissue, `hard`.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from patch2tissue.atomic import atomic_path, write_text
from patch2tissue.config import RunConfig, config_from_dict, load_config
from patch2tissue.cores import available_cores
from patch2tissue.data.labels import layout_of, parse_label
from patch2tissue.data.synthetic import make_synthetic
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.labelling.exchange import export_table
from patch2tissue.labelling.pool import PoolPatch, find_pool
from patch2tissue.labelling.queue import Queue
from patch2tissue.labelling.store import DATABASE, Answer, LabelStore
from patch2tissue.labelling.suggest import model_of, suggest
from patch2tissue.pipeline import run_training
from patch2tissue.tissues import TissueSet

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "active_learning.json"
CURVE = ROOT / "docs" / "images" / "active-learning.png"
ORDERS = ("random", "model")
POOL, TEST, SIZE, DATA_SEED = 600, 96, 96, 11
STEPS = 160
"""Of each stage; as many for every budget, so that budgets differ in labels alone."""


def cell_name(seed: int, order: str, budget: int) -> str:
    """Name of a cell in the results."""
    return f"seed {seed}, {order}, {budget}"


def truth_of(patch: PoolPatch, tissues: TissueSet) -> tuple[int, ...]:
    """What the annotator says: the label in the file name."""
    stem = Path(patch.path).stem
    layout = layout_of(stem)
    labels = None if layout is None else parse_label(stem, layout, tissues)
    assert labels is not None
    return labels


def label_up_to(budget: int, folder: Path, tissues: TissueSet, seed: int, run: Path | None) -> int:
    """Answer as the page asks until so many patches are labelled, and export; returns how many were asked for."""
    pool = find_pool(folder)
    by_path = {patch.path: patch for patch in pool}
    with LabelStore(folder / DATABASE, tissues) as store:
        queue = Queue([patch.path for patch in pool], seed=seed)
        if run is not None:
            suggest(run, folder, store)
            queue.suggest(store.suggestions(model_of(run)))
        answered = store.answered("oracle")
        asked = queue.next(budget - len(answered), answered)
        store.add(
            Answer(one.patch, one.patch, "oracle", "labelled", truth_of(by_path[one.patch], tissues), chosen=one.chosen)
            for one in asked
        )
        export_table(store, folder, pool)
    return len(asked)


def config_of(folder: Path, output: Path, seed: int, budget: int) -> RunConfig:
    """The demo's recipe without its comparisons, for a fixed number of steps."""
    plain = load_config(ROOT / "configs" / "demo.yaml").model_dump(mode="json")
    plain |= {"output": str(output), "seed": seed, "comparisons": {}}
    plain["data"] |= {"path": str(folder), "source": None}
    for stage in ("craanet", "pfscnet"):
        per_epoch = max(1, budget // plain[stage]["batch_size"])
        plain[stage]["epochs"] = max(2, round(STEPS / per_epoch))
    return config_from_dict(plain)


def data_folder(root: Path, seed: int, order: str) -> Path:
    """A folder of its own for each seed and order, since each has its labels; the images are shared."""
    made = root / "data"
    make_synthetic(made, train=POOL, val=0, test=TEST, size=SIZE, difficulty="hard", seed=DATA_SEED)
    folder = root / f"seed-{seed}-{order}"
    if not folder.is_dir():
        with atomic_path(folder / "made") as temporary:
            for name in ("train", "test"):
                shutil.copytree(made / name, folder / name, dirs_exist_ok=True)
            # the ceiling needs masks of train, this does not
            shutil.rmtree(folder / "train" / "mask", ignore_errors=True)
            temporary.write_text("", encoding="utf-8")
    return folder


def train(root: Path, seeds: Sequence[int], budgets: Sequence[int], cells: dict[str, Any]) -> None:
    """Do the cells that are missing, and what they build on; each is kept as it comes."""
    for seed in seeds:
        for order in ORDERS:
            missing = [budget for budget in budgets if cell_name(seed, order, budget) not in cells]
            before: Path | None = None
            for budget in [budget for budget in budgets if missing and budget <= max(missing)]:
                begin = time.perf_counter()
                # the first budget is asked for without a model, so that both orders share its patches and its run
                shared = budget == budgets[0]
                folder = data_folder(root, seed, order)
                output = root / f"run-seed-{seed}-{'random' if shared else order}-{budget}"
                config = config_of(folder, output, seed, budget)
                run = before if order == "model" else None
                label_up_to(budget, folder, config.tissue_set(), seed, run)
                before = output
                name = cell_name(seed, order, budget)
                if shared and order == "model":
                    cells[name] = cells[cell_name(seed, "random", budget)]
                    continue
                scores = score_run(run_training(config, progress=False), progress=False)
                if name in cells:
                    continue
                cells[name] = {
                    "miou": scores["test"]["full_method"]["miou"],
                    "seed": seed,
                    "commit": git_commit(),
                    "seconds": round(time.perf_counter() - begin, 1),
                }
                write(cells)
                print(f"{name}: MIoU {100 * cells[name]['miou']:.1f}, {cells[name]['seconds']:.0f} s", flush=True)


def figures(cells: dict[str, Any]) -> dict[str, Any]:
    """Mean and spread of MIoU by order and budget, and the gain of the model's order, over the seeds that have both."""
    found: dict[str, Any] = {}
    keys = {tuple(name.split(", ")) for name in cells}
    budgets = sorted({int(budget) for _, _, budget in keys})
    for budget in budgets:
        seeds = sorted(
            int(seed.split()[1])
            for seed, order, of in keys
            if order == "random" and int(of) == budget and (seed, "model", of) in keys
        )
        if not seeds:
            continue
        entry: dict[str, Any] = {"seeds": len(seeds)}
        values = {o: [100 * cells[cell_name(seed, o, budget)]["miou"] for seed in seeds] for o in ORDERS}
        gains = [model - random for model, random in zip(values["model"], values["random"], strict=True)]
        for key, of in (*values.items(), ("gain", gains)):
            entry[key] = round(statistics.mean(of), 1)
            entry[f"{key}_sd"] = round(statistics.stdev(of), 1) if len(of) > 1 else None
        found[str(budget)] = entry
    return found


def write(cells: dict[str, Any]) -> None:
    """Write the results."""
    about = {
        "data": f"synthetic, hard, {POOL} patches of {SIZE} px to choose from, {TEST} to test on, seed {DATA_SEED}",
        "steps": STEPS,
        "machine": f"{processor_name()}, {available_cores()} cores, torch {torch.__version__}",
    }
    write_text(RESULTS, json.dumps(about | {"figures": figures(cells), "cells": cells}, indent=2) + "\n")


def draw(found: dict[str, Any], path: Path = CURVE) -> None:
    """Draw the curve."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(6, 3.6), layout="constrained")
    budgets = [int(budget) for budget in found]
    for order, colour, label in (("random", "#777777", "random order"), ("model", "#7a3b69", "led by the model")):
        means = [found[str(budget)][order] for budget in budgets]
        spreads = [found[str(budget)][f"{order}_sd"] or 0 for budget in budgets]
        axes.errorbar(budgets, means, spreads, color=colour, label=label, marker="o", capsize=3)
    axes.set_xscale("log", base=2)
    axes.set_xticks(budgets, [str(budget) for budget in budgets])
    axes.set_xlabel("labelled patches")
    axes.set_ylabel("MIoU of test patches (%)")
    axes.set_title("Synthetic tissue, hard; mean and standard deviation over seeds", fontsize=10)
    axes.legend(frameon=False)
    axes.grid(alpha=0.3)
    with atomic_path(path) as temporary:
        figure.savefig(temporary, dpi=110)
    plt.close(figure)


def table(found: dict[str, Any]) -> str:
    """The curve as a table in Markdown."""
    lines = ["| labelled patches | random order | led by the model | gain |", "|---|---|---|---|"]
    for budget, entry in found.items():
        cells = [_spread(entry, key, plus=key == "gain") for key in ("random", "model", "gain")]
        lines.append(f"| {budget} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _spread(entry: dict[str, Any], key: str, *, plus: bool) -> str:
    spread = "" if entry[f"{key}_sd"] is None else f" ± {entry[f'{key}_sd']:.1f}"
    return f"{entry[key]:{'+' if plus else ''}.1f}{spread}".replace("-", "−")


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--budgets", type=int, nargs="+", default=[40, 80, 160])
    parser.add_argument("--folder", type=Path, default=ROOT / "runs" / "active-learning")
    parser.add_argument("--no-train", action="store_true", help="only draw what is there")
    options = parser.parse_args()
    cells = json.loads(RESULTS.read_text(encoding="utf-8"))["cells"] if RESULTS.is_file() else {}
    if not options.no_train:
        train(options.folder, options.seeds, options.budgets, cells)
        write(cells)
    found = figures(cells)
    draw(found)
    print(table(found))


if __name__ == "__main__":
    main()
