"""Prepacking: copies the weights of linear layers once into the layouts that are fastest on this CPU, for inference.

Products of several rows use oneDNN with W in its own layout; products of one row (a decode step) use a transposed W. On
a processor that does not multiply bfloat16, W is copied to float32: torch emulates the product, many times slower.

A packed copy does not follow a later change of its weight, and a change through `.data` cannot be noticed: so weights
are packed only on request, `train()` drops the copies, and a change that torch counts is an error.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from .autotune import recall_choice
from .install import ForwardKernel, install_kernel, is_replaceable, remove_kernels
from .linear import NO_ACTIVATION, PROBED_BYTES, Activation, has_onednn_kernel, linear, onednn_linear
from .plain import is_plain_weight

Kernel = Callable[[Tensor], Tensor]

PACKED_ROWS = 1024  # rows of the product that weights are packed and probed for
PREPACK_PROBE_WORK = 2**30  # multiplications in a probe; wider layers are probed with fewer rows


class PlainLinear:
    """Computes y = W x + b from the layer's weight, without a copy."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (..., width) to (..., outputs)."""
        return linear(x, self.linear.weight, self.linear.bias)


class TransposedLinear:
    """Computes y = W x + b for one row from a transposed copy of W."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight, self.bias = linear.weight.detach().T.contiguous(), linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x of one row, (..., width), to (..., outputs)."""
        row = x.reshape(1, -1)
        product = row @ self.weight if self.bias is None else torch.addmm(self.bias, row, self.weight)
        return product.view(*x.shape[:-1], -1)


class OneDNNLinear:
    """Computes y = W x + b by oneDNN from a copy of W in its layout; torch has no public name for that."""

    def __init__(self, linear: nn.Linear) -> None:
        self.bias = linear.bias
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)

    def __call__(self, x: Tensor, activation: Activation = NO_ACTIVATION) -> Tensor:
        """Maps x: (..., width) to (..., outputs): act(W x + b)."""
        return onednn_linear(x, self.weight, self.bias, activation)


class Float32Linear:
    """Computes y = W x + b in float32 from a copy of W and returns it in the dtype of the input."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = linear.weight.detach().float()
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (..., width) to (..., outputs)."""
        return linear(x.float(), self.weight, self.bias).to(x.dtype)


class KernelLayout(NamedTuple):
    """The kernel classes for products of one row and of several; if they are the same, one kernel serves both."""

    one: type
    several: type


class PackedLinear(ForwardKernel):
    """A linear layer's packed weight: one kernel for one row, one for several."""

    def __init__(self, linear: nn.Linear, layout: KernelLayout) -> None:
        self.linear, self.weight, self.version = linear, linear.weight, linear.weight._version
        self.several: Kernel = layout.several(linear)
        self.one: Kernel = self.several if layout.one is layout.several else layout.one(linear)

    def __call__(self, input: Tensor) -> Tensor:
        """Maps input: (..., width) to (..., outputs). Raises RuntimeError as `check` does."""
        self.check()
        return self.one(input) if self.is_one_row(input) else self.several(input)

    def compute_fused(self, x: Tensor, activation: Activation | None) -> Tensor | None:
        """Computes act(W x + b) in one product; None if the kernel for x, (..., width), does not have the activation.
        Raises RuntimeError as `check` does."""
        self.check()
        if activation is None or self.is_one_row(x) or not isinstance(self.several, OneDNNLinear):
            return None
        return self.several(x, activation)

    def is_one_row(self, x: Tensor) -> bool:
        """Returns whether x, (..., width), is a single row."""
        return x.numel() == self.linear.in_features

    def check(self) -> None:
        """Raises RuntimeError if gradients are enabled, or if the weight changed after it was packed."""
        if torch.is_grad_enabled():
            raise RuntimeError(
                "packed weights have no gradient: use torch.inference_mode(), or model.train() to drop them"
            )
        weight = self.linear.weight
        if weight is not self.weight or weight._version != self.version:
            raise RuntimeError("a weight changed after it was packed: call prepack_weights(model) again")


