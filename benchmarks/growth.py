"""How time and memory grow: with rows, length, images a row, classes, texts in an index and processes.

    python benchmarks/growth.py [NAME ...] [--only AXIS ...] [--full] [--json FILE] [--plot FILE]

Each size runs in a process of its own, forked after the imports, on one thread: its CPU time, and the peak of its
memory (VmHWM) above what it held when the work began. The exponents are the slopes of a least-squares line through the
logarithms, over the upper half of the sizes: 1 is linear, 0 constant. A case that grows faster than it may (`limits`)
is marked, and the exit status is 1. `--full` adds the largest sizes. Needs Linux and matplotlib.
"""

import argparse
import gc
import json
import os
import resource
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

LEAST = 0.2  # seconds: less is measured several times, and the least counts
REPEATS = 5
SLACK = 0.2  # by which an exponent may be above its limit: larger data leave the caches
NOISE = 2**23  # bytes: less is not told from what Python and the allocator hold
MIB = 2**20


Work = Callable[[], Any]


class Case(NamedTuple):
    """Something that grows.

    axis: what grows; title: what is done; sizes: from the smallest; prepare: from a size and an empty folder to the
    work; limits: the largest exponents of time and memory; more: sizes of `--full`;
    of_children: the memory that counts is that of processes which the work starts.
    """

    axis: str
    title: str
    sizes: tuple[int, ...]
    prepare: Callable[[int, Path], Work]
    limits: tuple[float, float] = (1.0, 1.0)
    more: tuple[int, ...] = ()
    of_children: bool = False


class Point(NamedTuple):
    """What a size costs: seconds of CPU, and bytes at the peak besides those held before."""

    size: int
    seconds: float
    memory: int


def read_status(name: str) -> int:
    """Returns a field of the process's status in bytes: VmRSS or VmHWM."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(f"{name}:")).split()[1]) * 1024


def reset_peak() -> int:
    """Begins a new peak of memory, and returns what is held now in bytes."""
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5")
    return read_status("VmRSS")


def measure_work(size: int, work: Work, of_children: bool = False) -> Point:
    """Runs the work, several times if it is short; of_children: the memory is that of the largest process that it has
    started, with all that it holds."""
    held, started = reset_peak(), count_seconds()
    work()
    seconds = first = count_seconds() - started
    memory = max(read_status("VmHWM") - held, 0)
    if of_children:
        memory = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    for _ in range(REPEATS - 1 if first < LEAST else 0):
        started = count_seconds()
        work()
        seconds = min(seconds, count_seconds() - started)
    return Point(size, seconds, memory)


def count_seconds() -> float:
    """Returns the CPU time of this process and of those that it has started and that have ended."""
    spent = os.times()
    return spent.children_user + spent.children_system + time.process_time()


def run_child(case: Case, size: int, write: int) -> None:
    """Measures a size, writes what is found to a pipe, and ends the process; progress bars are not shown."""
    code, shown = 1, os.dup(2)
    with tempfile.TemporaryDirectory() as folder, Path(folder, "stderr").open("w") as quiet:
        os.dup2(quiet.fileno(), 2)
        try:
            os.write(write, json.dumps(measure_work(size, case.prepare(size, Path(folder)), case.of_children)).encode())
            code = 0
        except BaseException as error:
            os.write(shown, f"{type(error).__name__}: {error}\n".encode())
    os._exit(code)


def measure_point(case: Case, size: int) -> Point:
    """Measures a size in a forked process. Raises SystemExit if that fails."""
    read, write = os.pipe()
    sys.stdout.flush()
    child = os.fork()
    if not child:
        os.close(read)
        run_child(case, size, write)
    os.close(write)
    with os.fdopen(read) as stream:
        content = stream.read()
    os.waitpid(child, 0)
    if not content:
        raise SystemExit(f"{case.title}: {size:,} failed")
    return Point(*json.loads(content))


def fit_exponent(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Fits values = c * size^p by least squares of the logarithms over the upper half of the range; returns p.

    The half begins at the geometric mean of the smallest and the largest size; two sizes at least are used.
    """
    middle = (sizes[0] * sizes[-1]) ** 0.5
    used = [n for n, size in enumerate(sizes) if size >= middle]
    used = used if len(used) > 1 else [len(sizes) - 2, len(sizes) - 1]
    x, y = (np.log([values_[n] for n in used]) for values_ in (sizes, values))
    return float(np.polyfit(x, y, 1)[0])


def fit_memory(points: Sequence[Point]) -> float:
    """Fits the exponent of memory: 0 where the peak is noise."""
    if points[-1].memory < NOISE:
        return 0.0
    return fit_exponent([p.size for p in points], [max(p.memory, NOISE / 8) for p in points])


class Growth(NamedTuple):
    """The points of a case and its fitted exponents."""

    case: Case
    points: list[Point]
    time: float
    memory: float

    @property
    def faults(self) -> list[str]:
        """What grows faster than it may."""
        found = (("time", self.time, self.case.limits[0]), ("memory", self.memory, self.case.limits[1]))
        return [f"{name} {value:.2f} > {limit:g}" for name, value, limit in found if value > limit + SLACK]


def measure_case(case: Case, full: bool) -> Growth:
    """Measures all sizes of a case."""
    points = []
    for size in (*case.sizes, *(case.more if full else ())):
        points.append(measure_point(case, size))
        last = points[-1]
        print(f"  {case.axis} {size:>9,}: {last.seconds:9.4f} s {last.memory / MIB:9.1f} MiB", flush=True)
    return fit_growth(case, points)


