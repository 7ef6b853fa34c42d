"""Do the tests notice a fault? `python benchmarks/planted_faults.py map|run|more|show [--faults 500] [--seed 0]`.

`map` runs the suite once in a copy of the checkout, under coverage (`pip install coverage`), and records which tests
run which statement, and how long each test takes. `run` plants small faults, one at a time, in such a copy, and runs
the tests that run the statement (or, for code outside functions, that import the file), the ones of the mirrored test
folder first, until one fails. A fault is

- noticed: a test failed, an import failed, or a test took so long that it was stopped;
- a survivor: every test that reaches it passed, or those that fit into `--budget` seconds of processor time did;
- unclear: pytest failed but named no test (it counts as not noticed);
- unreached: no test runs the statement.

`more` goes on with the survivors of which not all tests fitted into the budget, by those that did not run and a budget
of its own.

The faults are drawn with a seed, spread over the folders of configuration, modeling, processing and training in
proportion to the square root of the possible faults there. The kinds: a comparison turned or moved by one (`<` to
`<=`), `and` for `or`, a condition negated, `+` for `-`, `*` for `/`, a number one larger or 2 % larger, `True` for
`False`, a keyword argument left out, a statement left out, a `return` of None, a slice one longer. Error messages, log
lines, annotations and docstrings are left alone. At the end the tests that noticed something run once more without any
fault: a test that fails then proves nothing, and its faults count as survivors.

Results stand in `--folder` (default: build/planted_faults): map.json, one line per fault in faults.jsonl (a second
`run` continues there), and `show` prints the table and the survivors with their lines.
"""

import argparse
import gc
import json
import math
import os
import random
import resource
import signal
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from dataclasses import asdict, fields
from importlib import import_module
from multiprocessing import get_context
from operator import attrgetter
from pathlib import Path
from types import CodeType, FunctionType
from typing import Any

import pytest
from fault_kinds import OUTSIDE, Fault, FaultFinder
from fault_map import QUIET, ROOT, environment, find_statements, make_copy, make_map

PARTS = ("configuration", "modeling", "processing", "training")
CONFTEST_ERROR = "ImportError while loading conftest"
CANNOT_PLANT = 77  # an exit status that pytest does not have
PRELOADED = ("torch", "transformers", "datasets", "PIL.Image")  # once, before the forks; plait is not


def find_faults(root: Path) -> dict[str, list[Fault]]:
    """Returns every possible fault, by folder."""
    found: dict[str, list[Fault]] = defaultdict(list)
    for part in PARTS:
        for file in sorted((root / part).rglob("*.py")):
            path = str(file.relative_to(root))
            found[str(Path(path).parent)] += FaultFinder(path, file.read_bytes()).faults
    return {folder: faults for folder, faults in found.items() if faults}


def draw_faults(root: Path, count: int, seed: int) -> list[Fault]:
    """Draws faults of every folder, in proportion to the square root of the number that is possible there."""
    found = find_faults(root)
    weights = {folder: math.sqrt(len(faults)) for folder, faults in found.items()}
    total, drawn, generator = sum(weights.values()), [], random.Random(seed)
    for folder, faults in sorted(found.items()):
        share = min(len(faults), math.ceil(count * weights[folder] / total))
        drawn += generator.sample(faults, share)
    generator.shuffle(drawn)
    return drawn[:count]


# one fault: planted, tested, taken out


def rank_tests(fault: Fault, known: dict[str, Any]) -> list[str]:
    """Orders the tests that run the fault's statement: one case of every test, then a second case of each, and so on;
    among these those of the mirrored folder first, then those that run few statements: they are about this one. If it
    runs while the file is imported, the other tests that run something of the file follow."""
    entered, seconds, breadth = known["entered"], known["seconds"], known["breadth"]
    statement = f"{fault.path}:{find_statements(ROOT / fault.path)[fault.line]}"
    direct = set(entered.get(statement, [])) if fault.in_function else set()
    early = not fault.in_function or statement in known["at_import"]
    found = direct.union(entered.get(f"{fault.path}:{OUTSIDE}", [])) if early else direct
    file = Path(fault.path)
    beside = (f"tests/{file.parent}/test_{file.stem}", f"tests/{file.parent}/")
    cases: Counter[str] = Counter()
    ranks = {}
    for place in sorted(found, key=lambda place: (seconds.get(known["passed"][place], 0.0), place)):
        test = known["passed"][place]
        rank = next((rank for rank, start in enumerate(beside) if test.startswith(start)), len(beside))
        number = cases[test.partition("[")[0]]
        ranks[test] = (place not in direct, number, rank, breadth[test], seconds.get(test, 0.0))
        cases[test.partition("[")[0]] += 1
    return sorted(ranks, key=lambda test: ranks[test])


