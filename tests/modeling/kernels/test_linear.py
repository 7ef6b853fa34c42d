"""Products in shapes that torch's own choice serves badly: the same numbers, whatever the number of rows."""

import pytest
import torch
from torch.nn import functional as F

from plait.modeling.kernels.linear import (
    FEW_ROWS,
    LARGE_WEIGHT,
    WIDE_OUTPUT,
    few_rows_linear,
    has_linear_kernel,
    linear,
)

SHAPES = {"small": (64, 64), "large": (1024, 512), "wide": (WIDE_OUTPUT, 64)}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 1), (FEW_ROWS,), (FEW_ROWS + 1,), (3, 20), (0,)])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_product_is_the_product(shape: str, rows: tuple[int, ...], bias: bool) -> None:
    generator = torch.Generator().manual_seed(0)
    outputs, width = SHAPES[shape]
    weight = torch.randn(outputs, width, generator=generator)
    shift = torch.randn(outputs, generator=generator) if bias else None
    x = torch.randn(*rows, width, generator=generator)
    with torch.inference_mode():
        found = linear(x, weight, shift)
    expected = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    assert found.shape == expected.shape and found.is_contiguous()
    torch.testing.assert_close(found.double(), expected, atol=1e-4, rtol=1e-5)


def test_shapes_reach_every_kernel() -> None:
    sizes = {name: outputs * width for name, (outputs, width) in SHAPES.items()}
    assert sizes["small"] < LARGE_WEIGHT <= min(sizes["large"], sizes["wide"])
    assert SHAPES["large"][0] < WIDE_OUTPUT <= SHAPES["wide"][0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float64])
def test_other_types_are_left_to_torch(dtype: torch.dtype) -> None:
    x, weight = torch.randn(4, 512).to(dtype), torch.randn(1024, 512).to(dtype)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize("rows", [4, 20])
@pytest.mark.parametrize("outputs", [1024, WIDE_OUTPUT])
def test_autocast_is_honoured(outputs: int, rows: int) -> None:
    x, weight = torch.randn(rows, 512), torch.randn(outputs, 512)
    with torch.inference_mode(), torch.autocast("cpu", torch.bfloat16):
        for given in (x, x.bfloat16()):
            assert torch.equal(linear(given, weight), F.linear(given, weight))


@pytest.mark.parametrize(
    ("shape", "dtype", "served"),
    [((512, 512), torch.float32, True), ((512, 511), torch.float32, False), ((512, 512), torch.bfloat16, False),
     ((512, 512), torch.float64, False)],
)  # fmt: skip
def test_only_large_weights_have_kernels(shape: tuple[int, int], dtype: torch.dtype, served: bool) -> None:
    assert has_linear_kernel(torch.empty(shape, dtype=dtype)) is served


@pytest.mark.parametrize(("rows", "few"), [(1, False), (2, True), (8, True), (9, False)])
def test_two_to_eight_rows_have_a_kernel_of_their_own(rows: int, few: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []

    def record(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None) -> torch.Tensor:
        calls.append(len(x))
        return few_rows_linear(x, weight, bias)

    monkeypatch.setattr("plait.modeling.kernels.linear.few_rows_linear", record)
    linear(torch.ones(rows, 512), torch.ones(512, 512))
    assert calls == [rows] * few
    linear(torch.ones(4, 64), torch.ones(64, 64))
    with torch.autocast("cpu", torch.bfloat16):
        linear(torch.ones(4, 512), torch.ones(512, 512))
    assert calls == [rows] * few