def prepack_weights(model: nn.Module) -> int:
    """Packs the weights of the linear layers for which that is faster on this CPU; returns the number of packed layers.

    The state dict does not change. Packed layers are for inference only: with gradients enabled they raise
    RuntimeError. Memory: at most two copies of each packed weight, one for products of several rows and one for one row
    (in float32 if the processor does not multiply bfloat16).

    Raises:
        ValueError: the model is in training mode, or not on a CPU.
    """
    devices = {parameter.device.type for parameter in model.parameters()}
    if model.training or devices != {"cpu"}:
        state = "in training mode" if model.training else f"on {', '.join(sorted(devices))}"
        raise ValueError(
            f"weights are packed for inference on a CPU, but the model is {state}: call model.eval().to('cpu') first"
        )
    if not torch.backends.mkldnn.is_available():
        return 0
    drop_packed_weights(model)
    packed = 0
    for linears in _group_linears(model):
        layout = probe_layout(linears)
        if layout == PLAIN_LAYOUT:
            continue
        packed += len(linears)
        for layer in linears:
            install_kernel(layer, PackedLinear(layer, layout))
    return packed


def drop_packed_weights(model: nn.Module) -> None:
    """Removes the packed copies of all weights; a model without any does not change."""
    remove_kernels(model, PackedLinear)


PLAIN_LAYOUT = KernelLayout(PlainLinear, PlainLinear)
KERNELS: dict[str, type] = {
    kernel.__name__: kernel for kernel in (PlainLinear, TransposedLinear, OneDNNLinear, Float32Linear)
}


def probe_layout(linears: Sequence[nn.Linear]) -> KernelLayout:
    """Returns the fastest layout for layers of one size and dtype, measured once on this machine (see `autotune`)."""
    outputs, width = linears[0].weight.shape
    key = f"packed linear {outputs} x {width}, {str(linears[0].weight.dtype).removeprefix('torch.')}"
    choice = recall_choice(key, lambda: " ".join(kernel.__name__ for kernel in measure_layouts(linears)))
    kernels = [KERNELS.get(name, PlainLinear) for name in choice.split()]
    return KernelLayout(*kernels) if len(kernels) == 2 else PLAIN_LAYOUT


def measure_layouts(linears: Sequence[nn.Linear]) -> KernelLayout:
    """Measures the kernels on this machine for layers of one size and dtype, and returns the fastest layout."""
    if not has_onednn_kernel(linears[0].weight.dtype):
        emulated = _measure_seconds(PlainLinear, linears[:1], _count_probe_rows(linears[0]))
        return (
            KernelLayout(Float32Linear, Float32Linear)
            if _measure_seconds(Float32Linear, linears[:1], _count_probe_rows(linears[0])) < emulated
            else PLAIN_LAYOUT
        )
    # one row is probed over so many layers that their weights do not stay in the processor's caches
    some, rows = linears[: -(-PROBED_BYTES // linears[0].weight.nbytes)], _count_probe_rows(linears[0])
    # for several rows a tie goes to oneDNN, which fuses the activation; for one row the copy must be worth its memory
    several = _measure_seconds(OneDNNLinear, linears[:1], rows) < 1.02 * _measure_seconds(
        PlainLinear, linears[:1], rows
    )
    one = _measure_seconds(TransposedLinear, some, 1) < 0.9 * _measure_seconds(PlainLinear, some, 1)
    return KernelLayout(TransposedLinear if one else PlainLinear, OneDNNLinear if several else PlainLinear)


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Returns whether this is a plain linear layer, so large that the constant cost of a kernel call does not
    matter."""
    if type(module) is not nn.Linear or not is_replaceable(module) or not is_plain_weight(module.weight):
        return False
    return module.weight.dtype in (torch.float32, torch.bfloat16) and min(module.weight.shape) >= 128


def _group_linears(model: nn.Module) -> list[list[nn.Linear]]:
    """Returns the layers that can be packed, grouped by size and dtype."""
    kinds: dict[tuple[Any, ...], list[nn.Linear]] = {}
    for module in model.modules():
        if _is_packable(module):
            kinds.setdefault((*module.weight.shape, module.weight.dtype), []).append(module)
    return list(kinds.values())


def _count_probe_rows(linear: nn.Linear) -> int:
    return min(PACKED_ROWS, max(64, PREPACK_PROBE_WORK // linear.weight.numel()))


def _measure_seconds(
    kernel: Callable[[nn.Linear], Kernel], linears: Sequence[nn.Linear], rows: int, repeats: int = 5
) -> float:
    """Measures the least CPU time in seconds of the layers' products, one after the other."""
    kernels = [kernel(linear) for linear in linears]
    # no random numbers: they would advance the generator that the user seeded
    x = torch.ones(rows, linears[0].in_features, dtype=linears[0].weight.dtype)
    times = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            start = time.process_time()
            for function in kernels:
                function(x)
            times.append(time.process_time() - start)
    return min(times[1:])
