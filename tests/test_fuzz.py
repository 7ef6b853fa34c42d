"""A small part of benchmarks/fuzz.py: random inputs, damaged folders and recipes end in a result or in words."""

import random
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"
GOOD = ("result", "refused", "seen by check")
COUNTS = {"inputs": 100, "folders": 10, "recipes": 15}


@pytest.fixture(scope="module")
def fuzzer() -> Any:
    """The module benchmarks/fuzz.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return import_module("fuzz")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.fixture(scope="module")
def base(fuzzer: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a model, its processor and a recipe."""
    folder = tmp_path_factory.mktemp("base") / "base"
    fuzzer.make_folder(folder)
    return folder


@pytest.mark.parametrize("name", COUNTS)
def test_bad_input_is_refused_in_words(name: str, fuzzer: Any, base: Path, tmp_path: Path) -> None:
    case, kinds = fuzzer.CASES[name](base), set()
    for number in range(COUNTS[name]):
        draw = random.Random(f"{name} test {number}")
        outcome = fuzzer.judge(lambda draw=draw: case(draw, tmp_path))
        assert outcome.kind in GOOD, (number, outcome)
        kinds.add(outcome.kind)
    assert len(kinds) > 1  # good ones are among them


def test_a_fault_would_be_noticed(fuzzer: Any, base: Path, tmp_path: Path) -> None:
    """Errors of other kinds, errors of others, and folders whose changes no checksum shows."""
    assert fuzzer.judge(lambda: [][1]).kind == "crash"
    assert fuzzer.judge(lambda: int("x")).kind == "foreign"
    case = fuzzer.FolderCase(base)
    case.expected = ["other"]
    draws = (random.Random(number) for number in range(40))
    assert "silently wrong" in {fuzzer.judge(lambda draw=draw: case(draw, tmp_path)).kind for draw in draws}
