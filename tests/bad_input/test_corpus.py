"""What docs/reliability.md says of the corpus and of fuzzing is what they are."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

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


def test_figures_of_fuzzing_are_those_that_were_measured() -> None:
    found = json.loads((ROOT / "benchmarks" / "results" / "fuzz.json").read_text(encoding="utf-8"))["figures"]
    assert found["crashes"] == 0 and found["seconds"] >= 600
    for target, counts in found["targets"].items():
        row = f"| {target.replace('_', ' ')} | {counts['executions']:,} | {counts['seconds']} | {counts['crashes']} |"
        assert row in PAGE, row
    assert f"| together | {found['executions']:,} | {found['seconds']} | {found['crashes']} |" in PAGE
