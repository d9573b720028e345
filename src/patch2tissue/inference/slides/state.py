"""What is known on disk of a slide under way: how far it is, with which settings, and who works on it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from patch2tissue.atomic import write_text
from patch2tissue.errors import DataError
from patch2tissue.plain_files import read_json


class SlideBusyError(DataError):
    """Another process works on the slide."""


@dataclass
class SlideState:
    """Progress of one slide, kept as JSON.

    Attributes:
        settings: everything that the map depends on; a map begun with other settings is begun anew.
        status: `running`, `done` or `failed`.
        rows_done: tile rows whose part of the map is on disk.
        rows: tile rows in all.
        error: why it failed.
        result: of a slide that is done, what was measured and written.
    """

    settings: dict[str, Any]
    status: str = "running"
    rows_done: int = 0
    rows: int = 0
    error: str | None = None
    result: dict[str, Any] = field(default_factory=dict)

    def save(self, path: Path) -> None:
        """Write it atomically."""
        write_text(path, json.dumps(asdict(self), indent=2) + "\n")


def load_state(path: Path, settings: dict[str, Any]) -> SlideState | None:
    """The state that an earlier call with the same settings left; None if there is none that is readable."""
    try:
        plain = read_json(path)
        state = SlideState(**plain)
    except (OSError, ValueError, TypeError):
        return None
    return state if state.settings == json.loads(json.dumps(settings)) else None


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a slide's folder; the system lets go of it when the process ends, however it ends.

    Raises:
        SlideBusyError: if another process holds it.
    """
    folder.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(folder / "lock", timeout=0):
            yield
    except Timeout:
        raise SlideBusyError(f"{folder.name}: another process works on this slide.") from None


def file_identity(path: Path) -> dict[str, Any]:
    """What tells whether a large file has changed: its place, size and time of change."""
    found = path.stat()
    return {"path": str(path.resolve()), "bytes": found.st_size, "changed": found.st_mtime_ns}
