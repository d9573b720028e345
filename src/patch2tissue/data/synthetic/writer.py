"""Write a synthetic data set in the layout of BCSS-WSSS."""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from patch2tissue.atomic import remove_abandoned, temporary_prefix
from patch2tissue.data.synthetic.difficulty import DIFFICULTIES
from patch2tissue.data.synthetic.drawing import TISSUE_SET, draw_all
from patch2tissue.data.synthetic.patches import UM_PER_PIXEL
from patch2tissue.data.synthetic.plan import plan_split
from patch2tissue.errors import ConfigError, DataError, WriteError

VERSION = 2
"""Counts changes after which the same seed gives other pictures."""
SETTINGS_FILE = "synthetic.json"


def make_synthetic(
    out: Path,
    *,
    train: int = 600,
    val: int = 0,
    test: int = 120,
    size: int = 128,
    difficulty: str = "hard",
    seed: int = 0,
    workers: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> None:
    """Make a data set of synthetic H&E patches with masks, in the layout of BCSS-WSSS.

    `out/train/NAME[1101].png` with `out/train/mask/` of the same names (for scoring only), `out/val|test/img/` and
    `out/val|test/mask/`, and `out/synthetic.json` with the settings. Same settings, same bytes, on any number of
    processes. It is built beside `out` and renamed, so that `out` is whole or not there. A folder made earlier with
    the same settings is left as it is.

    Args:
        out: folder to make.
        train: patches in train.
        val: patches in val; 0: no val folder.
        test: patches in test; 0: no test folder.
        size: side of a patch in pixels, at least 32.
        difficulty: easy, medium or hard.
        seed: seed of the pictures, at least 0.
        workers: processes; None: one per core if there are enough patches.
        progress: called with the number of patches done and of all.

    Raises:
        ConfigError: if a setting is out of range.
        DataError: if `out` holds something else.
    """
    out = Path(out)
    settings = {"train": train, "val": val, "test": test, "size": size, "difficulty": difficulty, "seed": seed}
    _check(settings)
    if _made_before(out, settings):
        return
    tasks = [
        task
        for split, count in (("train", train), ("val", val), ("test", test))
        for task in plan_split(split, count, size, difficulty, seed)
    ]
    out.parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(out.parent, below=False)
    staging = Path(tempfile.mkdtemp(prefix=temporary_prefix(out), dir=out.parent))
    try:
        for done in draw_all(tasks, staging, workers):
            if progress is not None:
                progress(done, len(tasks))
        _write_settings(staging, settings)
        umask = os.umask(0)
        os.umask(umask)
        staging.chmod(0o777 & ~umask)
        if out.is_dir():
            out.rmdir()
        staging.rename(out)
    except OSError as error:
        raise WriteError(error.errno, error.strerror, str(out)) from None
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _check(settings: dict[str, Any]) -> None:
    if settings["difficulty"] not in DIFFICULTIES:
        raise ConfigError(f"difficulty '{settings['difficulty']}' is unknown; choose {', '.join(DIFFICULTIES)}.")
    if settings["size"] < 32:
        raise ConfigError(f"size {settings['size']} is too small for a patch; choose at least 32 pixels.")
    for name in ("train", "val", "test", "seed"):
        if settings[name] < 0:
            raise ConfigError(f"{name} is {settings[name]}; it must not be negative.")
    if settings["train"] + settings["val"] + settings["test"] == 0:
        raise ConfigError("train, val and test are all 0: there is nothing to make.")


def _made_before(out: Path, settings: dict[str, Any]) -> bool:
    """Whether `out` is this very data set.

    Raises:
        DataError: if it is something else.
    """
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return False
    record = out / SETTINGS_FILE
    if not record.is_file():
        raise DataError(f"{out}: exists and is not a synthetic data set; choose another folder.")
    try:
        plain = json.loads(record.read_text(encoding="utf-8"))
        found = plain["settings"] | {"version": plain["version"]}
    except (OSError, ValueError, KeyError, TypeError):
        raise DataError(f"{record}: not readable; remove {out} to make it again.") from None
    if found != settings | {"version": VERSION}:
        raise DataError(
            f"{out}: is a synthetic data set with other settings ({_listed(found)}); choose another folder, or remove "
            "it to make it again."
        )
    return True


def _listed(settings: dict[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in settings.items())


def _write_settings(folder: Path, settings: dict[str, Any]) -> None:
    plain = {"version": VERSION, "settings": settings, "tissues": TISSUE_SET, "um_per_pixel": UM_PER_PIXEL}
    (folder / SETTINGS_FILE).write_text(json.dumps(plain, indent=2) + "\n", encoding="utf-8")
