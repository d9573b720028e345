"""The page on the method: each part says where it comes from, and its figures are those that the script draws."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "method.md").read_text(encoding="utf-8")
IMAGES = ROOT / "docs" / "images" / "method"
MARK = re.compile(r"\[((?:published|our reading)\b[^\]\[]*)\]", re.IGNORECASE)
FORM = re.compile(r"(published: [\w &,-]+)?(; )?([Oo]ur reading(: [\w ,-]+)?)?")


def figures_of_the_script() -> set[str]:
    """Keys of `FIGURES` in scripts/draw_method_figures.py, which would import torch."""
    tree = ast.parse((ROOT / "scripts" / "draw_method_figures.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and getattr(node.target, "id", "") == "FIGURES":
            assert isinstance(node.value, ast.Dict)
            return {str(ast.literal_eval(key)) for key in node.value.keys if key is not None}
    raise AssertionError("no FIGURES")


def test_every_figure_is_drawn_shown_and_described() -> None:
    files = {path.stem for path in IMAGES.glob("*.png")}
    shown = dict(re.findall(r"!\[([^\]]*)\]\(images/method/([\w-]+)\.png\)", PAGE))
    assert files == figures_of_the_script() == set(shown.values())
    assert all(len(description) > 30 for description in shown)
    assert sum(path.stat().st_size for path in IMAGES.iterdir()) < 700_000


def test_figures_of_synthetic_tissue_say_so() -> None:
    for part in re.split(r"^!\[", PAGE, flags=re.MULTILINE)[1:]:
        if not part.split("](")[1].startswith("images/method/blending"):  # which shows no tissue
            caption = part.split("\n\n")[1]
            assert caption.startswith("*Synthetic"), caption


def test_every_part_of_the_method_says_where_it_comes_from() -> None:
    parts = re.findall(r"^### (.+)$", PAGE, flags=re.MULTILINE)
    assert len(parts) > 15
    assert [part for part in parts if not MARK.search(part)] == []


def test_marks_have_one_form_and_known_sources() -> None:
    known = set(re.findall(r"^    \| ([\w ]+) \|", PAGE, flags=re.MULTILINE)) | {"SOURCE"}
    assert "CSRA" in known
    marks = MARK.findall(PAGE)
    assert [mark for mark in marks if not FORM.fullmatch(mark)] == []
    for mark in marks:
        if mark.startswith("published"):
            sources = mark.split(";")[0].removeprefix("published: ").split(", ")
            assert set(sources) <= known, mark
