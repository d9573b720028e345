"""From the YAML files of recipes/ to the resolved configuration of a cell."""

from __future__ import annotations

import copy
import hashlib
import json
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import yaml

from benchmarks.quality.rows import Row
from patch2tissue.config import RunConfig, config_from_dict
from patch2tissue.data.synthetic.writer import VERSION as SYNTHETIC_VERSION
from patch2tissue.errors import ConfigError

FOLDER = Path(__file__).resolve().parent / "recipes"
SETS = ("synthetic_hard", "glas", "luad", "glas224")
ENCODERS = ("pretrained", "random")

_OWN_KEYS = ("title", "headline", "encoders", "rows", "train_patches", "test_images")
"""Keys of a set's recipe that are not fields of `RunConfig`."""


@dataclass(frozen=True)
class Recipe:
    """What a set and an encoder say, before a row changes it.

    Attributes:
        set: name of the set.
        encoder: name of the encoder.
        title: the set in words, for the page of results.
        headline: name of the encoder whose table comes first.
        plain: fields of `RunConfig`, without `output`, `seed` and, where the data are made, `data.path`.
        rows: settings of single rows, by name.
        train_patches: use so many of the training patches, None: all.
        test_images: score so many of the test images, None: all.
    """

    set: str
    encoder: str
    title: str
    headline: str
    plain: dict[str, Any]
    rows: dict[str, Any]
    train_patches: int | None
    test_images: int | None

    def config(self, row: Row, seed: int, work: Path, threads: int | None = None) -> RunConfig:
        """The whole configuration of a cell.

        Args:
            row: row of the table.
            seed: seed of the training.
            work: folder for what is made; data sets lie in `data/`.
            threads: CPU threads, None: all cores.

        Raises:
            ConfigError: if the recipe or the row names a field that does not exist, or a value makes no sense.
        """
        plain = merged(merged(self.plain, row.changes), self.rows.get(row.name, {}))
        data = plain.setdefault("data", {})
        source = data.get("source")
        if source is not None:
            # pictures of an older program are not those that the recipe means
            told = json.dumps([source, source_version(source["kind"])], sort_keys=True)
            key = hashlib.sha256(told.encode()).hexdigest()[:8]
            data["path"] = str(work / "data" / f"{self.set}-{key}")
        plain |= {"seed": seed, "output": str(work / "artefacts" / self.set / self.encoder / f"s{seed}")}
        if threads is not None:
            plain = merged(plain, {"hardware": {"threads": threads}})
        return config_from_dict(plain, f"benchmarks/quality/recipes, {self.set}, {self.encoder}, row {row.name}")


def source_version(kind: str) -> int:
    """Version of the program that makes a data set: regions are cut as they always were, synthetic tissue changes."""
    return SYNTHETIC_VERSION if kind == "synthetic" else 1


def merged(below: dict[str, Any], above: dict[str, Any]) -> dict[str, Any]:
    """Two nested mappings as one; values of `above` win, and nothing is shared with the arguments."""
    result = copy.deepcopy(below)
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(result.get(key), dict):
            result[key] = merged(result[key], value)
        else:
            result[key] = copy.deepcopy(value)
    return result


def load_recipe(name: str, encoder: str, *, quick: bool = False) -> Recipe:
    """Read a set's recipe with one encoder.

    Args:
        name: one of `SETS`.
        encoder: one of `ENCODERS`.
        quick: tiny sizes from `quick.yaml` on top.

    Raises:
        ConfigError: if a file is missing or is no mapping.
    """
    own = _read(f"{name}.yaml")
    plain = merged(own, _read(f"encoder-{encoder}.yaml"))
    plain = merged(plain, own.get("encoders", {}).get(encoder, {}))
    if quick:
        tiny = _read("quick.yaml")
        plain = merged(plain, merged(tiny["all"], tiny.get(name, {})))
    taken = {key: plain.pop(key, None) for key in _OWN_KEYS}
    return Recipe(
        set=name,
        encoder=encoder,
        title=str(taken["title"] or name),
        headline=str(taken["headline"] or ENCODERS[0]),
        plain=plain,
        rows=merged(_read("rows.yaml"), taken["rows"] or {}),
        train_patches=taken["train_patches"],
        test_images=taken["test_images"],
    )


@lru_cache
def _text(path: Path) -> str:
    # read once: settings must not change under a running benchmark
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the recipe: {error.strerror or error}.") from None


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / name
    try:
        plain = yaml.safe_load(_text(path))
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not readable as YAML: {error}") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: a recipe is a mapping with the fields of a run's configuration.")
    return plain
