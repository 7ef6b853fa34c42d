"""Reads the pages of the documentation: their fenced blocks, in order.

A block is run unless its fence says otherwise: see CONTRIBUTING.md, "How to write a page".
"""

import re
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[2]
FENCE = re.compile(r"(?P<indent> *)(?P<fence>`{3,})(?P<language>[\w-]*)(?P<rest>[^`]*)")
TITLE = re.compile(r'title="(?P<file>[^"]+)"')


class Block(NamedTuple):
    """A fenced block. page: its file, relative to the root; line: of its first line of text, from 1; title: the file
    that it shows, if it names one."""

    page: str
    line: int
    language: str
    title: str | None
    text: str

    @property
    def place(self) -> str:
        return f"{self.page}:{self.line}"


def list_pages() -> list[str]:
    """The README, and every page of docs/, relative to the root."""
    pages = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").rglob("*.md"))
    return ["README.md", *pages]


def read_blocks(page: str) -> list[Block]:
    """The fenced blocks of a page, indented ones (in lists and tabs) too."""
    return split_blocks(page, (ROOT / page).read_text(encoding="utf-8"))


def split_blocks(page: str, text: str) -> list[Block]:
    blocks, lines = [], text.splitlines()
    number = 0
    while number < len(lines):
        found = FENCE.fullmatch(lines[number])
        number += 1
        if found is None:
            continue
        start, indent = number, len(found["indent"])
        while number < len(lines) and lines[number].strip() != found["fence"]:
            number += 1
        if number == len(lines):
            raise ValueError(f"{page}:{start}: this block is never closed")
        title = TITLE.search(found["rest"])
        content = "\n".join(line[indent:] for line in lines[start:number])
        blocks.append(Block(page, start + 1, found["language"], title and title["file"], content))
        number += 1
    return blocks
