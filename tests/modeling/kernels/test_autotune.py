"""What is measured once and remembered: by every process of the machine, and lost by none."""

import json
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from plait.modeling.kernels import autotune
from plait.modeling.kernels.autotune import describe_machine, find_choices_file, recall_choice, select_fastest


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The file of choices, in an empty cache of its own."""
    monkeypatch.setattr(autotune, "_known", {})
    monkeypatch.setattr(autotune, "cached_assets_path", lambda *names: tmp_path.joinpath(*names))
    tmp_path.joinpath("plait", "kernels").mkdir(parents=True)
    find_choices_file.cache_clear()
    file = find_choices_file()
    assert file is not None
    yield file
    find_choices_file.cache_clear()


def forget() -> None:
    """As a new process does."""
    autotune._known.clear()


def fail() -> str:
    raise AssertionError("measured again")


def test_a_choice_is_made_once_for_all_processes(cached: Path) -> None:
    assert recall_choice("a product", lambda: "onednn") == "onednn"
    assert recall_choice("a product", fail) == "onednn"
    forget()
    assert recall_choice("a product", fail) == "onednn"
    assert json.loads(cached.read_text()) == {f"a product, {torch.get_num_threads()} threads": "onednn"}


def test_other_threads_are_another_machine(cached: Path) -> None:
    threads = torch.get_num_threads()
    recall_choice("a product", lambda: "onednn")
    try:
        torch.set_num_threads(threads + 1)
        assert recall_choice("a product", lambda: "torch") == "torch"
    finally:
        torch.set_num_threads(threads)
    assert recall_choice("a product", fail) == "onednn"


def test_of_two_that_measure_at_once_the_first_decides(cached: Path) -> None:
    def measure() -> str:
        known = dict(autotune._known)
        recall_choice("a product", lambda: "of the other process")  # which writes while this one measures
        autotune._known.clear()
        autotune._known.update(known)
        return "mine"

    assert recall_choice("a product", measure) == "of the other process"
    forget()
    assert recall_choice("a product", fail) == "of the other process"


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"a": 1}', "\udcff"])
def test_a_damaged_file_is_measured_and_written_again(cached: Path, damage: str) -> None:
    cached.write_bytes(damage.encode("utf-8", "surrogateescape"))
    assert recall_choice("a product", lambda: "onednn") == "onednn"
    forget()
    assert recall_choice("a product", fail) == "onednn"


def test_without_a_place_to_write_the_choice_holds_in_the_process(
    cached: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*arguments: Any, **options: Any) -> Any:
        raise PermissionError("read-only")

    monkeypatch.setattr(autotune, "FileLock", refuse)
    assert recall_choice("a product", lambda: "onednn") == recall_choice("a product", fail) == "onednn"
    assert not cached.exists()
    monkeypatch.setattr(autotune, "cached_assets_path", refuse)
    find_choices_file.cache_clear()
    assert find_choices_file() is None
    assert recall_choice("another", lambda: "torch") == recall_choice("another", fail) == "torch"


WRITER = """
import sys
from plait.modeling.kernels.autotune import recall_choice
for step in range(20):
    recall_choice(f"product {step} of {sys.argv[1]}", lambda: "onednn")
"""


@pytest.mark.slow
def test_no_choice_of_several_processes_is_lost(tmp_path: Path) -> None:
    environment = {**os.environ, "HF_ASSETS_CACHE": str(tmp_path)}
    commands = [[sys.executable, "-c", WRITER, str(number)] for number in range(3)]
    processes = [subprocess.Popen(command, env=environment) for command in commands]
    assert [process.wait() for process in processes] == [0, 0, 0]
    (file,) = tmp_path.rglob("*.json")
    assert len(json.loads(file.read_text())) == 60


@pytest.mark.parametrize(
    ("seconds", "name"),
    [((1.0, 0.96, 1.0), "b"), ((1.0, 0.98, 0.99), "a"), ((1.0, 0.9, 0.8), "c"), ((1.0, 2.0, 3.0), "a")],
)
def test_another_kernel_must_be_clearly_faster(
    seconds: tuple[float, ...], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first call, which warms up, does not count, and of the others the least. Something else slows most calls."""
    calls = run_on_a_clock(monkeypatch, lambda turn: 0.01 if turn == 0 else 1 if turn in (3, 5) else 5)
    assert (
        select_fastest({each: partial(calls.make, each, cost) for each, cost in zip("abc", seconds, strict=True)})
        == name
    )
    assert calls.made[:4] == ["a", "b", "c", "a"] and len(calls.made) == 18


def test_while_something_else_slows_every_call_the_measurement_goes_on(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = run_on_a_clock(monkeypatch, lambda turn: 20 - turn if turn < 9 else 1)
    assert select_fastest({"a": partial(calls.make, "a", 1.0), "b": partial(calls.make, "b", 0.9)}) == "b"
    assert len(calls.made) == 2 * 11
    never = run_on_a_clock(monkeypatch, lambda turn: 1.1**-turn)
    assert select_fastest({"a": partial(never.make, "a", 1.0), "b": partial(never.make, "b", 0.9)}) == "b"
    assert len(never.made) == 2 * 21


class Calls:
    """Calls that take their cost, times the slowness of their turn, on a clock of their own."""

    def __init__(self, slowness: Callable[[int], float]) -> None:
        self.slowness, self.clock = slowness, 0.0
        self.made: list[str] = []

    def make(self, name: str, cost: float) -> None:
        self.clock += cost * self.slowness(self.made.count(name))
        self.made.append(name)


def run_on_a_clock(monkeypatch: pytest.MonkeyPatch, slowness: Callable[[int], float]) -> Calls:
    calls = Calls(slowness)
    monkeypatch.setattr(autotune.time, "process_time", lambda: calls.clock)
    return calls


def test_a_new_kernel_makes_choices_anew(cached: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(autotune, "KERNELS_VERSION", autotune.KERNELS_VERSION + 1)
    find_choices_file.cache_clear()
    assert find_choices_file() != cached


def test_the_machine_is_its_processor_and_torch() -> None:
    assert torch.__version__ in describe_machine().splitlines()
