"""The demo's table of docs/results.md: trains and scores its recipe, one seed, and gathers the scores.

    python benchmarks/results_tables.py [--no-train]

A run that is there already is not trained again, so an interrupted call goes on where it was. Writes
benchmarks/results/results_tables.json, and prints the tables in Markdown.
"""

from __future__ import annotations

import argparse
import csv
import json
import os
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text
from patch2tissue.config import load_config
from patch2tissue.environment import git_commit, processor_name
from patch2tissue.evaluation.run_scores import score_run
from patch2tissue.evaluation.tables import percent
from patch2tissue.pipeline import run_training
from patch2tissue.run_folder import RunFolder

ROOT = Path(__file__).resolve().parents[1]
RECIPES = ("demo",)
ROWS = {
    ("pseudo_labels", "cam"): "pseudo labels, plain CAM, last epoch",
    ("pseudo_labels", "grad_cam"): "pseudo labels, Grad-CAM, last epoch",
    ("pseudo_labels", "last_epoch"): "pseudo labels, residual attention, last epoch",
    ("pseudo_labels", "accumulated"): "pseudo labels, accumulated",
    ("pseudo_labels", "refined"): "pseudo labels, accumulated + final maps",
    ("test", "cam_pipeline"): "network on plain CAM labels",
    ("test", "cross_entropy_only"): "PFSCNet, cross-entropy only",
    ("test", "full_method"): "PFSCNet, full method",
    ("test", "full_supervision"): "full supervision (ceiling)",
}
COLUMNS = {"miou": "MIoU", "ci95": "95% interval", "fwiou": "FwIoU", "acc": "ACC", "boundary_f_2px": "BF 2 px"}


def training_minutes(run: RunFolder) -> float:
    """Minutes of training in all networks of a run, from the throughput and patch counts of every epoch."""
    patches = sum(1 for _ in (run.pseudo_labels / "manifest.csv").open(encoding="utf-8")) - 1
    seconds = 0.0
    with run.metrics_file.open(encoding="utf-8", newline="") as stream:
        for row in csv.DictReader(stream):
            if row["name"] == "patches_per_second":
                seconds += patches / float(row["value"])
    return seconds / 60.0


def markdown(scores: dict[str, Any]) -> str:
    """One table of percentages, with each network's share of full supervision."""
    lines = ["| | " + " | ".join(COLUMNS.values()) + " | of full supervision |", "|---" * (len(COLUMNS) + 2) + "|"]
    ceiling = scores.get("test", {}).get("full_supervision", {}).get("miou")
    for (part, method), title in ROWS.items():
        values = scores.get(part, {}).get(method)
        if values is None:
            continue
        share = percent(values["miou"] / ceiling) if part == "test" and ceiling else ""
        lines.append(f"| {title} | " + " | ".join(percent(values[key]) for key in COLUMNS) + f" | {share} |")
    return "\n".join(lines)


def main() -> None:
    """Train what is missing, score, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-train", action="store_true", help="only runs that are there")
    chosen = parser.parse_args()
    target = ROOT / "benchmarks" / "results" / "results_tables.json"
    figures: dict[str, Any] = {}
    for name in RECIPES:
        config = load_config(ROOT / "configs" / f"{name}.yaml")
        run = RunFolder(Path(config.output))
        if not chosen.no_train:
            run = run_training(config)
        elif not run.config_file.is_file():
            continue
        scores = score_run(run)
        figures[name] = {
            "scores": scores,
            "training_minutes": round(training_minutes(run), 1),
            "commit": json.loads(run.environment_file.read_text(encoding="utf-8"))["git_commit"],
        }
        machine = f"{processor_name()}, {os.cpu_count()} cores"
        result = {"machine": machine, "commit": git_commit(), "figures": figures}
        write_text(target, json.dumps(result, indent=2) + "\n")
    for name, figure in figures.items():
        print(f"\n### {name}\n\n{markdown(figure['scores'])}\n\nTraining: {figure['training_minutes']} min.")


if __name__ == "__main__":
    main()
