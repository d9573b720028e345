"""YAML that a user wrote: plain values, bounded in size, in depth, and in what its anchors repeat."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from patch2tissue.errors import ConfigError

LARGEST_FILE = 2**18
"""Most bytes of a YAML file; the longest recipe of ours has 6 kB."""

MOST_VALUES = 20_000
"""Most values of a file, counted as often as aliases repeat them: nine lines of anchors can stand for a billion."""

DEEPEST = 32
"""Most levels of lists and mappings inside each other."""


class _Loader(yaml.SafeLoader):
    """Refuses keys that occur twice, of which YAML libraries keep the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value if isinstance(node, yaml.MappingNode) else ():
            if not isinstance(key, yaml.ScalarNode) or key.tag == "tag:yaml.org,2002:merge":
                continue
            if (key.tag, key.value) in seen:
                raise yaml.constructor.ConstructorError(None, None, f"'{key.value}' is there twice", key.start_mark)
            seen.add((key.tag, key.value))
        return super().construct_mapping(node, deep)


def parse_yaml(text: str) -> Any:
    """Read one YAML document of plain values: no objects, no text that cannot be written as UTF-8.

    Args:
        text: the document.

    Returns:
        None, bool, int, float, str, date, list or dict.

    Raises:
        ValueError: if it is no such document, or exceeds one of the limits of this module; the text says why.
    """
    try:
        _check_events(text)
        loader = _Loader(text)
        try:
            return loader.get_single_data()
        finally:
            loader.dispose()
    except yaml.YAMLError as error:
        raise ValueError(_reason(error)) from None
    except _LimitError as error:
        raise ValueError(str(error)) from None
    except Exception as error:  # constructors of tagged values raise every kind, `!!int ""` an IndexError
        told = str(error).splitlines()
        raise ValueError(f"a value is not of the form that it seems to have ({told[0] if told else error!r})") from None


class _LimitError(Exception):
    """A limit of this module is exceeded."""


def _check_events(text: str) -> None:
    """Count values before anything is made of them; aliases count as all that they repeat."""
    if len(text) > LARGEST_FILE:
        raise _LimitError(f"it has more than {LARGEST_FILE // 1024} kB")
    sizes: dict[str, int] = {}
    # of each open collection its anchor, and how many values there were before it
    opened: list[tuple[str | None, int]] = []
    values = 0
    for event in yaml.parse(text, Loader=yaml.SafeLoader):
        if isinstance(event, yaml.AliasEvent):
            if event.anchor not in sizes:
                held = any(anchor == event.anchor for anchor, _ in opened)
                raise _LimitError(f"the anchor '{event.anchor}' {'holds itself' if held else 'is not defined'}")
            values += sizes[event.anchor]
        elif isinstance(event, yaml.ScalarEvent):
            if event.tag == "tag:yaml.org,2002:binary":
                raise _LimitError("it holds binary data")
            _check_text(event.value)
            values += 1
            if event.anchor is not None:
                sizes[event.anchor] = 1
        elif isinstance(event, yaml.CollectionStartEvent):
            opened.append((event.anchor, values))
            values += 1
            if event.anchor is not None:
                sizes.pop(event.anchor, None)
            if len(opened) > DEEPEST:
                raise _LimitError(f"it has more than {DEEPEST} levels of lists and mappings")
        elif isinstance(event, yaml.CollectionEndEvent):
            anchor, before = opened.pop()
            if anchor is not None:
                sizes[anchor] = values - before
        if values > MOST_VALUES:
            raise _LimitError(f"it stands for more than {MOST_VALUES} values; write them out without anchors")


def _check_text(value: str) -> None:
    if "\0" in value:
        raise _LimitError("a text in it holds a NUL character")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError:
        raise _LimitError("a text in it holds half a character (a lone surrogate)") from None


def _reason(error: yaml.YAMLError) -> str:
    """One line: what is wrong, and where."""
    mark = getattr(error, "problem_mark", None)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    return str(problem) if mark is None else f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def read_yaml(path: Path, what: str, keys: str) -> dict[Any, Any]:
    """Read a YAML file that holds a mapping.

    Args:
        path: the file.
        what: what it is, for messages, with an article.
        keys: which keys it has at least, for messages.

    Raises:
        ConfigError: naming the file, if it cannot be read, is no such YAML, or holds something else.
    """
    try:
        if Path(path).stat().st_size > LARGEST_FILE:
            raise ConfigError(f"{path}: has more than {LARGEST_FILE // 1024} kB, which {what} never has.")
        text = Path(path).read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror or error}. Name {what}, a YAML file.") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not UTF-8 text. Save it as UTF-8, in a text editor.") from None
    try:
        plain = parse_yaml(text)
    except ValueError as error:
        raise ConfigError(f"{path}: is not readable as YAML: {error}. Compare it with a recipe in configs/.") from None
    if not isinstance(plain, dict):
        raise ConfigError(f"{path}: is not {what}, which is a mapping with the keys {keys}.")
    return plain