def batches(tests: list[str], seconds: dict[str, float], budget: float) -> Iterator[list[str]]:
    """Cuts the tests into a short first batch (most faults fall there) and a second, within the budget altogether."""
    taken, batch, limit = 0.0, [], budget / 6
    for test in tests:
        taken += seconds.get(test, 0.0) + 0.02
        if taken > limit and batch:
            yield batch
            batch, limit = [], budget
            if taken > budget:
                return
        batch.append(test)
    if batch:
        yield batch


def run_tests(tests: list[str], parent: Path, log: Path, limit: float, fault: Fault | None = None) -> int:
    """Runs tests until one fails, in a forked process; returns the exit status of pytest, -1 if it was stopped.

    A fault is planted in the functions that stand in memory, CANNOT_PLANT is returned if there is none; without a
    fault all tests run, with what stands in the files.
    """
    child = os.fork()
    if child == 0:
        resource.setrlimit(resource.RLIMIT_CPU, (int(limit), int(limit) + 5))
        with log.open("w") as file:
            os.dup2(file.fileno(), 1)
            os.dup2(file.fileno(), 2)
        if fault is not None and not plant_in_memory(fault, parent / "plait" / fault.path):
            os._exit(CANNOT_PLANT)
        code = int(pytest.main([*QUIET, *tests]))
        sys.stdout.flush()  # the names of the failed tests may stand in the buffer
        os._exit(code)  # no teardown that could hang
    deadline = time.monotonic() + 6 * limit + 60
    while True:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) if os.WIFEXITED(status) else -1
        if time.monotonic() > deadline:
            os.kill(child, signal.SIGKILL)
        time.sleep(0.02)


def list_codes(code: CodeType) -> Iterator[CodeType]:
    for constant in code.co_consts:
        if isinstance(constant, CodeType):
            yield constant
            yield from list_codes(constant)


def plant_in_memory(fault: Fault, file: Path) -> bool:
    """Gives the functions that stand in memory the code with the fault; False if none of them has it."""
    source = file.read_bytes()
    key = attrgetter("co_qualname", "co_firstlineno")
    texts = (compile(text, str(file), "exec", dont_inherit=True) for text in (source, fault.plant(source)))
    whole, faulty = ({key(code): code for code in list_codes(text)} for text in texts)
    changed = {name: code for name, code in faulty.items() if code != whole.get(name)}
    planted = 0
    for function in [each for each in gc.get_objects() if type(each) is FunctionType]:
        if function.__code__.co_filename == str(file) and key(function.__code__) in changed:
            try:
                function.__code__ = changed[key(function.__code__)]
            except ValueError:  # a closure without one of its variables
                return False
            planted += 1
    return planted > 0


def read_failures(log: Path) -> list[str]:
    lines = log.read_text(errors="replace").splitlines()
    return [line.split(" ", 1)[1].split(" - ")[0] for line in lines if line.startswith(("FAILED ", "ERROR "))]


def try_fault(fault: Fault, tests: list[str], seconds: dict[str, float], parent: Path, budget: float,
              in_memory: bool) -> dict[str, Any]:  # fmt: skip
    """Runs the tests of a fault, batch by batch; returns its outcome."""
    result: dict[str, Any] = {"outcome": "survivor" if tests else "unreached", "tests": len(tests), "run": 0}
    log = parent / "log.txt"
    for batch in batches(tests, seconds, budget):
        limit = 30 + 4 * sum(seconds.get(test, 0.0) for test in batch)
        code = run_tests(["-x", *batch], parent, log, limit, fault if in_memory else None)
        if code == CANNOT_PLANT:
            return {**result, "outcome": "not planted"}
        if code == pytest.ExitCode.USAGE_ERROR and CONFTEST_ERROR in log.read_text(errors="replace"):
            return {**result, "outcome": "noticed", "code": code, "by": ["conftest.py"]}
        if code in (pytest.ExitCode.USAGE_ERROR, pytest.ExitCode.NO_TESTS_COLLECTED) and not read_failures(log):
            raise RuntimeError(f"the tests of the map are not these of the checkout, make it anew:\n{log.read_text()}")
        result["run"] += len(batch)
        if code != 0:
            by = read_failures(log)[:1]
            outcome = "unclear" if code == pytest.ExitCode.TESTS_FAILED and not by else "noticed"
            return {**result, "outcome": outcome, "code": code, "by": by}
    return result


