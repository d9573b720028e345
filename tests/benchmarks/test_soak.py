"""The soak must see what goes wrong."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path

import pytest
from benchmarks.soak import RESULTS, ROOT, broken_files, contents, row, soak, table

SLOPPY = """
import sys, time
from pathlib import Path
out = Path(sys.argv[1]); out.mkdir(exist_ok=True)
with (out / "a.json").open("a") as file:
    for part in '[1, 2, 3, 4, 5]':
        file.write(part); file.flush(); time.sleep(0.1)
"""
CAREFUL = """
import os, sys, time
from pathlib import Path
out = Path(sys.argv[1]); out.mkdir(exist_ok=True)
(out / ".a").write_text("[1, 2]"); time.sleep(0.5); os.replace(out / ".a", out / "a.json")
"""


def run(program: str, folder: Path) -> object:
    folder.mkdir()
    return soak("it", folder, lambda out: [[sys.executable, "-c", program, str(out)]], 3, random.Random(0))


def test_half_files_and_other_results_are_seen(tmp_path: Path) -> None:
    sloppy = run(SLOPPY, tmp_path / "sloppy")
    assert sloppy.kills >= 3 and sloppy.broken > 0 and sloppy.different > 0 and not sloppy.good
    careful = run(CAREFUL, tmp_path / "careful")
    assert careful.kills >= 3 and careful.ended > 0 and careful.good


def test_a_command_that_fails_by_itself_is_seen(tmp_path: Path) -> None:
    program = "import sys; from pathlib import Path; out = Path(sys.argv[1]); out.mkdir(exist_ok=True); "
    program += "(out / 'a').write_text('x'); sys.exit((out.parent / 'seen').exists())"
    folder = tmp_path / "failing"
    folder.mkdir()

    def calls(out: Path) -> list[list[str]]:
        (folder / "seen").touch() if (folder / "first").exists() else (folder / "first").touch()
        return [[sys.executable, "-c", program, str(out)]]

    outcome = soak("it", folder, calls, 1, random.Random(0))
    assert outcome.failed > 0 and not outcome.good


@pytest.mark.parametrize("name", ["a.png", "a.npz", "a.npy", "a.json", "a.safetensors", "a.tif", "a.csv"])
def test_files_that_are_cut_off_are_seen(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"PK\x03\x04 cut off")
    (tmp_path / f".{name}").write_bytes(b"on its way")
    assert broken_files(tmp_path) == [tmp_path / name] and list(contents(tmp_path)) == [f".{name}", name]


def test_the_reliability_page_tells_the_committed_counts() -> None:
    plain = json.loads(RESULTS.read_text(encoding="utf-8"))
    page = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")
    assert row(plain) in page and table(plain) in page
    assert sum(one["kills"] for one in plain["commands"]) >= 50 and {one["command"] for one in plain["commands"]} == {
        "train",
        "pseudo-labels",
        "predict",
        "slide predict",
        "label",
    }
    assert all(not one[name] for one in plain["commands"] for name in ("different", "broken", "failed", "lost"))
