"""The tutorials are run as they stand: files are written, commands and code run in the order of the page.

A block after a comment `<!-- not run: why -->` is shown to readers only.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
TUTORIALS = ROOT / "docs" / "tutorials"


class Block(NamedTuple):
    """A fenced block of a page."""

    language: str
    title: str | None
    text: str
    skipped: bool


def blocks(page: Path) -> list[Block]:
    fence = r'(<!-- not run: [^>]+ -->\n)?^```(\w+)(?: title="([^"]+)")?\n(.*?)^```$'
    found = re.findall(fence, page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    return [Block(language, title or None, text, bool(skip)) for skip, language, title, text in found]


def run_page(name: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """Do what a reader of the page does, in an empty folder; gives the names that its Python code leaves."""
    monkeypatch.chdir(folder)
    program = folder / "bin" / "patch2tissue"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m patch2tissue "$@"\n', encoding="utf-8")
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{program.parent}{os.pathsep}{os.environ['PATH']}", "COLUMNS": "200"}
    names: dict[str, Any] = {}
    for block in blocks(TUTORIALS / name):
        if block.skipped:
            continue
        if block.language == "yaml" and block.title is not None:
            Path(block.title).write_text(block.text, encoding="utf-8")
        elif block.language == "python":
            exec(compile(block.text, name, "exec"), names)
        elif block.language == "bash":
            done = subprocess.run(
                ["bash", "-euo", "pipefail", "-c", block.text], env=environment, capture_output=True, text=True
            )
            assert done.returncode == 0, f"{block.text}\n{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
        else:
            raise AssertionError(f"{name}: a block of {block.language} without a title or a `not run` comment")
    return names


def test_every_tutorial_has_a_test() -> None:
    tested = set(re.findall(r'run_page\("([a-z-]+\.md)"', Path(__file__).read_text(encoding="utf-8")))
    assert tested == {page.name for page in TUTORIALS.glob("*.md")}


@pytest.mark.slow
def test_first_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page("first-map.md", tmp_path, monkeypatch)
    scores = json.loads(Path("runs/first/scores.json").read_text(encoding="utf-8"))
    assert scores["test"]["full_method"]["miou"] > 0.5  # a network that learned nothing has 0.1 to 0.2
    assert len(list(Path("maps").glob("*_mask.png"))) == 16
    assert Path("maps/areas.csv").is_file() and Path("runs/first/report.html").is_file()


@pytest.mark.slow
def test_slides_to_map(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run_page("slides-to-map.md", tmp_path, monkeypatch)
    files = re.findall(r"^\| `(case3[^`]+)` \|", (TUTORIALS / "slides-to-map.md").read_text("utf-8"), re.MULTILINE)
    assert len(files) == 5
    assert all((Path("maps") / file).is_file() for file in files)
    collection = json.loads(Path("maps/case3.geojson").read_text(encoding="utf-8"))
    named = {feature["properties"]["classification"]["name"] for feature in collection["features"]}
    assert {"tumour", "stroma"} <= named


@pytest.mark.slow
def test_own_loop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = run_page("own-loop.md", tmp_path, monkeypatch)
    assert names["right"] > 0.7  # of the pixels with a pseudo label
    assert names["accuracy"] > 0.5
    assert names["prediction"].mask.shape == (192, 192)
    assert names["contrast"].prototypes.initialised.all()
