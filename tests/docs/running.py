"""Runs the blocks of a page in order: Python in one namespace, commands in one folder, `plait` within this process."""

import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import chdir, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import yaml

from plait.training.cli import main

from .pages import Block

SHIM = '#!/bin/sh\nexec "{python}" -m plait "$@"\n'
QUOTED = re.compile(r"'[^']*'|\"[^\"$`]*\"")
SHELL_SYNTAX = re.compile(r"[|&;$`<*{]|>>|\n")  # left to the shell, and so to a process of its own
SHOWN = {"text", "console", "json", "html", "toml", "ini", "dockerfile", "mermaid"}  # never run
RUN = {"python", "bash", "yaml"}


class Page:
    """The state of a page while it runs: its folder, its names."""

    def __init__(self, folder: Path, tools: Path) -> None:
        self.folder, self.tools = folder, tools
        self.names: dict[str, Any] = {"__name__": "__main__"}

    def run(self, block: Block) -> None:
        """Runs a block, or writes the file that it shows.

        Raises what the block raises, with its place as a note.
        """
        try:
            with chdir(self.folder):
                self.run_here(block)
        except BaseException as error:
            error.add_note(f"in the block of {block.place}:\n{block.text}")
            raise

    def run_here(self, block: Block) -> None:
        if block.title is not None:
            Path(block.title).parent.mkdir(parents=True, exist_ok=True)
            Path(block.title).write_text(f"{block.text}\n", encoding="utf-8")
        elif block.language == "python":
            # the lines of the page, so that a traceback names them
            code = compile("\n" * (block.line - 1) + block.text, block.page, "exec")
            exec(code, self.names)
        elif block.language == "bash":
            for command in split_commands(block.text):
                self.run_command(command)
        elif block.language == "yaml":
            yaml.safe_load(block.text)

    def run_command(self, command: str) -> None:
        words = shlex.split(command, comments=True) if not SHELL_SYNTAX.search(QUOTED.sub("", command)) else []
        if words[:1] == ["plait"]:
            run_plait(words[1:])
            return
        make_shim(self.tools)
        path = f"{self.tools}{os.pathsep}{os.environ['PATH']}"
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, f"{command}\nexit code {done.returncode}\n{done.stdout}\n{done.stderr}"


def run_plait(words: list[str]) -> None:
    """Runs the command line in this process; `> FILE` at the end takes what it prints."""
    output = StringIO()
    target = None
    if len(words) > 2 and words[-2] == ">":
        *words, _, target = words
    with redirect_stdout(output):
        try:
            code = main(words)
        except SystemExit as ended:  # argparse
            code = ended.code
    if target is not None:
        Path(target).write_text(output.getvalue(), encoding="utf-8")
    assert not code, f"plait {shlex.join(words)}\nexit code {code}\n{output.getvalue()}"


def split_commands(text: str) -> Iterator[str]:
    """The commands of a block: a line each, with those that a backslash or a here-document continues."""
    lines = iter(text.splitlines())
    for line in lines:
        if not line.strip() or line.lstrip().startswith("#"):
            continue
        while line.endswith("\\"):
            line = line[:-1] + next(lines).lstrip()
        here = re.search(r"<<-?\s*['\"]?(\w+)", line)
        while here is not None and line.splitlines()[-1].strip() != here[1]:
            line += "\n" + next(lines)
        yield line.strip()


def make_shim(folder: Path) -> None:
    """A `plait` for the commands that the shell runs, of this Python and with the same import path."""
    shim = folder / "plait"
    if not shim.exists():
        folder.mkdir(parents=True, exist_ok=True)
        shim.write_text(SHIM.format(python=sys.executable))
        shim.chmod(0o755)
