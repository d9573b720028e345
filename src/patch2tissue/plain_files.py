"""Reading JSON and arrays that may be damaged, or not what their name says; nothing is unpickled."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from patch2tissue.errors import DataError


def read_json(path: Path) -> Any:
    """What a JSON file holds.

    Raises:
        OSError: if it cannot be read.
        ValueError: if it is no UTF-8 text, no JSON, or has thousands of levels.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except RecursionError:
        raise ValueError("it has too many levels") from None


def read_json_object(path: Path) -> dict[str, Any]:
    """Read a JSON object that patch2tissue wrote; empty if there is no file.

    Raises:
        DataError: if it cannot be read, or holds something else.
    """
    if not path.is_file():
        return {}
    try:
        content = read_json(path)
    except (OSError, ValueError) as error:
        raise DataError(f"{path}: cannot be read ({error}). Delete it and run the command again.") from None
    if not isinstance(content, dict):
        raise DataError(f"{path}: does not hold what patch2tissue writes. Delete it and run the command again.")
    return content


def read_array(path: Path, remedy: str, mode: Literal["r", "r+"] | None = None) -> np.ndarray:
    """The array of a `.npy` file.

    Args:
        path: the file.
        remedy: what to do if it cannot be read, for the message.
        mode: map it into memory, to read or to read and write; None: read all of it.

    Raises:
        DataError: if it cannot be read, is no such file, or holds objects, which could run code.
    """
    try:
        found = np.load(path, mmap_mode="r" if mode else None, allow_pickle=False)
        if mode == "r+" and isinstance(found, np.ndarray):
            # not at once: numpy would fill up with zeros what a file that was cut short lacks
            found = np.load(path, mmap_mode=mode, allow_pickle=False)
    except Exception as error:  # damaged headers raise every kind
        raise _unreadable(path, error, remedy) from None
    if not isinstance(found, np.ndarray):
        found.close()
        raise DataError(f"{path}: is no .npy file. {remedy}")
    return found


def read_arrays(path: Path, names: Sequence[str], remedy: str) -> dict[str, np.ndarray]:
    """Arrays of a `.npz` file.

    Args:
        path: the file.
        names: of the arrays that it must hold.
        remedy: what to do if it cannot be read, for the message.

    Raises:
        DataError: if it cannot be read, lacks an array, or one of them holds objects, which could run code.
    """
    try:
        with zipfile.ZipFile(path), np.load(path, allow_pickle=False) as file:
            return {name: np.asarray(file[name]) for name in names}
    except Exception as error:  # damaged archives raise every kind
        raise _unreadable(path, error, remedy) from None


def _unreadable(path: Path, error: Exception, remedy: str) -> DataError:
    return DataError(f"{path}: cannot be read ({reason(error)}). {remedy}")


def reason(error: BaseException) -> str:
    """An error in a few words: its first line, or what kind it is."""
    told = str(error).strip().splitlines()
    return told[0].rstrip(".") if told else type(error).__name__
