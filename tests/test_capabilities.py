"""The matrix of capabilities: two kinds of model in every one, and that a fault is seen."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def matrix() -> Any:
    """The module benchmarks/capabilities.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return import_module("capabilities")
    finally:
        sys.path.remove(str(BENCHMARKS))


def test_a_fault_is_seen(matrix: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An error that is no refusal, an unknown refusal, a refusal that is none any more."""
    outcomes = sys.modules["capability_outcomes"]

    def refuse() -> None:
        raise outcomes.NotApplicableError("it has no images")

    def fail() -> None:
        raise ValueError("other numbers")

    assert outcomes.run_cell(refuse, None) == (outcomes.OTHER, "it has no images", "")
    assert outcomes.run_cell(lambda: None, None).kind == outcomes.YES
    assert outcomes.run_cell(lambda: None, "cannot").kind == outcomes.FAILED
    assert outcomes.run_cell(fail, None)[:2] == (outcomes.FAILED, "ValueError: other numbers")
    assert outcomes.run_cell(fail, "other numbers").kind == outcomes.FAILED  # not raised by plait
    monkeypatch.setitem(matrix.CAPABILITIES, "saved", ("saved", lambda case: fail()))
    cells = matrix.run_cells(["bert"], ["saved"], tmp_path, trace=False)
    assert cells["saved", "bert"].kind == outcomes.FAILED


def test_the_page_holds_every_cell(matrix: Any) -> None:
    """The committed page is that of the matrix as it is: its capabilities, its kinds, its refusals."""
    page = (BENCHMARKS.parent / "docs" / "results" / "capabilities.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| ")]
    assert rows[0] == f"| | {' | '.join(matrix.NAMES)} |"
    assert [row.split(" | ")[0].removeprefix("| ") for row in rows[1:]] == [
        title for title, _ in matrix.CAPABILITIES.values()
    ]
    assert "FAILED" not in page and all(message in page for message in matrix.REFUSED.values())


@pytest.mark.slow
@pytest.mark.parametrize("shape", ["early", "captioner"])
def test_every_capability_of_two_kinds(shape: str, matrix: Any, tmp_path: Path) -> None:
    for package in ("onnxruntime", "peft", "torchao"):
        pytest.importorskip(package)
    cells = matrix.run_cells([shape], list(matrix.CAPABILITIES), tmp_path, trace=True)
    assert not {name: cell.reason for name, cell in cells.items() if cell.kind == "FAILED"}
