"""What docs/reliability.md says of the corpus and of fuzzing is what they are."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

from tests.bad_input.bad_texts import BOMB
from tests.bad_input.corpus import CORPUS, GIVEN_TO, table

ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs" / "reliability.md").read_text(encoding="utf-8")


def test_the_table_of_the_page_is_that_of_the_corpus() -> None:
    assert table() in PAGE, "run `python -m tests.bad_input.corpus`, and put what it prints into docs/reliability.md"
    assert {fault.kind for fault in CORPUS} == set(GIVEN_TO)


def test_no_fault_is_counted_twice() -> None:
    assert max(Counter((fault.kind, fault.name) for fault in CORPUS).values()) == 1


def test_a_refusal_says_what_is_wrong() -> None:
    assert [fault.name for fault in CORPUS if not fault.accepted and not fault.says] == []


def test_a_process_of_its_own_does_the_same(data: Path, tmp_path: Path) -> None:
    (tmp_path / "bomb.yaml").write_text(BOMB, encoding="utf-8")
    (data / "train" / os.fsdecode(b"p\xe9[1000].png")).write_bytes(b"")
    for arguments, words in (
        (
            ["check", data, "--tissues", tmp_path / "bomb.yaml"],
            "bomb.yaml: is not readable as YAML: it stands for more than 20000 values",
        ),
        (["check", data, "--tissues", "bcss-wsss"], "its name is not UTF-8 text"),
    ):
        command = [sys.executable, "-m", "patch2tissue", *map(str, arguments)]
        # a terminal of few letters
        done = subprocess.run(
            command, capture_output=True, env={**os.environ, "LC_ALL": "C", "PYTHONIOENCODING": "ascii"}
        )
        error = done.stderr.decode("ascii")
        assert done.returncode == 2 and words in error and "Traceback" not in error, error


def test_figures_of_fuzzing_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text(encoding="utf-8"))["figures"]
    assert found["crashes"] == 0 and found["seconds"] >= 600
    for target, counts in found["targets"].items():
        row = f"| {target.replace('_', ' ')} | {counts['executions']:,} | {counts['seconds']} | {counts['crashes']} |"
        assert row in PAGE, row
    assert f"| together | {found['executions']:,} | {found['seconds']} | {found['crashes']} |" in PAGE