def try_in_file(fault: Fault, number: int, tests: list[str], seconds: dict[str, float], parent: Path,
                budget: float) -> dict[str, Any]:  # fmt: skip
    """The same with the fault in the file, for processes that have not imported plait."""
    file = parent / "plait" / fault.path
    source, stamp = file.read_bytes(), file.stat()
    file.write_bytes(fault.plant(source))
    os.utime(file, (number + 1e6, number + 1e6))  # a compiled file is recognised by its second and size
    try:
        return try_fault(fault, tests, seconds, parent, budget, in_memory=False)
    finally:
        file.write_bytes(source)
        os.utime(file, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))


def work(
    index: int, faults: list[tuple[int, Fault]], folder: Path, budget: float, in_memory: bool, tried: dict[str, int]
) -> None:
    """Tries a worker's share of the faults, in memory or in their files; appends a line for each to faults.jsonl.

    tried: the number of tests that ran before, by the fault's name.
    """
    known = read_map(folder)
    parent = folder / f"copy-{index}"
    enter_copy(parent, in_memory)
    for number, fault in faults:
        start, seconds, before = time.monotonic(), known["seconds"], tried.get(fault.name, 0)
        tests = rank_tests(fault, known)[before:]
        if in_memory:
            result = try_fault(fault, tests, seconds, parent, budget, in_memory=True)
        else:
            result = try_in_file(fault, number, tests, seconds, parent, budget)
        result |= {"tests": result["tests"] + before, "run": result["run"] + before}
        result |= {**asdict(fault), "in_memory": in_memory, "wall": round(time.monotonic() - start, 1)}
        with (folder / "faults.jsonl").open("a") as file:
            file.write(json.dumps(result) + "\n")
        print(f"{result['outcome']:9s} {result['wall']:6.1f} s  {fault.name[:150]}", flush=True)


def read_map(folder: Path) -> dict[str, Any]:
    """Reads map.json, and counts the statements that each test runs (`breadth`)."""
    known = json.loads((folder / "map.json").read_text())
    counts = Counter(place for places in known["entered"].values() for place in places)
    return {**known, "breadth": {test: counts[place] for place, test in enumerate(known["passed"])}}


def enter_copy(parent: Path, collect: bool) -> None:
    """Goes into a new copy of the checkout and imports what every fork needs: the libraries, or plait and all tests."""
    target = make_copy(parent)
    os.chdir(target)
    sys.path.insert(0, str(parent))
    os.environ.update(environment(parent))
    sys.dont_write_bytecode = False  # the tests' own rewritten code is compiled once
    for module in PRELOADED:
        import_module(module)
    if collect:
        with (parent / "log.txt").open("w") as log, redirect_stdout(log):
            pytest.main(["--collect-only", *QUIET])


def check_without_faults(folder: Path) -> None:
    """Runs the tests that noticed something in a copy without a fault; records those that fail."""
    found = {test for result in read_results(folder) for test in result.get("by", [])}
    known = set(json.loads((folder / "map.json").read_text())["passed"])
    tests = sorted(found & known)  # the others are files that could not be imported
    parent = folder / "copy-check"
    enter_copy(parent, collect=False)
    if tests:
        code = run_tests(tests, parent, parent / "log.txt", limit=7200)
        if code not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            raise RuntimeError(f"pytest ended with {code}:\n{(parent / 'log.txt').read_text()}")
        failures = read_failures(parent / "log.txt")
        print(f"without a fault: {len(failures)} of {len(tests)} tests fail")
        (folder / "failing_without_fault.json").write_text(json.dumps(failures))


def start_and_join(target: Callable[..., None], arguments: list[tuple[Any, ...]]) -> None:
    processes = [get_context("spawn").Process(target=target, args=each) for each in arguments]
    for process in processes:
        process.start()
    for process in processes:
        process.join()


