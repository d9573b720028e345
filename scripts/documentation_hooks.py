"""What mkdocs.yml hooks into the build of the documentation; everything is made then, so that the site needs no server.

- ```` ```math ```` fences hold LaTeX, which GitHub draws too; here they become MathML.
- Marks such as `[our reading]` and `[published: OAA; our reading: storage]` become coloured labels on
  pages that say `marks: true` and in the reference of the Python API.
- `<!-- include: ../CHANGELOG.md -->` is replaced by that file, its links set right.
- `<!-- commands -->` is replaced by what the command line says of itself.
"""

from __future__ import annotations

import html
import re
from pathlib import Path
from typing import Any

from latex2mathml.converter import convert

ROOT = Path(__file__).resolve().parents[1]
MARK = re.compile(r"\[((?:published|our reading)\b[^\]\[]*)\]", re.IGNORECASE)
"""A mark, and what it says: who published, or whether the part is off by default."""
_INCLUDE = re.compile(r"<!-- include: \.\./([A-Z]+\.md) -->")
_COMMANDS = "<!-- commands -->"


def on_config(config: Any) -> Any:
    """Teach the Markdown extensions formulas, and anchors without marks."""
    fences = config.mdx_configs.setdefault("pymdownx.superfences", {})
    fences["custom_fences"] = [{"name": "math", "class": "formula", "format": formula}]
    slugify = config.mdx_configs["toc"].get("slugify") or _plain_slug
    config.mdx_configs["toc"]["slugify"] = lambda text, separator: slugify(MARK.sub("", text).strip(), separator)
    return config


def _plain_slug(text: str, separator: str) -> str:
    from markdown.extensions.toc import slugify

    return str(slugify(text, separator))


def formula(source: str, *_: Any, **__: Any) -> str:
    """LaTeX as MathML, for a fence of its own."""
    return f'<div class="formula">{convert(source.strip(), display="block")}</div>'


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Put in what is kept elsewhere."""
    markdown = _INCLUDE.sub(lambda found: included(found[1]), markdown)
    if _COMMANDS in markdown:
        markdown = markdown.replace(_COMMANDS, commands())
    return markdown


def included(name: str) -> str:
    """A file of the checkout's root, without its title; links go to pages, or are left out where there is none."""
    text = (ROOT / name).read_text(encoding="utf-8")
    text = re.sub(r"\A# .*\n", "", text)
    text = text.replace("](docs/", "](")
    for file in ("CHANGELOG", "CONTRIBUTING", "SECURITY"):
        text = text.replace(f"]({file}.md", f"]({file.lower()}.md")
    return text.replace("](CITATION.cff)", "](citing.md)")


def on_page_content(content: str, page: Any, **_: Any) -> str:
    """Colour the marks of a page that has them, and of docstrings; the table of contents does without."""
    if not page.meta.get("marks") and not page.file.src_uri.startswith("api/"):
        return content
    _unmark(page.toc.items)
    return MARK.sub(lambda found: " ".join(map(label, found[1].split("; "))), content)


def label(text: str) -> str:
    """One part of a mark as a coloured label."""
    kind = "published" if text.lower().startswith("published") else "reading"
    text = text[0].lower() + text[1:]
    return f'<span class="mark mark--{kind}">{text}</span>'


def _unmark(items: Any) -> None:
    for item in items:
        item.title = MARK.sub("", item.title).strip()
        _unmark(item.children)


def commands() -> str:
    """Reference of the command line: help, arguments and options of each command, as Markdown."""
    import typer

    from patch2tissue.cli.app import app

    return "\n".join(_command(typer.main.get_command(app), ["patch2tissue"]))


def _command(command: Any, words: list[str]) -> list[str]:
    children = getattr(command, "commands", {})
    lines = (
        [] if len(words) == 1 else [f"{'#' * len(words)} {' '.join(words)}", "", _paragraphs(command.help or ""), ""]
    )
    if not children:
        arguments = [p for p in command.params if p.param_type_name == "argument"]
        options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
        usage = " ".join([*words, *(["[OPTIONS]"] if options else []), *map(_placeholder, arguments)])
        lines += ["```text", usage, "```", ""]
        if arguments or options:
            lines += ["| | | default |", "|---|---|---|"]
            lines += [_row(f"`{_name(p)}`", p) for p in arguments]
            lines += [_row(_names(p), p) for p in options]
            lines.append("")
    for name, child in children.items():
        lines += _command(child, [*words, name])
    return lines


def _paragraphs(text: str) -> str:
    return "\n".join(line.strip() for line in text.strip().splitlines()).replace("\f", "")


def _name(parameter: Any) -> str:
    return str(parameter.metavar or parameter.name.upper())


def _names(option: Any) -> str:
    value = f" {option.metavar}" if option.metavar else ""
    return " ".join(f"`{name}{value}`" for name in (*option.opts, *option.secondary_opts))


def _placeholder(parameter: Any) -> str:
    name = _name(parameter) + ("..." if parameter.nargs == -1 else "")
    return name if parameter.required else f"[{name}]"


def _row(names: str, parameter: Any) -> str:
    return f"| {names} | {_cell(parameter.help or '')} | {'required' if parameter.required else _default(parameter)} |"


def _default(parameter: Any) -> str:
    value = parameter.default
    if getattr(parameter, "is_bool_flag", False):
        value = (parameter.opts if value else [*parameter.secondary_opts, None])[0] if value is not None else None
    return "" if value is None or callable(value) else f"`{getattr(value, 'value', value)}`"


def _cell(text: str) -> str:
    return html.escape(" ".join(text.split()), quote=False).replace("|", "\\|")
