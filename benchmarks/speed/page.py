"""The tables of docs/performance.md, made from benchmarks/results/speed.json.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`; what is between is replaced.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from patch2tissue.atomic import write_text

PAGE = Path(__file__).resolve().parents[2] / "docs" / "performance.md"

WORDS = {
    "dense_energy.share_of_step": "dense energy, share of a PFSCNet step",
    "dense_energy.gradient_error": "dense energy, error of a step's gradient",
    "dense_energy.gradient_bias": "dense energy, bias of the gradient",
    "dense_energy.extra_mb": "dense energy, memory in MB",
    "dense_energy.time_vs_lattice": "dense energy, time over that of a lattice",
    "dense_energy.lattice_gradient_error": "the lattice's gradient error",
    "pixel_contrast.share_of_step": "pixel contrast with 2,048 anchors, share of a step",
    "accumulation.overhead_share": "attention accumulation, share of a CRAANet epoch",
    "accumulation.bytes_per_cell": "attention memory, bytes per value",
    "training.craanet.speedup_vs_fp32_loop": "training CRAANet, times a plain float32 loop",
    "training.pfscnet.speedup_vs_fp32_loop": "training PFSCNet, times a plain float32 loop",
    "training.loader_wait_share": "training, waiting for patches",
    "predict.share_of_bare_network": "`predict`, files in and out, throughput of the bare network",
    "cli.help_seconds": "`patch2tissue --help`, seconds",
    "cli.first_bar_seconds": "first progress bar, seconds",
    "scale.time_exponent": "time from 1,000 to 100,000 patches, exponent",
    "scale.peak_memory_ratio": "memory at 100,000 patches over that at 1,000",
    "data_sets.luad-histoseg.gpu_hours": "LUAD-HistoSeg, both stages, GPU hours",
    "data_sets.bcss-wsss.gpu_hours": "BCSS-WSSS, both stages, GPU hours",
}
_SHARES = ("share", "gradient_error", "gradient_bias")


def shown(key: str, value: float) -> str:
    """A figure as it stands in the page: shares in percent."""
    if any(word in key for word in _SHARES):
        return f"{100 * value:.3g}%"
    return f"{value:.3g}"


def markdown(columns: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[int] = ()) -> str:
    """A Markdown table; the columns `right` are aligned to the right."""
    rule = ["---:" if place in right else "---" for place in range(len(columns))]
    return "\n".join("| " + " | ".join(cells) + " |" for cells in (columns, rule, *rows))


def _figures(results: Mapping[str, Any]) -> str:
    rows = []
    for key, target in results["targets"].items():
        name = WORDS.get(key.removeprefix("gpu."), f"`{key}`") + (" (GPU)" if key.startswith("gpu.") else "")
        reached = {True: "yes", False: "**no**", None: ""}[target["reached"]]
        rows.append([name, shown(key, results[key]), target["target"], reached, target["floor"]])
    return markdown(["figure", "measured", "aim", "reached", "what bounds it"], rows, right=[1]) + _machines(results)


def _machines(results: Mapping[str, Any]) -> str:
    """What was measured where, in a paragraph."""
    parts: dict[str, list[str]] = {}
    for part, facts in results["measured"].items():
        cores = f"{facts['threads']} thread{'s' if facts['threads'] > 1 else ''}"
        device = "" if facts["device"] == "cpu" else f"{facts['device']} and "
        parts.setdefault(f"{device}{cores} of {facts['processor']}, torch {facts['torch']}", []).append(part)
    told = [f"{machine}: {', '.join(f'`{part}`' for part in of)}" for machine, of in parts.items()]
    return "\n\nMeasured on " + "; on ".join(told) + "."


def _dense_energy(results: Mapping[str, Any]) -> str:
    rows = [
        [row["form"], f"{row['ms_per_image']:.1f}", f"{row['time_to_exact']:.3f}", f"{100 * row['gradient_error']:.1f}"]
        for row in results["details"]["dense_energy"]["curve"]
    ]
    return markdown(["form", "ms per image", "time, exact = 1", "gradient error, %"], rows, right=[1, 2, 3])


def _predict(results: Mapping[str, Any]) -> str:
    found = results["details"]["predict"]
    rows = [
        [
            "the network as it was trained" if row["engine"] == "bare" else f"engine `{row['engine']}`",
            row["precision"],
            f"{row['throughput']:.2f}",
            f"{100 * row['agreement']:.2f}",
            f"{row['seconds_to_start']:.1f}",
        ]
        for row in found["engines"]
    ]
    columns = ["computed by", "precision", "throughput", "pixels as in float32, %", "seconds to start"]
    return markdown(columns, rows, right=[2, 3, 4])


_COMMANDS = {
    "craanet": "`train`, CRAANet",
    "pseudo_labels": "`pseudo-labels`",
    "pfscnet": "`train`, PFSCNet",
    "predict": "`predict`",
    "craanet_with_cache": "`train`, CRAANet, pictures kept in memory",
}


def _startup(results: Mapping[str, Any]) -> str:
    seconds = results["details"]["startup"]["seconds"]
    whole = {"python": "Python itself", "import torch": "`import torch`", "--help": "`patch2tissue --help`"}
    rows = [[whole.get(name, f"first bar of `{name}`"), f"{value:.2f}"] for name, value in seconds.items()]
    return markdown(["", "seconds"], rows, right=[1])


def _scale(results: Mapping[str, Any]) -> str:
    found = results["details"]["scale"]
    rows = []
    for command, name in _COMMANDS.items():
        seconds, mib = found["seconds"][command], found["peak_anonymous_mib"][command]
        cells = [f"{seconds[place]:.0f} s, {mib[place]:.0f} MiB" for place in range(len(seconds))]
        cells += ["not run"] * (len(found["patches"]) - len(seconds))
        exponents = (found[kind].get(command) for kind in ("time_exponent", "time_exponent_of_the_last_two"))
        grown = found["peak_memory_ratio"].get(command)
        rows.append([name, *cells, *("" if value is None else f"{value:.2f}" for value in (*exponents, grown))])
    columns = ["", *(f"{count:,} patches" for count in found["patches"]), "exponent", "of the last two", "memory"]
    return markdown(columns, rows, right=range(1, len(columns)))


def _data_sets(results: Mapping[str, Any]) -> str:
    rows = []
    for name in ("luad-histoseg", "bcss-wsss"):
        found = results["details"]["data_sets"][name]
        for stage in ("craanet", "pseudo_labels", "pfscnet", "predict"):
            times, work = found["passes"][stage], found["gflop_per_patch"][stage]
            rows.append([name, _COMMANDS[stage], f"{times:,}", f"{work:.1f}", f"{found['gpu_hours'][stage]:.2g}"])
        days = f"{found['cpu_days']:.1f} days on this CPU" if "cpu_days" in found else ""
        rows.append([name, "all", "", days, f"{sum(found['gpu_hours'].values()):.2g}"])
    return markdown(["data set", "stage", "patches × epochs", "GFLOP for one", "GPU hours"], rows, right=[2, 3, 4])


TABLES: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "figures": _figures,
    "dense_energy": _dense_energy,
    "predict": _predict,
    "startup": _startup,
    "scale": _scale,
    "data_sets": _data_sets,
}


def filled(text: str, results: Mapping[str, Any]) -> str:
    """The page's text with its tables made anew.

    Raises:
        KeyError: if it names a table that there is not.
    """

    def table(match: re.Match[str]) -> str:
        make = TABLES[match[1]]
        known = match[1] == "figures" or match[1] in results["details"]
        return f"<!-- table: {match[1]} -->\n" + (f"{make(results)}\n" if known else "") + "<!-- end -->"

    return re.sub(r"<!-- table: (\w+) -->\n.*?<!-- end -->", table, text, flags=re.DOTALL)


def write_page(results: Mapping[str, Any]) -> None:
    """Fill the tables of docs/performance.md."""
    write_text(PAGE, filled(PAGE.read_text(encoding="utf-8"), results))