def run(folder: Path, count: int, seed: int, workers: int, budget: float) -> None:
    """Tries the faults that faults.jsonl does not have yet, in WORKERS processes: in memory, where plait and the tests
    are imported once, and then, for code that runs at import, in the files."""
    faults = list(enumerate(draw_faults(ROOT, count, seed)))
    early = set(json.loads((folder / "map.json").read_text())["at_import"])
    for in_memory in (True, False):
        settled = {read_fault(r).name for r in read_results(folder) if in_memory or r["outcome"] != "not planted"}
        left = [(number, fault) for number, fault in faults if fault.name not in settled]
        if in_memory:
            left = [(number, fault) for number, fault in left if runs_late(fault, early)]
        print(f"{len(left)} faults to try in {'memory' if in_memory else 'files'}")
        start_and_join(work, [(index, left[index::workers], folder, budget, in_memory, {}) for index in range(workers)])
    start_and_join(check_without_faults, [(folder,)])
    show(folder)


def run_more(folder: Path, workers: int, budget: float) -> None:
    """Goes on with the survivors of which not all tests ran."""
    last = {read_fault(result).name: result for result in read_results(folder)}
    left = [result for result in last.values() if result["outcome"] == "survivor" and result["run"] < result["tests"]]
    tried = {read_fault(result).name: result["run"] for result in left}
    for in_memory in (True, False):
        faults = [(number, read_fault(r)) for number, r in enumerate(left) if r["in_memory"] is in_memory]
        print(f"{len(faults)} survivors to go on with in {'memory' if in_memory else 'files'}", flush=True)
        shares = [(index, faults[index::workers], folder, budget, in_memory, tried) for index in range(workers)]
        start_and_join(work, shares)
    start_and_join(check_without_faults, [(folder,)])
    show(folder)


def runs_late(fault: Fault, early: set[str]) -> bool:
    """Returns whether the fault stands in a function that does not run while plait and the tests are imported."""
    return fault.function != OUTSIDE and fault.in_function and f"{fault.path}:{fault.function}" not in early


def read_fault(result: dict[str, Any]) -> Fault:
    return Fault(**{field.name: result[field.name] for field in fields(Fault)})


def read_results(folder: Path) -> list[dict[str, Any]]:
    file = folder / "faults.jsonl"
    return [json.loads(line) for line in file.read_text().splitlines()] if file.is_file() else []


def show(folder: Path) -> None:
    """Prints noticed / all by part and kind, and every fault that was not noticed."""
    last = {read_fault(result).name: result for result in read_results(folder)}  # in the file after in memory
    results = list(last.values())
    unsound_file = folder / "failing_without_fault.json"
    unsound = set(json.loads(unsound_file.read_text())) if unsound_file.is_file() else set()
    for result in results:
        if unsound & set(result.get("by", [])):
            result["outcome"] = "survivor"
    for title, key in (("part", lambda r: str(Path(r["path"]).parent)), ("kind", lambda r: r["kind"])):
        table: dict[str, Counter[str]] = defaultdict(Counter)
        for result in results:
            table[key(result)][result["outcome"]] += 1
        print(f"\n{title:34s} noticed / planted")
        for name, counts in sorted(table.items()):
            print(f"{name:34s} {counts['noticed']:4d} / {sum(counts.values())}")
    left = [result for result in results if result["outcome"] != "noticed"]
    print(f"\nnoticed {len(results) - len(left)} of {len(results)} ({1 - len(left) / max(len(results), 1):.1%})")
    for r in sorted(left, key=lambda result: (result["path"], result["line"])):
        print(f"{r['outcome']} ({r['tests']} tests) {r['path']}:{r['line']} {r['function']} {r['kind']}:")
        print(f"    {r['before'][:140]}\n    {r['after'][:140]}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("map", "run", "more", "show"))
    parser.add_argument("--folder", type=Path, default=ROOT / "build" / "planted_faults")
    parser.add_argument("--faults", type=int, default=500, help="how many faults to draw")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--budget", type=float, default=45, help="seconds of processor time of the tests of one fault")
    parser.add_argument("--tests", nargs="*", default=[], help="map only these tests")
    arguments = parser.parse_args()
    folder = arguments.folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if arguments.action == "map":
        make_map(folder, arguments.workers, arguments.tests)
    elif arguments.action == "run":
        run(folder, arguments.faults, arguments.seed, arguments.workers, arguments.budget)
    elif arguments.action == "more":
        run_more(folder, arguments.workers, arguments.budget)
    else:
        show(folder)


if __name__ == "__main__":
    main()
