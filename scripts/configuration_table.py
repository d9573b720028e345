"""Write docs/configuration.md from the pydantic models, so that the page cannot say what the program does not do.

Run `python scripts/configuration_table.py` after changing src/patch2tissue/config.py; a test compares the two.
"""

from __future__ import annotations

import typing
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from patch2tissue.config import RunConfig

PAGE = Path(__file__).resolve().parents[1] / "docs" / "configuration.md"

INTRODUCTION = """\
# Configuration

<!-- Written by scripts/configuration_table.py from src/patch2tissue/config.py; do not edit by hand. -->

One YAML file describes a whole run. `output`, `tissues` and `data.path` must be given; everything else has a default.
A field that does not exist is refused, so a typing error cannot pass unseen. The run folder keeps the complete file,
defaults included, as `config.yaml`.

Any field can be changed on the command line, as often as needed:

```bash
patch2tissue train configs/demo.yaml --set craanet.epochs=20 --set pfscnet.dense_energy.weight=0
```

Relative paths are relative to the folder the command runs in. Complete, commented recipes lie in `configs/`.
"""


def sections(annotation: Any) -> list[type[BaseModel]]:
    """Models in a type, looking into unions."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [annotation]
    if typing.get_origin(annotation) in (Union, UnionType):
        return [model for part in typing.get_args(annotation) for model in sections(part)]
    return []


def kind(annotation: Any) -> str:
    """A type as a user understands it."""
    origin, parts = typing.get_origin(annotation), typing.get_args(annotation)
    if origin is Literal:
        return ", ".join(f"`{part}`" for part in parts)
    if origin in (Union, UnionType):
        return " or ".join(dict.fromkeys("null" if part is NoneType else kind(part) for part in parts))
    if origin is Annotated:
        return kind(parts[0])
    if origin is list:
        return f"list of {kind(parts[0])}s"
    if origin is tuple:
        return f"{len(parts)} {kind(parts[0])}s"
    if origin is dict:
        return "mapping"
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return "section"
    names = {int: "integer", float: "number", str: "text", bool: "true or false", Path: "path"}
    return names[annotation]


def limits(field: FieldInfo) -> str:
    """Bounds of a number."""
    signs = {"ge": "≥", "gt": ">", "le": "≤", "lt": "<"}
    found = [
        f"{sign} {getattr(item, name):g}"
        for item in field.metadata
        for name, sign in signs.items()
        if getattr(item, name, None) is not None
    ]
    return f" ({', '.join(found)})" if found else ""


def default(field: FieldInfo) -> str:
    """Default value as it would stand in the YAML file."""
    if field.is_required():
        return "**required**"
    value = field.default
    if value is PydanticUndefined:
        value = field.default_factory() if field.default_factory is not None else None  # type: ignore[call-arg]
    if isinstance(value, BaseModel):
        return "see below"
    if isinstance(value, list | tuple):
        return f"`[{', '.join(f'{item}' for item in value)}]`"
    plain = {None: "null", True: "true", False: "false", "": "''"}
    if isinstance(value, bool) or value is None:
        return f"`{plain[value]}`"
    if isinstance(value, dict):
        return "`{}`" if not value else f"`{value}`"
    return f"`{value:g}`" if isinstance(value, float) else f"`{value}`"


def tables(model: type[BaseModel], path: str = "") -> list[str]:
    """Markdown of a model and, after it, of the sections in it."""
    lines = [f"\n## {f'`{path}`' if path else 'The run'}\n"]
    if model.__doc__:
        lines.append(" ".join(model.__doc__.split()) + "\n")
    lines += ["| field | value | default | meaning |", "|---|---|---|---|"]
    inner: list[str] = []
    for name, field in model.model_fields.items():
        models = sections(field.annotation)
        text = (field.description or "").replace("|", "\\|")
        lines.append(f"| `{name}` | {kind(field.annotation)}{limits(field)} | {default(field)} | {text} |")
        for part in models:
            title = f"{path}.{name}" if path else name
            if len(models) > 1:
                title += f" (kind: {part.model_fields['kind'].default})"
            # The encoder of stage 2 has the fields of that of stage 1.
            if title != "pfscnet.encoder":
                inner += tables(part, title)
    return lines + inner


def page() -> str:
    """The whole page."""
    return INTRODUCTION + "\n".join(tables(RunConfig)) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
