"""Products by the fastest kernel for their size: the same numbers, whichever it is, and torch's own in any doubt."""

import subprocess
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode
from torch.utils.flop_counter import FlopCounterMode

from plait.modeling.kernels import linear as products
from plait.modeling.kernels.linear import (
    LARGE_PRODUCT,
    LARGE_WEIGHT,
    ROW_COUNTS,
    is_large,
    linear,
    list_kernels,
    may_choose,
    probe_linear,
    select_kernel,
    torch_linear,
)

SHAPES = {"small": (64, 64), "large": (1024, 512), "wide": (2**13, 64)}
DTYPES = (torch.float32, torch.bfloat16, torch.float16)
KERNELS = [(dtype, rows, name) for dtype in DTYPES for rows in ROW_COUNTS for name in list_kernels(rows, dtype)]


class CountingMode(TorchFunctionMode):
    """Watches torch's functions."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("outputs", [96, 97, 1])
@pytest.mark.parametrize(("dtype", "rows", "name"), KERNELS, ids=str)
def test_every_kernel_gives_the_product(dtype: torch.dtype, rows: int, name: str, outputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    weight, x = torch.randn(outputs, 80).to(dtype), torch.randn(rows, 1, 80).to(dtype)
    shift = torch.randn(outputs).to(dtype) if bias else None
    with torch.inference_mode():
        found = list_kernels(rows, dtype)[name](x, weight, shift)
    exact = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    assert found.shape == exact.shape and found.dtype == dtype and found.is_contiguous()
    close = {} if dtype != torch.float32 else {"atol": 1e-4, "rtol": 1e-5}
    torch.testing.assert_close(found, exact.to(dtype), **close)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("rows", [(1,), (1, 1), (2, 1), (8,), (9,), (3, 20), (0,), (2, 0)])
@pytest.mark.parametrize("shape", list(SHAPES))
def test_the_chosen_kernel_gives_the_product(shape: str, rows: tuple[int, ...], bias: bool) -> None:
    torch.manual_seed(0)
    (outputs, width), x = SHAPES[shape], torch.randn(*rows, SHAPES[shape][1])
    weight, shift = torch.randn(outputs, width), torch.randn(outputs) if bias else None
    with torch.inference_mode():
        found = linear(x, weight, shift)
    exact = F.linear(x.double(), weight.double(), None if shift is None else shift.double())
    assert found.shape == exact.shape and found.is_contiguous()
    torch.testing.assert_close(found.double(), exact, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize("rows", ROW_COUNTS)
@pytest.mark.parametrize("name", ["halved", "doubled", "few_rows", "onednn"])
@torch.inference_mode()
def test_a_kernel_takes_any_layout_of_a_weight_and_of_rows(name: str, rows: int) -> None:
    kernel = list_kernels(rows, torch.float32).get(name)
    if kernel is None:
        pytest.skip("not for so many rows, or not on this machine")
    torch.manual_seed(0)
    whole, shift = torch.randn(75, 130), torch.randn(130)[::2]
    wide = torch.randn(rows, 1, 148)
    weights = {"a part": whole[3:68, 5:79], "transposed": torch.randn(74, 65).T, "strided": whole[:65, ::2][:, :74]}
    inputs = {"strided": wide[..., ::2], "a part": wide[..., 7:81], "repeated": wide[:1, :, :74].expand(rows, 1, 74)}
    for weight in (part[:, : min(part.shape[1], 65)] for part in weights.values()):
        for x in (part[..., : weight.shape[1]] for part in inputs.values()):
            given, exact = x.clone(), F.linear(x.double(), weight.double(), shift.double())
            torch.testing.assert_close(kernel(x, weight, shift).double(), exact, atol=1e-4, rtol=1e-5)
            assert torch.equal(x, given)


def test_a_single_vector_is_left_to_torch() -> None:
    x, weight = torch.randn(512), torch.randn(1024, 512)
    assert torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize(
    ("shape", "rows", "large"),
    [((512, 512), 1, True), ((512, 511), 1, False), ((512, 511), 32, False), ((512, 511), 33, True)],
)
def test_only_large_products_are_measured(shape: tuple[int, int], rows: int, large: bool) -> None:
    weight = torch.empty(shape)
    assert is_large(weight, rows) is large is may_choose(torch.empty(rows, shape[1]), weight)
    assert large is (weight.numel() >= LARGE_WEIGHT or weight.numel() * rows >= LARGE_PRODUCT)


def watch(how: str) -> AbstractContextManager[object]:
    stack = ExitStack()
    contexts: dict[str, Callable[[], AbstractContextManager[object]]] = {
        "autocast": lambda: torch.autocast("cpu", torch.bfloat16),
        "a dispatch mode": lambda: FlopCounterMode(display=False),
        "a function mode": CountingMode,
        "forward derivatives": forward_ad.dual_level,
    }
    stack.enter_context(contexts[how]())
    return stack


@pytest.mark.parametrize("how", ["autocast", "a dispatch mode", "a function mode", "forward derivatives"])
def test_what_watches_a_product_sees_torchs_own(how: str) -> None:
    x, weight = torch.randn(4, 512), torch.randn(1024, 512)
    assert may_choose(x, weight)
    with torch.no_grad(), watch(how):
        assert select_kernel(x, weight) is torch_linear
    assert may_choose(x, weight)


@torch.no_grad()
def test_a_transformed_recorded_or_foreign_tensor_is_left_to_torch() -> None:
    x, weight = torch.randn(3, 4, 512), torch.randn(1024, 512)
    asked: list[bool] = []

    def compute(row: Tensor) -> Tensor:
        asked.append(may_choose(row, weight))
        return linear(row, weight)

    expected = F.linear(x, weight)
    torch.testing.assert_close(torch.func.vmap(compute)(x), expected, atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(torch.jit.trace(compute, x)(x), expected, atol=1e-4, rtol=1e-5)
    assert not any(asked[:2])
    assert not may_choose(torch.nn.Buffer(x).as_subclass(Foreign), weight)
    assert not may_choose(x.double(), weight.double()) and not may_choose(x.bfloat16(), weight)
    assert not may_choose(x.to("meta"), weight.to("meta"))


class Foreign(Tensor):
    """As quantized and sharded tensors are."""


def test_deterministic_algorithms_and_the_switch_leave_torchs_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight = torch.randn(4, 512), torch.randn(1024, 512)
    torch.use_deterministic_algorithms(True)
    try:
        assert not may_choose(x, weight)
    finally:
        torch.use_deterministic_algorithms(False)
    assert may_choose(x, weight)
    monkeypatch.setenv("PLAIT_AUTOTUNE", "0")
    assert not may_choose(x, weight) and torch.equal(linear(x, weight), F.linear(x, weight))


@pytest.mark.parametrize(
    ("rows", "measured"), [(1, 1), (2, 2), (3, 4), (5, 8), (9, 16), (17, 64), (65, 256), (256, 256), (9999, 256)]
)
def test_a_number_of_rows_is_measured_once(rows: int, measured: int, monkeypatch: pytest.MonkeyPatch) -> None:
    keys: list[str] = []

    def recall(key: str, measure: object) -> str:
        keys.append(key)
        return "a kernel that this version does not have"

    monkeypatch.setattr(products, "recall_choice", recall)
    assert select_kernel(torch.empty(rows, 512), torch.empty(1024, 512)) is torch_linear
    assert keys == [f"linear 1024 x 512, {measured} rows, float32"]


@pytest.mark.parametrize(
    ("outputs", "width", "rows", "probed", "weights"),
    [(1024, 512, 1, 1, 4), (1024, 512, 256, 256, 1), (4096, 512, 4, 4, 1), (2**14, 2**10, 256, 64, 1)],
)
def test_a_probe_reads_more_than_a_cache_holds_and_is_short(
    outputs: int, width: int, rows: int, probed: int, weights: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[tuple[int, ...]] = []

    def count(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        calls.append((*x.shape, *weight.shape))
        return x

    assert products.PROBED_BYTES >= 2**27
    monkeypatch.setattr(products, "PROBED_BYTES", 2**23)
    monkeypatch.setattr(products, "list_kernels", lambda rows, dtype: {"torch": count})
    monkeypatch.setattr(
        products, "select_fastest", lambda kernels: [kernel() for kernel in kernels.values()] and "torch"
    )
    state = torch.get_rng_state()
    assert probe_linear(outputs, width, rows, torch.float32) == "torch"
    assert calls == [(probed, width, outputs, width)] * weights
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.slow
def test_a_compiled_call_has_no_choice_in_its_graph() -> None:
    """In a process of its own, since compiling leaves traces in this one."""
    code = (
        "import torch; from plait.modeling.kernels.linear import linear\n"
        "x, weight = torch.randn(4, 512), torch.randn(1024, 512)\n"
        "with torch.no_grad():\n"
        "    found = torch.compile(linear, backend='eager', fullgraph=True)(x, weight)\n"
        "torch.testing.assert_close(found, x @ weight.T, atol=1e-4, rtol=1e-5)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
