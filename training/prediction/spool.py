"""The answers of each process, kept in a file until all rows are answered."""

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..storage.atomic import UNFINISHED


class Spool:
    """A file of answers, one a line, beside the output: process `rank` writes its own, the first reads all."""

    def __init__(self, output: Path, rank: int) -> None:
        self.path = output.with_name(f".{output.name}.answers-{rank}{UNFINISHED}")

    def write(self, answers: Iterator[Mapping[str, Any]]) -> int:
        """Writes answers as they come, and returns their number."""
        with self.path.open("w", encoding="utf-8") as file:
            return sum(1 for answer in answers if file.write(json.dumps(answer, ensure_ascii=False) + "\n"))

    def read(self) -> Iterator[dict[str, Any]]:
        """Yields the answers."""
        with self.path.open(encoding="utf-8") as file:
            for line in file:
                yield json.loads(line)

    def remove(self) -> None:
        """Removes the file, if it is there."""
        self.path.unlink(missing_ok=True)


def read_answers(spools: Sequence[Spool]) -> Iterator[dict[str, Any]]:
    """Yields the answers of all processes, in the order of the rows."""
    for spool in spools:
        yield from spool.read()


def list_answer_names(spools: Sequence[Spool]) -> list[str]:
    """Returns the parts that answers have, in the order in which they come."""
    names: dict[str, None] = {}
    for answer in read_answers(spools):
        names |= dict.fromkeys(answer)
    return list(names)
