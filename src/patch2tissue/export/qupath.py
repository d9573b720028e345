"""A script for QuPath that imports the outlines of `slide predict`, or runs the exported model in QuPath itself."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

SCRIPT_FILE = "patch2tissue.groovy"
"""Its name in a model folder."""


def groovy_string(text: object) -> str:
    r"""A text as a Groovy literal in single quotes, in which nothing is replaced.

    Beyond printable ASCII everything is written as `\uXXXX`. Quotes, backslashes and line ends are not: Groovy before 3
    reads `\u` before it looks for the end of a literal.
    """
    short = {"\\": "\\\\", "'": "\\'", "\n": "\\n", "\r": "\\r", "\t": "\\t"}
    parts = []
    for character in str(text):
        if character in short:
            parts.append(short[character])
        elif " " <= character <= "~":
            parts.append(character)
        else:
            units = character.encode("utf-16-be", "surrogatepass")
            parts += [f"\\u{units[place : place + 2].hex()}" for place in range(0, len(units), 2)]
    return f"'{''.join(parts)}'"


def write_script(folder: Path, description: Mapping[str, Any], model: str | None) -> None:
    """Write the script into a model folder.

    Args:
        folder: the model folder.
        description: see `describe_model`.
        model: name of the TorchScript file in it; None: there is none, and the script says how to get one.
    """
    environment = Environment(
        loader=PackageLoader("patch2tissue.export"),
        autoescape=False,  # Groovy: everything that is inserted is a number or goes through `groovy_string`
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["groovy"] = groovy_string
    tiles = description["not_in_the_graph"]["tiles"]
    text = environment.get_template("qupath.groovy.j2").render(
        tissues=[
            (str(tissue["name"]), *(int(value) for value in tissue["color"]))
            for tissue in description["tissues"]["tissues"]
        ],
        um_per_pixel=description["um_per_pixel"],
        side=int(tiles["side"]),
        padding=int(tiles["side"] * tiles["overlap"] / 2),
        model=model,
    )
    (folder / SCRIPT_FILE).write_text(text, encoding="ascii")
