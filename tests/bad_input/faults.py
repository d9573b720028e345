"""What a fault is, and how a command is given a file that has it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest
import typer

from patch2tissue.cli import app as app_module

Maker = Callable[[Path], object]
"""Makes a bad file, or folder, at a path."""


@dataclass(frozen=True)
class Fault:
    """One way in which a file can be wrong, or strange.

    Attributes:
        kind: what sort of file it is; the documentation counts faults by it.
        name: what is wrong with it.
        file: what the file is called.
        make: writes it.
        says: words that the message must hold beside the file's name; the last ones say what to do.
        accepted: it is strange, but nothing is wrong with it: it must be read.
    """

    kind: str
    name: str
    file: str
    make: Maker
    says: tuple[str, ...] = ()
    accepted: bool = False

    def __str__(self) -> str:
        return self.name.replace(" ", "-")


def content(what: bytes | str) -> Maker:
    """A file of this content."""
    return lambda path: path.write_bytes(what if isinstance(what, bytes) else what.encode("utf-8"))


@dataclass(frozen=True)
class Outcome:
    """How a command ended: exit code, standard output, and all that was said with its lines joined."""

    code: int
    out: str
    said: str


@cache
def _built() -> Callable[..., object]:
    return typer.main.get_command(app_module.app)


class Commands:
    """Runs commands in this process, and looks after what none of them may ever do."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        # building all commands takes longer than most of these calls
        monkeypatch.setattr(app_module, "app", _built())

    def __call__(self, *arguments: object) -> Outcome:
        """Run `patch2tissue ARGUMENTS`; a traceback, or a message that calls it a bug, is a failure of the test."""
        self._capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            app_module.main([str(argument) for argument in arguments])
        out, error = self._capsys.readouterr()
        said = re.sub(r"\s+", " ", out + error)
        assert "Traceback" not in said and "This is a bug" not in said, out + error
        return Outcome(int(ended.value.code or 0), out, said)

    def refuses(self, fault: Fault, path: Path, *arguments: object, code: int = 2) -> Outcome:
        """The command ends with this code, and its message names the file, what is wrong and what to do."""
        outcome = self(*arguments)
        assert outcome.code == code, outcome.said
        for words in (path.name, *fault.says):
            assert re.sub(r"\s+", " ", words) in outcome.said, (words, outcome.said)
        return outcome

    def accepts(self, *arguments: object) -> Outcome:
        """The command ends well."""
        outcome = self(*arguments)
        assert outcome.code == 0, outcome.said
        return outcome


def fingerprint(folder: Path) -> dict[str, str]:
    """What lies in a folder: names, links, and hashes of contents."""
    found = {}
    for place, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = Path(place) / name
            if path.is_symlink():
                found[str(path)] = f"link to {path.readlink()}"
            elif path.is_file():
                found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
            else:
                found[str(path)] = "no file"
    return found


@contextmanager
def unchanged(*folders: Path) -> Iterator[None]:
    """Whatever is done meanwhile, these folders stay as they are."""
    before = [fingerprint(folder) for folder in folders]
    yield
    for folder, known in zip(folders, before, strict=True):
        assert fingerprint(folder) == known
