"""Everything the page tells, read from a run folder; what is not there is empty, what is broken is an error."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from patch2tissue.config import RunConfig
from patch2tissue.data.layouts import load_images_and_masks, load_split
from patch2tissue.data.patches import Patch
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_json_object
from patch2tissue.report.names import STAGES
from patch2tissue.run_folder import RunFolder
from patch2tissue.tissues import TissueSet

Curves = dict[str, dict[str, list[tuple[float, float]]]]
"""Stage folder's name -> curve's name -> (epoch, value)."""


@dataclass
class RunRecord:
    """A run as the report sees it.

    Attributes:
        run: the run folder.
        config: its configuration.
        tissues: its tissue set.
        scores: `scores.json`, empty if absent.
        detail: `scores_detail.json`, empty if absent.
        environment: `environment.json`, empty if absent.
        curves: curves of all stages.
        train: training patches by name, empty if the data folder is not there.
        test: test patches by name, with masks where there are any.
        missing: why a split is empty, by split.
    """

    run: RunFolder
    config: RunConfig
    tissues: TissueSet
    scores: dict[str, Any] = field(default_factory=dict)
    detail: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, Any] = field(default_factory=dict)
    curves: Curves = field(default_factory=dict)
    train: dict[str, Patch] = field(default_factory=dict)
    test: dict[str, Patch] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)

    def score(self, part: str, key: str, name: str = "miou") -> float | None:
        """One score, None if it is absent or not a number."""
        return number(mapping(mapping(self.scores.get(part)).get(key)).get(name))


def mapping(value: object) -> Mapping[str, Any]:
    """The value if it is a mapping, else an empty one."""
    return value if isinstance(value, Mapping) else {}


def number(value: object) -> float | None:
    """The value as a finite float, else None."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        return None
    return float(value)


def interval(scores: Mapping[str, Any]) -> tuple[float | None, float | None]:
    """The 95% interval of a scores entry."""
    ends = scores.get("ci95")
    if not isinstance(ends, list) or len(ends) != 2:
        return None, None
    return number(ends[0]), number(ends[1])


def read_run(run: RunFolder) -> RunRecord:
    """Read a run folder.

    Raises:
        DataError: if it is no run folder, or a file in it is damaged.
    """
    config = run.config()
    record = RunRecord(run, config, config.tissue_set())
    record.scores = read_json_object(run.scores_file)
    record.detail = read_json_object(run.path / "scores_detail.json")
    record.environment = read_json_object(run.environment_file)
    record.curves = _read_curves(run)
    root = Path(config.data.path)
    record.train = _patches(record, "train", lambda: load_split(root, "train", record.tissues, config.data.layout))
    record.test = _patches(record, "test", lambda: _test_images(config, record.tissues))
    return record


def _test_images(config: RunConfig, tissues: TissueSet) -> list[Patch]:
    """The images that scoring takes: `data.test_path`, else `test`, else `val` if only that one has masks.

    Without masks, the images that could be predicted. (As `evaluation.run_scores`, which cannot be imported here
    without torch.)
    """
    if config.data.test_path is not None:
        return load_images_and_masks(Path(config.data.test_path), tissues)
    folders = [Path(config.data.path) / split for split in ("test", "val")]
    found = [load_images_and_masks(folder, tissues) for folder in folders if folder.is_dir()]
    if not found:
        raise DataError(f"{config.data.path}: holds neither test/ nor val/.")
    return next((patches for patches in found if any(patch.mask is not None for patch in patches)), found[0])


def _patches(record: RunRecord, split: str, load: Callable[[], list[Patch]]) -> dict[str, Patch]:
    try:
        patches = load()
    except DataError as error:
        record.missing[split] = str(error)
        return {}
    return {patch.name: patch for patch in patches}


def read_csv(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file with a header; empty if there is no file.

    Raises:
        DataError: if it is not text.
    """
    if not path.is_file():
        return []
    try:
        text = path.read_text(encoding="utf-8-sig")
        return [{str(k): v or "" for k, v in row.items()} for row in csv.DictReader(io.StringIO(text, newline=""))]
    except (OSError, ValueError, csv.Error) as error:
        raise DataError(f"{path}: cannot be read as a CSV file ({error}).") from None


def _read_curves(run: RunFolder) -> Curves:
    folders = {"craanet": run.craanet, "cam": run.cam, "pfscnet": run.pfscnet}
    folders.update({name: run.comparison(name) for name in STAGES if name not in folders})
    curves: Curves = {}
    for stage, folder in folders.items():
        for row in read_csv(folder / "metrics.csv"):
            try:
                point = float(row["epoch"]), float(row["value"])
            except (KeyError, ValueError):
                continue
            if math.isfinite(point[1]):
                curves.setdefault(stage, {}).setdefault(row.get("name", ""), []).append(point)
    return curves
