"""The benchmark of growth: exponents are those of the points, and what grows too fast is told."""

import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def growth() -> Any:
    """The module benchmarks/growth.py."""
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return import_module("growth")
    finally:
        sys.path.remove(str(BENCHMARKS))


@pytest.mark.parametrize("power", [0.0, 1.0, 2.0])
def test_the_exponent_is_that_of_the_upper_half(growth: Any, power: float) -> None:
    """A constant share at the small sizes does not lower it."""
    sizes = [1e1, 1e2, 1e3, 1e4, 1e5]
    assert growth.fit_exponent(sizes, [max(3 * size**power, 1e3**power) for size in sizes]) == pytest.approx(power)


@pytest.mark.slow
def test_a_size_is_measured_in_a_process_of_its_own(growth: Any, tmp_path: Path) -> None:
    """Memory is that of the work alone: what is held before does not count, nor what another size has held."""

    def prepare(size: int, folder: Path) -> Any:
        assert not any(folder.glob("*.npy"))
        np.save(folder / "kept.npy", np.zeros(3))
        held = np.ones(2**22)
        return lambda: np.ones(size * 2**17).sum() + held[0]

    case = growth.Case("rows", "an array", (8, 32, 64), prepare, (0.0, 0.0))
    points = [growth.measure_point(case, size) for size in case.sizes]
    for point in points:
        assert point.memory / growth.MIB == pytest.approx(point.size, abs=4)
    grown = growth.fit_growth(case, points)
    assert grown.memory == pytest.approx(1, abs=0.1) and "memory" in " ".join(grown.faults)


@pytest.mark.slow
def test_small_sizes_of_every_case(growth: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    for module in ("growth_cases", "growth_models", "growth_search"):
        for case in import_module(module).CASES.values():
            assert growth.measure_point(case, case.sizes[0]).seconds > 0
