"""The keys of a recipe with their meaning, read from the docstrings of the dataclasses, and the recipes that come with
plait with a line each."""

import re
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields
from importlib.resources import files
from inspect import cleandoc
from textwrap import fill, indent
from typing import Any, NamedTuple

ENTRY = re.compile(r"^(?P<names>\w+(?:, \w+)*): (?P<text>.*)$")  # of a docstring: "name, other: what they are"
LIBRARY_ENTRY = re.compile(r"^(?P<names>\w+) \(.*\):$")  # of transformers: "name (`float`, defaults to 1):"
WIDTH = 100  # columns of the printed text


class KeyMeaning(NamedTuple):
    """A key of a recipe's section: its name, the type and the default as text, and what it means ("": not said)."""

    name: str
    type: str
    default: str
    meaning: str


def describe_keys(kind: type) -> list[KeyMeaning]:
    """Returns the fields of a dataclass (of a recipe, settings, or training arguments) in their order, with the meaning
    that its docstring, the field's `help` or the docstring of a class that it inherits from gives."""
    meanings = {name: text for base in reversed(kind.__mro__) for name, text in read_entries(base.__doc__ or "")}
    return [
        KeyMeaning(
            item.name,
            item.type if isinstance(item.type, str) else format_type(item.type),
            format_default(item),
            str(item.metadata.get("help") or meanings.get(item.name, "")),
        )
        for item in fields(kind)
        if item.init
    ]


def read_entries(docstring: str) -> Iterator[tuple[str, str]]:
    """Yields each name that a docstring describes, with its text on one line."""
    names: list[str] = []
    text: list[str] = []
    depth = 0
    for line in [*cleandoc(docstring).splitlines(), "."]:
        stripped, inset = line.strip(), len(line) - len(line.lstrip())
        found = ENTRY.match(stripped) or LIBRARY_ENTRY.match(stripped)
        if names and (not stripped or inset <= depth):
            yield from ((name, " ".join(text)) for name in names)
            names, text = [], []
        if found and not names:
            names, depth = found["names"].split(", "), inset
            text = [found["text"]] if "text" in found.groupdict() else []
        elif names:
            text.append(stripped)


def format_type(kind: Any) -> str:
    """Returns a type as it is written, without the modules of its names."""
    return (
        kind.__name__ if isinstance(kind, type) and not hasattr(kind, "__args__") else re.sub(r"\w+\.", "", str(kind))
    )


def format_default(item: Field) -> str:
    """Returns a field's default as text; "" for one that must be given, or that is a section of its own."""
    if item.default is not MISSING:
        return "null" if item.default is None else str(item.default)
    value = None if item.default_factory is MISSING else item.default_factory()
    return str(value) if isinstance(value, (list, dict)) else ""


def format_keys(section: str, keys: list[KeyMeaning]) -> str:
    """Returns the keys of a section as text for a terminal."""
    lines = [f"{section}:"]
    for key in keys:
        default = f", default {key.default}" if key.default else ""
        lines.append(f"  {key.name}  ({key.type}{default})")
        lines += [indent(fill(key.meaning, WIDTH - 6), " " * 6)] if key.meaning else []
    return "\n".join(lines)


def list_shipped_recipes() -> dict[str, str]:
    """Returns the recipes that come with plait by name, each with the sentence that its file begins with."""
    found = {}
    for file in sorted(files(__package__ or "").iterdir(), key=lambda file: file.name):
        name, _, ending = file.name.rpartition(".")
        if ending == "yaml":
            with file.open(encoding="utf-8") as stream:
                found[name] = stream.readline().removeprefix("#").strip()
    return found
