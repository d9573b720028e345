"""All faults by kind, and the table of them in the documentation: `python -m tests.bad_input.corpus` prints it."""

from __future__ import annotations

from collections import Counter

from tests.bad_input.bad_images import IMAGES, MASKS
from tests.bad_input.bad_links import LINKED, NOT_READ, OUTPUTS
from tests.bad_input.bad_runs import ARRAYS, DATABASES, NETWORKS, RECORDS
from tests.bad_input.bad_slides import MAPS, SLIDES
from tests.bad_input.bad_texts import LISTS, NAMES, RECIPES, SETS, SHAPES, TABLES
from tests.bad_input.faults import Fault

CORPUS: list[Fault] = [
    *(*IMAGES, *MASKS, *NAMES, *TABLES, *RECIPES, *SETS),
    *(*SLIDES, *LISTS, *MAPS, *SHAPES, *NETWORKS, *ARRAYS, *RECORDS, *DATABASES),
    *(*NOT_READ, *LINKED, *OUTPUTS),
]

GIVEN_TO = {
    "images": "`check`, `predict`, `train`, `evaluate`, both pages; some to `patches`",
    "masks": "`check`, `evaluate`, `patches`",
    "label names": "`check`, `train`, `labels import`",
    "tables of labels": "`check`, `train`, `labels import`",
    "recipes": "`train`, `report`; one to every command that takes a run",
    "tissue sets": "`check`, `labels import`, `label`; one to every command that takes a set",
    "slides": "`slide tiles`, `slide predict`",
    "lists of slides": "`slide tiles`, `slide predict`",
    "maps": "`slide evaluate`, the viewer",
    "annotations": "`slide evaluate`, `slide tiles --tissue-mask`",
    "networks": "`predict`, `slide predict`; one to `score`",
    "arrays": "`pseudo-labels`, `report`, the viewer",
    "records": "`report`, `compare`",
    "databases of labels": "`labels status`, `labels export`",
    "links and what is no file": "`check`, `train`, `predict`, both pages",
    "links in results": "`train`, `slide tiles`, `slide predict`, `labels import`",
}
"""Commands that each kind is given to."""


def table() -> str:
    """The table of docs/reliability.md."""
    refused = Counter(fault.kind for fault in CORPUS if not fault.accepted)
    accepted = Counter(fault.kind for fault in CORPUS if fault.accepted)
    lines = ["| what | refused | strange, but read | given to |", "|---|---:|---:|---|"]
    lines += [f"| {kind} | {refused[kind]} | {accepted[kind]} | {commands} |" for kind, commands in GIVEN_TO.items()]
    return "\n".join([*lines, f"| together | {refused.total()} | {accepted.total()} | |"])


if __name__ == "__main__":
    print(table())
