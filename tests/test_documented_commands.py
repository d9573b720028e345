"""Every command that the documentation shows is one that the program takes: commands, options and settings exist."""

from __future__ import annotations

import re
import shlex
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import typer

from patch2tissue.builtin_recipes import recipe
from patch2tissue.cli.app import app
from patch2tissue.config import load_config

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*(ROOT / "docs").rglob("*.md"), *ROOT.glob("*.md")])
PROGRAM = re.compile(r"(?:\.venv/bin/)?patch2tissue ")


def lines_of_commands(text: str) -> list[str]:
    """Lines of fenced blocks that call the program."""
    lines: list[str] = []
    for language, block in re.findall(r"^```(\w*)[^\n]*\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL):
        if language in ("", "bash"):
            lines += block.replace("\\\n", " ").splitlines()
    return [line for line in lines if PROGRAM.match(line)]


def commands_in_text(text: str) -> list[str]:
    """Calls of the program in running text; their arguments may be left out."""
    prose = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    return re.findall(r"`(patch2tissue [a-z-][^`]*)`", prose)


def words_of(line: str) -> list[str]:
    return shlex.split(PROGRAM.sub("", line, count=1), comments=True)


@cache
def program() -> Any:
    return typer.main.get_command(app)


def find_command(words: list[str]) -> tuple[Any, list[str]]:
    """The command that words begin with, and the words after it."""
    command = program()
    general = {name for parameter in command.params for name in parameter.opts}
    while words and words[0] in general and len(words) > 1:
        words = words[1:]
    while words and hasattr(command, "commands") and not words[0].startswith("-"):
        assert words[0] in command.commands, f"there is no command {words[0]}"
        command, words = command.commands[words[0]], words[1:]
    return command, words


PAGES_WITH_COMMANDS = [page for page in PAGES if lines_of_commands(page.read_text(encoding="utf-8"))]


def test_commands_are_found() -> None:
    names = {page.relative_to(ROOT).as_posix() for page in PAGES_WITH_COMMANDS}
    assert {"README.md", "docs/quickstart.md", "docs/slides.md", "docs/tutorials/first-map.md"} <= names


@pytest.mark.parametrize("page", PAGES_WITH_COMMANDS, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_commands_in_blocks_can_be_read_by_the_program(page: Path) -> None:
    for line in lines_of_commands(page.read_text(encoding="utf-8")):
        command, words = find_command(words_of(line))
        assert not hasattr(command, "commands"), f"{line}: names a group of commands"
        try:
            context = command.make_context(command.name, list(words))
        except Exception as error:
            raise AssertionError(f"{line}: {error}") from error
        for setting in context.params.get("settings") or []:
            load_config(recipe("demo"), [setting])


def test_commands_in_text_exist() -> None:
    for page in PAGES:
        for line in commands_in_text(page.read_text(encoding="utf-8")):
            words = [word for word in words_of(line.replace("…", "")) if word not in ("COMMAND",)]
            command, rest = find_command(words)
            known = {"--help"}.union(*((*p.opts, *p.secondary_opts) for p in command.params))
            unknown = [word for word in rest if word.startswith("--") and word not in known]
            assert not unknown, f"{page.name}: `{line}`"


def test_an_option_that_does_not_exist_is_found() -> None:
    command, words = find_command(words_of("patch2tissue predict runs/x a.png --outt maps"))
    with pytest.raises(Exception, match="--outt"):
        command.make_context(command.name, words)


def test_recipes_of_tutorials_are_valid(tmp_path: Path) -> None:
    found = 0
    for page in (ROOT / "docs" / "tutorials").glob("*.md"):
        for name, text in re.findall(r'^```yaml title="([^"]+)"\n(.*?)^```', page.read_text("utf-8"), re.M | re.S):
            (tmp_path / name).write_text(text, encoding="utf-8")
            assert load_config(tmp_path / name).output == Path("runs", Path(name).stem)
            found += 1
    assert found == 2
