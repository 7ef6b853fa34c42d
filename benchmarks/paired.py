"""Two programs measured in turns: figures of each side, the ratios of their pairs, and the table of them."""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple


class Spent(NamedTuple):
    """What one run of a side took: wall and CPU time in seconds, and the most memory in MiB if it had a process."""

    wall: float
    cpu: float
    memory: float | None = None


class Row(NamedTuple):
    """A line of the table: ratios are peer / plait, so that above 1 plait takes less."""

    case: str
    peer: str
    plait: list[Spent]
    peers: list[Spent]
    bar: float
    same: str
    note: str = ""

    def compute_ratios(self, field: str) -> list[float]:
        """Returns the first quartile, median and third quartile of the paired ratios of a field of `Spent`."""
        pairs = zip(self.plait, self.peers, strict=True)
        return quartiles([getattr(peer, field) / getattr(ours, field) for ours, peer in pairs])


def quartiles(values: list[float]) -> list[float]:
    """Returns the first quartile, the median and the third quartile; of one value, three times that value."""
    return statistics.quantiles(values, n=4, method="inclusive") if len(values) > 1 else values * 3


def spend(call: Callable[[], object]) -> Spent:
    """Runs a call and returns what it took."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return Spent(time.perf_counter() - wall, time.process_time() - cpu)


def measure_turns(title: str, sides: dict[str, Callable[[], Spent]], rounds: int) -> dict[str, list[Spent]]:
    """Measures all sides once in each round; every second round has them in the opposite order."""
    found: dict[str, list[Spent]] = {name: [] for name in sides}
    for number in range(rounds):
        for name in sides if number % 2 == 0 else reversed(sides):
            found[name].append(sides[name]())
            said = f"  {title}, round {number + 1}/{rounds}: {name} {describe_spent(found[name][-1])}"
            print(said, file=sys.stderr, flush=True)
    return found


def measure_pairs(
    title: str, plait: Callable[[], Spent], peer: Callable[[], Spent], rounds: int
) -> tuple[list[Spent], list[Spent]]:
    """Measures both sides alternately."""
    found = measure_turns(title, {"plait": plait, "peer": peer}, rounds)
    return found["plait"], found["peer"]


def describe_spent(spent: Spent) -> str:
    memory = "" if spent.memory is None else f", {spent.memory:.0f} MiB"
    return f"{spent.wall:.2f} s ({spent.cpu:.2f} s of CPU{memory})"


def describe_ratio(row: Row, field: str) -> str:
    low, middle, high = row.compute_ratios(field)
    return f"{middle:.2f} ({low:.2f} .. {high:.2f})"


def median_of(spent: list[Spent], field: str) -> float:
    return statistics.median(getattr(one, field) for one in spent)


def write_table(rows: list[Row]) -> str:
    """Writes the rows as a table in Markdown."""
    lines = [
        "| case | peer | plait s | peer s | CPU time | wall time | memory | bar | outputs |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        memory = "" if row.plait[0].memory is None else describe_ratio(row, "memory")
        cells = [
            row.case,
            row.peer,
            f"{median_of(row.plait, 'wall'):.2f}",
            f"{median_of(row.peers, 'wall'):.2f}",
            describe_ratio(row, "cpu"),
            describe_ratio(row, "wall"),
            memory,
            f"{row.bar:.2f}",
            row.same,
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def as_data(row: Row) -> dict[str, Any]:
    """Returns a row as plain values for JSON."""
    fields = ["cpu", "wall"] + ["memory"] * (row.plait[0].memory is not None)
    ratios = {field: [round(ratio, 3) for ratio in row.compute_ratios(field)] for field in fields}
    spent = {
        side: [[None if v is None else round(v, 3) for v in one] for one in getattr(row, side)]
        for side in ("plait", "peers")
    }
    return {**row._asdict(), **spent, "ratios": ratios}


def write_results(rows: list[Row], machine: str, folder: Path) -> None:
    """Writes end_to_end.json and end_to_end.table.md into a folder."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "end_to_end.json").write_text(
        json.dumps({"machine": machine, "rows": [*map(as_data, rows)]}, indent=1) + "\n"
    )
    (folder / "end_to_end.table.md").write_text(write_table(rows))
