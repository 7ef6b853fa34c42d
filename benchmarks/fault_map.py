"""The map of `planted_faults.py`: copies of the checkout, and which tests enter which functions and statements."""

import ast
import json
import os
import shutil
import subprocess
import sys
from collections import defaultdict
from functools import cache
from pathlib import Path

from fault_kinds import OUTSIDE

ROOT = Path(__file__).resolve().parent.parent
QUIET = ("-p", "no:cacheprovider", "-q", "--no-header", "--tb=line", "-rfE")


def make_copy(folder: Path) -> Path:
    """Copies the tracked files into FOLDER/plait, so that `import plait` means the copy with FOLDER in sys.path."""
    target = folder / "plait"
    shutil.rmtree(folder, ignore_errors=True)
    files = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")
    for file in filter(None, files):
        if (ROOT / file).is_file():
            (target / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / file, target / file)
    return target


def environment(parent: Path) -> dict[str, str]:
    paths = os.pathsep.join(filter(None, [str(parent), os.environ.get("PYTHONPATH", "")]))
    single = {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **single, "PYTHONPATH": paths, "PYTHONDONTWRITEBYTECODE": ""}


def make_map(folder: Path, workers: int, tests: list[str]) -> None:
    """Runs the suite (with TESTS, these files of it again) and writes the tests of each function and statement to
    map.json: lists of places in `passed`."""
    parent, file = folder / "map", folder / "map.json"
    target = make_copy(parent)
    for record in folder.glob("record-*.json"):
        record.unlink()
    shutil.copy2(Path(__file__).with_name("fault_recorder.py"), parent)
    command = [sys.executable, "-m", "pytest", "-n", str(workers), "-p", "fault_recorder", *QUIET, *tests]
    subprocess.run(command, cwd=target, env=environment(parent) | {"PLAIT_RECORDS": str(folder)}, check=False)
    entered: dict[str, set[str]] = defaultdict(set)
    seconds: dict[str, float] = {}
    passed: set[str] = set()
    if tests:
        earlier, existing = json.loads(file.read_text()), list_tests(target, parent)
        passed = {test for test in earlier["passed"] if test in existing and not test.startswith(tuple(tests))}
        seconds = {test: earlier["seconds"][test] for test in passed}
        entered |= {key: {earlier["passed"][at] for at in places} for key, places in earlier["entered"].items()}
        for key in earlier["at_import"]:
            entered[key].add("")
    for record in map(json.loads, (each.read_text() for each in folder.glob("record-*.json"))):
        seconds |= record["seconds"]
        passed |= set(record["passed"])
        for path, lines in record["lines"].items():
            functions, statements = find_functions(target / path), find_statements(target / path)
            for line, names in lines.items():
                keys = {functions.get(int(line)), statements.get(int(line)), OUTSIDE} - {None}
                for key in keys:
                    entered[f"{path}:{key}"] |= set(names)
    places = {test: place for place, test in enumerate(sorted(passed))}
    result = {key: sorted(places[name] for name in names & passed) for key, names in entered.items()}
    at_import = sorted(key for key, names in entered.items() if "" in names)
    file.write_text(json.dumps({"entered": result, "at_import": at_import, "seconds": seconds, "passed": list(places)}))
    print(f"{len(passed)} tests passed, {len(entered)} functions, statements and files entered -> {file}")


def list_tests(target: Path, parent: Path) -> set[str]:
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-p", "no:cacheprovider"]
    found = subprocess.run(command, cwd=target, env=environment(parent), capture_output=True, text=True, check=True)
    return {line for line in found.stdout.splitlines() if "::" in line}


def find_functions(file: Path) -> dict[int, str]:
    """Returns the dotted name of the innermost function of each line of a function's body."""
    names: dict[int, str] = {}

    def walk(node: ast.AST, scope: list[str]) -> None:
        for child in ast.iter_child_nodes(node):
            if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
                inner = [*scope, child.name]
                if not isinstance(child, ast.ClassDef):
                    lines = range(child.body[0].lineno, (child.end_lineno or 0) + 1)
                    names.update(dict.fromkeys(lines, ".".join(inner)))
                walk(child, inner)
            else:
                walk(child, scope)

    walk(ast.parse(file.read_bytes()), [])
    return names


@cache
def find_statements(file: Path) -> dict[int, int]:
    """Returns the first line of the innermost statement of each line; of `if`, `for`, `with`, ... it is that of their
    heads."""
    first: dict[int, int] = {}
    nodes = [node for node in ast.walk(ast.parse(file.read_bytes())) if isinstance(node, ast.stmt)]
    for node in sorted(nodes, key=lambda node: (node.lineno, -(node.end_lineno or 0))):
        first.update(dict.fromkeys(range(node.lineno, (node.end_lineno or 0) + 1), node.lineno))
    return first
