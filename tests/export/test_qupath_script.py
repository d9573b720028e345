"""The script for QuPath, as text: what is inserted cannot become code. It was not run inside QuPath here."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from patch2tissue.export.qupath import SCRIPT_FILE, groovy_string, write_script

SHORT = {"n": "\n", "r": "\r", "t": "\t", "\\": "\\", "'": "'"}


def read_groovy(literal: str) -> str:
    """What a literal in single quotes means in Groovy; fails where it ends early."""
    assert literal[0] == literal[-1] == "'" and literal.isascii() and literal.isprintable()
    body = literal[1:-1]
    assert re.fullmatch(r"(?:[^'\\]|\\[nrt\\']|\\u[0-9a-f]{4})*", body)
    units = re.sub(r"\\(u([0-9a-f]{4})|.)", lambda found: chr(int(found[2], 16)) if found[2] else SHORT[found[1]], body)
    return units.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "surrogatepass")


@given(st.text())
def test_a_literal_means_the_text(text: str) -> None:
    assert read_groovy(groovy_string(text)) == text


@pytest.mark.parametrize("text", ["it's", 'a "b"', "c:\\temp", "${1 + 1}", "\n'); evil() //", "肿瘤 🔬", "\\u0027 x"])
def test_awkward_names_stay_names(text: str) -> None:
    literal = groovy_string(text)
    assert read_groovy(literal) == text
    # Groovy 2 replaces \uXXXX before it reads literals: none of them may be a quote, a backslash or a line end
    unicode_escapes = re.findall(r"(?<!\\)(?:\\\\)*\\u([0-9a-f]{4})", literal)
    assert not {chr(int(code, 16)) for code in unicode_escapes} & set("'\"\\\n\r$")


def description(names: list[str], um_per_pixel: float | None) -> dict[str, Any]:
    return {
        "tissues": {"tissues": [{"name": name, "color": [place, 20, 30]} for place, name in enumerate(names)]},
        "um_per_pixel": um_per_pixel,
        "not_in_the_graph": {"tiles": {"side": 512, "overlap": 0.25}},
    }


def test_the_script_holds_tissues_colours_resolution_and_model(tmp_path: Path) -> None:
    names = ["tumour's edge", "stroma\\", "*/ x"]
    write_script(tmp_path, description(names, 0.62), "torchscript.pt")
    text = (tmp_path / SCRIPT_FILE).read_text(encoding="ascii")
    rows = re.findall(r"^    \[('.*'), (\d+), (\d+), (\d+)\],$", text, re.MULTILINE)
    assert [(read_groovy(name), *map(int, rgb)) for name, *rgb in rows] == [
        (name, place, 20, 30) for place, name in enumerate(names)
    ]
    assert "double UM_PER_PIXEL = 0.62 " in text and "int SIDE = 512 " in text and "int PADDING = 64 " in text
    assert "String MODEL = 'torchscript.pt'" in text
    assert text.count("{") == text.count("}") and text.count("(") == text.count(")")


def test_a_script_without_model_or_resolution_says_so(tmp_path: Path) -> None:
    write_script(tmp_path, description(["a", "b"], None), None)
    text = (tmp_path / SCRIPT_FILE).read_text(encoding="ascii")
    assert "String MODEL = ''" in text and "double UM_PER_PIXEL = 0.0 " in text and "not recorded: set it" in text
