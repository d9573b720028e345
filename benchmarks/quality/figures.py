"""From cells to figures: means over seeds, gains with intervals, share of full supervision, rank."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np

from benchmarks.quality.rows import ROWS
from patch2tissue.evaluation.boundaries import boundary_f_scores
from patch2tissue.evaluation.scores import scores_from_counts

METRICS = ("miou", "fwiou", "acc", "dice", "boundary_f_2px", "boundary_f_5px")
TUNING_SEEDS = 100
"""Seeds from here on are for choosing settings and never reported."""
RESAMPLES = 2000

Results = Mapping[str, Mapping[int, Mapping[str, Any]]]
"""Results of one set and encoder: by row, by seed."""
Counts = Mapping[str, np.ndarray]
"""Counts by image, see `cells.score`."""


def table(results: Results) -> list[dict[str, Any]]:
    """One entry per row that has a result: means and standard deviations over its seeds, as fractions.

    `share_of_full_supervision` is the ratio of mean MIoUs over the seeds that both have.
    """
    entries = []
    for row in ROWS:
        cells = results.get(row.name, {})
        if not cells:
            continue
        seeds = sorted(cells)
        entry: dict[str, Any] = {"row": row.name, "title": row.title, "kind": row.kind, "seeds": seeds}
        for metric in METRICS:
            values = [cells[seed]["scores"][metric] for seed in seeds]
            known = [value for value in values if value is not None]
            entry[metric] = mean(known) if known else None
            entry[f"{metric}_sd"] = stdev(known) if len(known) > 1 else None
        if row.kind == "stage1":
            noise = [cells[seed]["label_noise"]["wrong_share"] for seed in seeds]
            entry["wrong_share"] = mean(noise) if None not in noise else None
        else:
            entry["share_of_full_supervision"] = share(results, row.name)
        entry["minutes"] = mean(cells[seed]["seconds"] for seed in seeds) / 60
        entries.append(entry)
    return entries


def paired(results: Results, row: str, base: str) -> list[int]:
    """Seeds that both rows have."""
    return sorted(set(results.get(row, {})) & set(results.get(base, {})))


def share(results: Results, row: str) -> float | None:
    """Mean MIoU as a share of full supervision's, over the seeds of both; None if there is none."""
    seeds = paired(results, row, "full_supervision")
    if not seeds:
        return None
    ours, ceiling = (
        mean(results[name][seed]["scores"]["miou"] for seed in seeds) for name in (row, "full_supervision")
    )
    return float(ours / ceiling)


def difference(results: Results, row: str, base: str, metric: str = "miou") -> dict[str, Any] | None:
    """Gain of a row over another in points, by seed; None without a common seed."""
    seeds = paired(results, row, base)
    if not seeds:
        return None
    each = [100 * (results[row][s]["scores"][metric] - results[base][s]["scores"][metric]) for s in seeds]
    return {"points": mean(each), "worst_seed": min(each), "per_seed": dict(zip(map(str, seeds), each, strict=True))}


def gain_intervals(
    row: Sequence[Counts], base: Sequence[Counts], *, resamples: int = RESAMPLES, seed: int = 0
) -> dict[str, tuple[float, float]]:
    """95% intervals of the mean gain over seeds, in points, by a bootstrap over test images.

    Every resample draws the same images for all seeds and both rows, sums their counts, and takes the mean over seeds
    of the difference; the interval is that of its percentiles. It tells how sure the gain is for other images of the
    same kind, not for other seeds: those are listed one by one.

    Args:
        row: counts of the row, one entry per seed.
        base: counts of what it is compared with, of the same seeds.
        resamples: bootstrap samples.
        seed: of the draws.

    Returns:
        (low, high) of `miou` and `boundary_f_2px`.
    """
    images = len(row[0]["confusion"])
    drawn = np.random.default_rng(seed).multinomial(images, np.full(images, 1.0 / images), size=resamples)
    gains: dict[str, list[np.ndarray]] = {"miou": [], "boundary_f_2px": []}
    for ours, theirs in zip(row, base, strict=True):
        confusion = [_summed(drawn, counts["confusion"]) for counts in (ours, theirs)]
        edges = [_summed(drawn, counts["boundary"][:, 0]) for counts in (ours, theirs)]
        gains["miou"].append(scores_from_counts(confusion[0])["miou"] - scores_from_counts(confusion[1])["miou"])
        gains["boundary_f_2px"].append(boundary_f_scores(edges[0]) - boundary_f_scores(edges[1]))
    result = {}
    for metric, each in gains.items():
        average = 100 * np.mean(each, axis=0)
        low, high = np.percentile(average[~np.isnan(average)], [2.5, 97.5])
        result[metric] = (float(low), float(high))
    return result


