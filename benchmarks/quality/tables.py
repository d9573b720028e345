"""Cells on disk → quality.json → the tables in docs/results.md."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from benchmarks.quality.cells import Places, code_state, machine, read_cell
from benchmarks.quality.figures import TUNING_SEEDS, set_figures
from benchmarks.quality.recipes import ENCODERS, SETS, Recipe, load_recipe
from benchmarks.quality.rows import BY_NAME
from patch2tissue.atomic import write_text

BEGIN = "<!-- quality benchmark: written by `python -m benchmarks.quality`, do not edit -->"
END = "<!-- quality benchmark: end -->"

_COLUMNS = {"miou": "MIoU", "fwiou": "FwIoU", "acc": "ACC", "boundary_f_2px": "BF 2 px"}
_ENCODER_TITLES = {"pretrained": "ImageNet-pretrained MobileNetV1", "random": "ResNet-10t from random initialisation"}
_STAGE1_HEAD = "| pseudo labels, on the masks of train |"
_STAGE2_HEAD = "| networks, on the test images |"


def collect(
    places: Places, set_name: str, encoder: str
) -> tuple[dict[str, dict[int, Any]], dict[tuple[str, int], Path]]:
    """Results of a set and encoder by row and seed, and the files with their counts.

    Tuning seeds are left out, or, where the places are for tuning, all others.
    """
    results: dict[str, dict[int, Any]] = defaultdict(dict)
    counts: dict[tuple[str, int], Path] = {}
    for file in sorted((places.results / set_name / encoder).glob("*.json")):
        result = read_cell(file)
        if result is None or (result["seed"] >= TUNING_SEEDS) != places.tuning or result["row"] not in BY_NAME:
            continue
        results[result["row"]][result["seed"]] = result
        counts[result["row"], result["seed"]] = file.with_suffix(".npz")
    return results, counts


def all_figures(places: Places, *, quick: bool = False) -> dict[str, Any]:
    """Figures of every set, by the keys of quality.json; sets without a result are left out."""
    figures: dict[str, Any] = {}
    for name in SETS:
        for encoder in ENCODERS:
            results, counts = collect(places, name, encoder)
            if not results:
                continue
            recipe = load_recipe(name, encoder, quick=quick)
            prefix = name if encoder == recipe.headline else f"{name}.{encoder}"
            found = {f"{prefix}.{key}": _rounded(value) for key, value in set_figures(results, counts).items()}
            figures |= found | {f"{prefix}.about": _about(recipe, encoder, results)}
    return figures


def _about(recipe: Recipe, encoder: str, results: dict[str, dict[int, Any]]) -> dict[str, Any]:
    """What stands above a table: read from the cells, so that it is true of them."""
    cells = [cell for by_seed in results.values() for cell in by_seed.values()]
    text = {kind: sorted({str(cell[kind]) for cell in cells}) for kind in ("commit", "machine", "threads")}
    images = {kind: sorted({cell["images"] for cell in cells if cell["scored_on"] == kind}) for kind in _SCORED_ON}
    return {
        "title": recipe.title,
        "encoder": encoder,
        "commits": text["commit"],
        "dirty": any(cell["dirty"] is not False for cell in cells),
        "machines": text["machine"],
        "threads": text["threads"],
        "cells": len(cells),
        "hours": round(sum(cell["seconds_of_this_call"] for cell in cells) / 3600, 2),
        "images": images,
    }


_SCORED_ON = ("masks of train", "test images")


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 4)
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    return [_rounded(item) for item in value] if isinstance(value, list) else value


def write_tables(places: Places, *, quick: bool = False) -> dict[str, Any]:
    """Write quality.json from the cells, and the page from it; return the figures."""
    figures = all_figures(places, quick=quick)
    content = {"machine": machine(), "commit": code_state()["commit"], "figures": figures}
    write_text(places.figures, json.dumps(content, indent=1, allow_nan=False) + "\n")
    page = places.page.read_text(encoding="utf-8") if places.page.is_file() else f"# Quality\n\n{BEGIN}\n{END}\n"
    write_text(places.page, with_section(page, markdown(figures)))
    return figures


def with_section(page: str, section: str, start: str = BEGIN, stop: str = END) -> str:
    """The page with the text between two markers replaced.

    Raises:
        ValueError: if it does not hold both markers once, in order.
    """
    before, begin, rest = page.partition(start)
    _, end, after = rest.partition(stop)
    if not begin or not end or start in rest or stop in after:
        raise ValueError(f"the page must hold '{start}' and '{stop}' once each, in this order")
    return f"{before}{start}\n{section}\n{stop}{after}"


def markdown(figures: dict[str, Any]) -> str:
    """The section of docs/results.md that says what quality.json says."""
    parts = []
    for name in SETS:
        for prefix in (name, *(f"{name}.{encoder}" for encoder in ENCODERS)):
            if f"{prefix}.table" in figures:
                parts.append(_section(figures, prefix, nested=prefix != name))
    return "\n\n".join(parts) if parts else "No cell of the table has been run yet."


def _section(figures: dict[str, Any], prefix: str, *, nested: bool) -> str:
    about, table = figures[f"{prefix}.about"], figures[f"{prefix}.table"]
    encoder = _ENCODER_TITLES.get(about["encoder"], about["encoder"])
    title = f"{'####' if nested else '###'} {prefix.split('.')[0]}, {encoder}"
    parts = [title, f"{about['title']}. {_budget(about)}", _tables(table)]
    lines = _headlines(figures, prefix)
    if lines:
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def _budget(about: dict[str, Any]) -> str:
    hours = f"{about['cells']} cells in {about['hours']:.1f} h"
    changed = " (with changes that were not committed)" if about["dirty"] else ""
    return f"{hours} on {' and '.join(about['machines'])}; commit {', '.join(about['commits'])}{changed}."


def _tables(table: list[dict[str, Any]]) -> str:
    heads = (
        (_STAGE1_HEAD, "wrong | seeds", "wrong_share", [e for e in table if e["kind"] == "stage1"]),
        (
            _STAGE2_HEAD,
            "of full supervision | seeds",
            "share_of_full_supervision",
            [e for e in table if e["kind"] != "stage1"],
        ),
    )
    parts = []
    for head, last, key, entries in heads:
        if entries:
            lines = [f"{head} {' | '.join(_COLUMNS.values())} | {last} |", "|---" * (len(_COLUMNS) + 3) + "|"]
            parts.append("\n".join(lines + [_line(entry, key) for entry in entries]))
    return "\n\n".join(parts)


def _line(entry: dict[str, Any], key: str) -> str:
    cells = [_spread(entry[metric], entry[f"{metric}_sd"]) for metric in _COLUMNS]
    extra = "–" if entry.get(key) is None else f"{100 * entry[key]:.1f}"
    return f"| {entry['title']} | {' | '.join(cells)} | {extra} | {len(entry['seeds'])} |"


def _spread(mean: float | None, deviation: float | None) -> str:
    if mean is None:
        return "–"
    return f"{100 * mean:.1f}" if deviation is None else f"{100 * mean:.1f} ± {100 * deviation:.1f}"


def _headlines(figures: dict[str, Any], prefix: str) -> list[str]:
    """The sentences that the table is read for, as a list."""

    def get(key: str) -> Any:
        return figures.get(f"{prefix}.{key}")

    lines = []
    if get("accumulation_gain_points") is not None:
        only = get("accumulation_only_gain_points")
        alone = "" if only is None else f"; the memory alone (mean) {only:+.1f}"
        lines.append(
            f"- Accumulated pseudo labels over plain CAM: {get('accumulation_gain_points'):+.1f} MIoU points, worst "
            f"seed {get('accumulation_gain_points_worst_seed'):+.1f}{alone}."
        )
    noise = get("label_noise")
    if noise is not None:
        kinds = ", ".join(f"{m['tissue']} for {m['taken_for']} ({100 * m['share']:.1f}%)" for m in noise["mistakes"])
        lines.append(
            f"- Stage 2 learns from labels on {100 * noise['labelled_share']:.1f}% of the pixels, "
            f"{100 * noise['wrong_share']:.1f}% of them wrong; most often taken, by share of the first: {kinds}."
        )
    for row, gain in (get("gains_over_cross_entropy") or {}).items():
        miou, edges = gain["miou"], gain["boundary_f_2px"]
        title = BY_NAME[row].title.removeprefix("+ ").capitalize()
        lines.append(
            f"- {title} over cross-entropy: {miou['points']:+.2f} MIoU points{_interval(miou)}, "
            f"{edges['points']:+.2f} boundary F-score points{_interval(edges)}."
        )
    if get("rank") is not None:
        ratio = get("share_of_full_supervision")
        text = "" if ratio is None else f" reaches {100 * ratio:.1f}% of full supervision and"
        lines.append(f"- The full method{text} is number {get('rank')} of {get('ranked_rows')} rows without masks.")
    return lines


def _interval(gain: dict[str, Any]) -> str:
    return f" ({gain['ci95'][0]:+.2f} to {gain['ci95'][1]:+.2f})" if "ci95" in gain else ""
