"""The messages that docs/errors.md explains are those of the sources."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from .pages import ROOT

CHANGING = re.compile(r"\.\.\.|'[^']*'|\b\d+\b|\b[A-Z]{4,}\b|/\S*")  # a value, a name, a path
LAYERS = ("configuration", "modeling", "processing", "training")


def list_messages() -> list[str]:
    """The first cell of every row, without its marks."""
    text = (ROOT / "docs" / "errors.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `([^`]+)`", text, re.MULTILINE)


@cache
def list_strings() -> str:
    """Every string of the sources; where a value is filled in, the string is cut."""
    paths = [path for layer in LAYERS for path in (ROOT / layer).rglob("*.py")]
    return "\n".join(text for path in paths for text in read_strings(path))


def read_strings(path: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.JoinedStr):
            found.append("".join(part.value if isinstance(part, ast.Constant) else "\n" for part in node.values))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str):
            found.append(node.value)
    return found


@pytest.mark.parametrize("message", list_messages())
def test_a_message_is_one_of_the_sources(message: str) -> None:
    pieces = [piece.strip(" :,()") for piece in CHANGING.split(message)]
    pieces = [piece for piece in pieces if len(piece) > 5]
    assert pieces
    assert [piece for piece in pieces if piece not in list_strings()] == []


def test_there_are_messages() -> None:
    assert len(list_messages()) > 15
    assert "no such words in any source" not in list_strings()