def _summed(drawn: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """Counts [I, ...] summed over each of the draws [R, I]."""
    return np.tensordot(drawn.astype(np.float64), counts.astype(np.float64), axes=1)


def loss_gains(results: Results, counts: Mapping[tuple[str, int], Path]) -> dict[str, Any]:
    """What each part of stage 2 gains over cross-entropy alone, with intervals where the counts are there."""
    gains: dict[str, Any] = {}
    for row in ROWS:
        if row.kind != "stage2" or row.name == "cross_entropy":
            continue
        found = {m: difference(results, row.name, "cross_entropy", m) for m in ("miou", "boundary_f_2px")}
        if found["miou"] is None or found["boundary_f_2px"] is None:
            continue
        seeds = paired(results, row.name, "cross_entropy")
        entry: dict[str, Any] = {"seeds": seeds, "miou": found["miou"], "boundary_f_2px": found["boundary_f_2px"]}
        files = [[counts.get((name, seed)) for seed in seeds] for name in (row.name, "cross_entropy")]
        if all(file is not None and file.is_file() for group in files for file in group):
            loaded = [[_load(file) for file in group if file is not None] for group in files]
            for metric, interval in gain_intervals(*loaded).items():
                entry[metric]["ci95"] = list(interval)
        gains[row.name] = entry
    return gains


def _load(path: Path) -> dict[str, np.ndarray]:
    with np.load(path, allow_pickle=False) as content:
        return {name: content[name] for name in ("confusion", "boundary")}


def label_noise(results: Results, row: str = "pseudo_labels") -> dict[str, Any] | None:
    """How wrong the labels are that stage 2 learns from: means over seeds, and the commonest mistakes.

    Returns:
        `labelled_share` of the pixels, `wrong_share` of those, and `mistakes`: `tissue`, `taken_for`, `share` of the
        tissue's labelled pixels, the three largest; None without a result.
    """
    noises = [cell["label_noise"] for cell in results.get(row, {}).values()]
    if not noises:
        return None
    mistakes: dict[tuple[str, str], list[float]] = {}
    for noise in noises:
        for tissue, taken in noise["taken_for"].items():
            for other, part in taken.items():
                if other != tissue and part is not None:
                    mistakes.setdefault((tissue, other), []).append(part)
    largest = sorted(((mean(parts), *pair) for pair, parts in mistakes.items()), reverse=True)[:3]
    return {
        "labelled_share": mean(noise["labelled_share"] for noise in noises),
        "wrong_share": mean(noise["wrong_share"] for noise in noises),
        "mistakes": [{"tissue": tissue, "taken_for": other, "share": part} for part, tissue, other in largest],
    }


def rank(results: Results, method: str = "full_method") -> dict[str, int] | None:
    """Place of a row by mean MIoU among the networks that learned from patch labels alone.

    Only rows that have all of the method's seeds are compared, on those seeds.

    Returns:
        `rank` (1: first) and `of`, the number of rows compared; None if the method has no result.
    """
    seeds = sorted(results.get(method, {}))
    if not seeds:
        return None
    scores = {
        row.name: mean(results[row.name][seed]["scores"]["miou"] for seed in seeds)
        for row in ROWS
        if row.weak and set(seeds) <= set(results.get(row.name, {}))
    }
    return {"rank": 1 + sum(score > scores[method] for score in scores.values()), "of": len(scores)}


def set_figures(results: Results, counts: Mapping[tuple[str, int], Path]) -> dict[str, Any]:
    """All figures of one set and encoder, without the set's name; what cannot be said yet is left out."""
    figures: dict[str, Any] = {}
    for key, row in (("accumulation_gain", "pseudo_labels"), ("accumulation_only_gain", "accumulated_mean")):
        gain = difference(results, row, "cam")
        if gain is not None:
            figures[f"{key}_points"] = gain["points"]
            figures[f"{key}_points_worst_seed"] = gain["worst_seed"]
            figures[f"{key}_points_per_seed"] = gain["per_seed"]
    noise = label_noise(results)
    if noise is not None:
        figures["label_noise"] = noise
    gains = loss_gains(results, counts)
    if "all_losses" in gains:
        for key, metric in (("miou", "miou"), ("boundary", "boundary_f_2px")):
            gain = gains["all_losses"][metric]
            figures[f"losses_gain_{key}_points"] = gain["points"]
            if "ci95" in gain:
                figures[f"losses_gain_{key}_points_ci_low"] = gain["ci95"][0]
                figures[f"losses_gain_{key}_points_ci_high"] = gain["ci95"][1]
            figures[f"losses_gain_{key}_points_per_seed"] = gain["per_seed"]
    ratio = share(results, "full_method")
    if ratio is not None:
        figures["share_of_full_supervision"] = ratio
    place = rank(results)
    if place is not None:
        figures |= {"rank": place["rank"], "ranked_rows": place["of"]}
    if gains:
        figures["gains_over_cross_entropy"] = gains
    return figures | {"table": table(results)}