def fit_growth(case: Case, points: list[Point]) -> Growth:
    """Fits the exponents of a case."""
    times = fit_exponent([p.size for p in points], [max(p.seconds, 1e-6) for p in points])
    return Growth(case, points, times, fit_memory(points))


def format_seconds(seconds: float) -> str:
    """Returns a time with three digits that count."""
    return f"{seconds:.0f} s" if seconds >= 100 else f"{seconds:.3g} s" if seconds >= 1 else f"{seconds * 1e3:.3g} ms"


def format_table(grown: Iterable[Growth]) -> str:
    """Returns a Markdown table: a row for each case."""
    lines = [
        "| grows | what | sizes | time, smallest and largest | time ~ | memory, smallest and largest | memory ~ |",
        "|---|---|---|---|---|---|---|",
    ]
    for case, points, times, memory in grown:
        first, last = points[0], points[-1]
        sizes = f"{first.size:,} .. {last.size:,}"
        spent = f"{format_seconds(first.seconds)} .. {format_seconds(last.seconds)}"
        held = f"{first.memory / MIB:,.1f} .. {last.memory / MIB:,.1f} MiB"
        lines.append(f"| {case.axis} | {case.title} | {sizes} | {spent} | n^{times:.2f} | {held} | n^{memory:.2f} |")
    return "\n".join(lines)


def draw_plot(grown: Sequence[Growth], file: Path) -> None:
    """Draws time and memory over size, both logarithmic, a column of axes for each thing that grows."""
    from matplotlib.figure import Figure

    axes_names = list(dict.fromkeys(growth.case.axis for growth in grown))
    figure = Figure(figsize=(4.2 * len(axes_names), 7.6), layout="constrained")
    grid = figure.subplots(2, len(axes_names), squeeze=False)
    for column, axis in enumerate(axes_names):
        for growth in (one for one in grown if one.case.axis == axis):
            sizes = [point.size for point in growth.points]
            values = ([p.seconds for p in growth.points], [max(p.memory, MIB / 16) / MIB for p in growth.points])
            for axes, line, slope in zip(grid[:, column], values, (growth.time, growth.memory), strict=True):
                axes.loglog(
                    sizes, line, marker="o", markersize=3, linewidth=1.4, label=f"{growth.case.title} ({slope:.2f})"
                )
        for axes, name in zip(grid[:, column], ("CPU seconds", "MiB at the peak"), strict=True):
            low, high = axes.get_xlim()
            bottom = axes.get_ylim()[0]
            axes.plot([low, high], [bottom, bottom * high / low], color="#b0b0b0", linestyle=":", linewidth=1, zorder=0)
            axes.set(xlabel=axis, ylabel=name)
            axes.legend(frameon=False, fontsize=6)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(file, dpi=110)


def write_json(file: Path, grown: Mapping[str, Growth]) -> None:
    """Writes the figures of cases, by name."""
    content = {}
    for name, (_, points, times, memory) in grown.items():
        slopes = {"time_exponent": round(times, 3), "memory_exponent": round(memory, 3)}
        content[name] = {**slopes, "points": [point._asdict() for point in points]}
    file.write_text(json.dumps(content, indent=1) + "\n")


def read_json(file: Path, cases: Mapping[str, Case]) -> dict[str, Growth]:
    """Reads the figures of an earlier call."""
    content = json.loads(file.read_text()) if file.is_file() else {}
    return {
        name: fit_growth(cases[name], [Point(**point) for point in found["points"]])
        for name, found in content.items()
        if name in cases
    }


def select_cases(cases: dict[str, Case], names: Sequence[str], axes: Sequence[str]) -> dict[str, Case]:
    """Returns the cases of these names and axes, all without any. Raises SystemExit for an unknown one."""
    if names == ["-"]:
        return {}
    known = {case.axis for case in cases.values()}
    unknown = sorted({*names} - {*cases}) + sorted({*axes} - known)
    if unknown:
        raise SystemExit(
            f"there is no {', '.join(unknown)}: cases are {', '.join(cases)}; axes {', '.join(sorted(known))}"
        )
    return {n: case for n, case in cases.items() if not names + axes or n in names or case.axis in axes}


def main() -> int:
    """Measures the cases, and prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", help="cases; all without any, none for -")
    parser.add_argument("--only", nargs="+", default=[], metavar="AXIS", help="what grows: rows, classes, ...")
    parser.add_argument("--full", action="store_true", help="the largest sizes too")
    parser.add_argument("--json", type=Path, help="add the figures to this file; table and plot are of all in it")
    parser.add_argument("--plot", type=Path, help="draw time and memory here (.png)")
    options = parser.parse_args()
    from growth_cases import CASES as FIRST
    from growth_models import CASES as MODELS
    from growth_search import CASES as SEARCH

    cases = {**FIRST, **MODELS, **SEARCH}
    grown = {} if options.json is None else read_json(options.json, cases)
    for name, case in select_cases(cases, options.names, options.only).items():
        print(f"{name}: {case.title}", flush=True)
        grown[name] = measure_case(case, options.full)
        print(f"  time n^{grown[name].time:.2f}, memory n^{grown[name].memory:.2f}", flush=True)
        if options.json:
            write_json(options.json, grown)
    grown = {name: grown[name] for name in cases if name in grown}
    print(format_table(grown.values()))
    if options.plot:
        draw_plot(list(grown.values()), options.plot)
    faults = [f"{growth.case.title}: {', '.join(growth.faults)}" for growth in grown.values() if growth.faults]
    print("\n".join(faults) or "nothing grows faster than it may")
    return 1 if faults else 0


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    sys.exit(main())
