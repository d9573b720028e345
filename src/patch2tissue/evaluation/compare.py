"""Comparing runs: side by side, and as means over seeds."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_json
from patch2tissue.run_folder import RunFolder


@dataclass(frozen=True)
class Compared:
    """MIoU of one method in one group of runs that differ in nothing but the seed.

    Attributes:
        runs: names of the run folders.
        part: `pseudo_labels` or `test`.
        method: key in `scores.json`.
        miou: one value per run.
        full_supervision: MIoU of full supervision in the same runs; empty where it was not trained.
    """

    runs: tuple[str, ...]
    part: str
    method: str
    miou: tuple[float, ...]
    full_supervision: tuple[float, ...]

    def to_dict(self) -> dict[str, Any]:
        """Mean, spread (standard deviation over seeds, None for one) and share of full supervision."""
        share = None
        if len(self.full_supervision) == len(self.miou) and all(self.full_supervision):
            share = mean(self.miou) / mean(self.full_supervision)
        return {
            "runs": list(self.runs),
            "part": self.part,
            "method": self.method,
            "miou": mean(self.miou),
            "spread": stdev(self.miou) if len(self.miou) > 1 else None,
            "seeds": len(self.miou),
            "share_of_full_supervision": share,
        }


def read_scores(run: RunFolder) -> dict[str, Any]:
    """Read `scores.json` of a run.

    Raises:
        DataError: if the run was not scored.
    """
    run.config()
    try:
        scores = read_json(run.scores_file)
    except OSError:
        raise DataError(f"{run.path}: is not scored yet. Run `patch2tissue score {run.path}`.") from None
    except ValueError:
        scores = None
    if not isinstance(scores, dict):
        raise DataError(f"{run.scores_file}: is damaged. Run `patch2tissue score {run.path}` again.")
    return scores


def compare_runs(paths: Sequence[Path]) -> list[Compared]:
    """Group runs whose configurations differ in nothing but seed and output, and gather their scores.

    A run that is named twice counts once. Of two runs with the same settings and the same seed, the second stands
    alone: it would make the spread over seeds too small.

    Raises:
        DataError: if a folder is no scored run.
    """
    groups: dict[tuple[str, int], list[tuple[str, dict[str, Any]]]] = {}
    copies: Counter[tuple[str, int]] = Counter()
    for path in dict.fromkeys(Path(path).resolve() for path in paths):
        run = RunFolder(path)
        scores, config = read_scores(run), run.config()
        plain = config.model_dump(mode="json", exclude={"seed", "output", "hardware", "comparisons", "loggers"})
        settings = json.dumps(plain, sort_keys=True)
        groups.setdefault((settings, copies[settings, config.seed]), []).append((path.name, scores))
        copies[settings, config.seed] += 1
    compared = []
    for members in groups.values():
        names = tuple(name for name, _ in members)
        for part in ("pseudo_labels", "test"):
            methods = list(dict.fromkeys(m for _, scores in members for m in _mapping(scores.get(part))))
            for method in methods:
                values = _values(members, part, method)
                ceiling = _values(members, "test", "full_supervision") if part == "test" else ()
                if values:
                    compared.append(Compared(names, part, method, values, ceiling))
    return compared


def _values(members: Sequence[tuple[str, dict[str, Any]]], part: str, method: str) -> tuple[float, ...]:
    found = [_mapping(_mapping(scores.get(part)).get(method)).get("miou") for _, scores in members]
    return tuple(float(v) for v in found if isinstance(v, int | float) and math.isfinite(v))


def _mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}
