"""Linear layers in training on a CPU: each of a layer's three products by the kernel that is faster on this machine.

torch asks MKL for all of them. On some processors oneDNN is faster; by how much, and for which of the three, depends on
the processor and the layer, so they are probed. Both kernels give the same numbers up to rounding: a run whose bits
must not depend on a probe leaves them alone.
"""

import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.utils.import_utils import is_torchdynamo_compiling

from .install import ForwardKernel, find_kernel, install_kernel, is_plain_weight, remove_kernels

GemmKernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]

FEWEST_ROWS = 64  # with fewer, a call costs more than its product gains
LEAST_SIZE, MOST_OUTPUTS = 128, 2**13  # wider ones are vocabularies: their product is in the loss, in chunks
PROBED_ROWS = 512
TRAINING_PROBE_WORK = 2**29  # multiplications of a probe; wider layers are probed with fewer rows
MAX_TIME_RATIO = 0.97  # of torch's own time: what a kernel must not exceed to be chosen


def multiply_by_torch(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """a b + bias; a: (n, k), b: (k, m), bias: (m,)."""
    return a @ b if bias is None else torch.addmm(bias, a, b)


def multiply_by_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """The same by oneDNN, for which torch has no public name. It reads the transpose of b."""
    return torch.ops.mkldnn._linear_pointwise(a, b.t(), bias, "none", [], "")


class LinearKernels(NamedTuple):
    """The kernels of a layer y = x W^T + b: of x W^T, of dx = dy W and of dW = dy^T x."""

    output: GemmKernel
    input_gradient: GemmKernel
    weight_gradient: GemmKernel


TORCH_KERNELS = LinearKernels(multiply_by_torch, multiply_by_torch, multiply_by_torch)


class LinearFunction(torch.autograd.Function):
    """y = x W^T + b and its gradients, by the given kernels. x: (rows, width), weight: (outputs, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernels: LinearKernels) -> Tensor:
        wants_x, wants_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        ctx.products = kernels
        return kernels.output(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        return (
            ctx.products.input_gradient(slope, weight, None) if wants_x else None,
            ctx.products.weight_gradient(slope.t(), x, None) if wants_weight else None,
            slope.sum(0) if wants_bias else None,
            None,
        )


class AutotunedLinear(ForwardKernel):
    """A linear layer by the given kernels. What they do not serve, and all that needs no gradient, is torch's."""

    def __init__(self, linear: nn.Linear, kernels: LinearKernels) -> None:
        self.linear, self.kernels = linear, kernels

    def __call__(self, input: Tensor) -> Tensor:
        linear = self.linear
        if not self.has_kernel_for(input):
            return F.linear(input, linear.weight, linear.bias)
        rows = input.reshape(-1, linear.in_features)
        out: Any = LinearFunction.apply(rows, linear.weight, linear.bias, self.kernels)
        return out.view(*input.shape[:-1], linear.out_features)

    def has_kernel_for(self, x: Tensor) -> bool:
        if not torch.is_grad_enabled() or x.numel() < FEWEST_ROWS * self.linear.in_features:
            return False
        single = x.dtype == self.linear.weight.dtype == torch.float32 and x.device.type == "cpu"
        return single and not torch.is_autocast_enabled("cpu") and not is_torchdynamo_compiling()


def choose_products(model: nn.Module) -> int:
    """Probe the products of the linear layers on this CPU and use the faster kernels from now on, until
    `drop_products`; returns how many layers gained.

    The state dict stays as it is. Gradients of gradients are an error in the layers that gained. Layers in other types
    than float32, on other devices, or of a size that does not gain are left alone.
    """
    if not torch.backends.mkldnn.is_available():
        return 0
    drop_products(model)
    kinds: dict[torch.Size, list[nn.Linear]] = {}
    for module in model.modules():
        if is_autotunable(module):
            kinds.setdefault(module.weight.shape, []).append(module)
    gained = 0
    for shape, linears in kinds.items():
        products = probe_kernels(*shape)
        if products == TORCH_KERNELS:
            continue
        gained += len(linears)
        for linear in linears:
            install_kernel(linear, AutotunedLinear(linear, products))
    return gained


def drop_products(model: nn.Module) -> None:
    """Go back to torch's own products; a model without others stays as it is."""
    remove_kernels(model, AutotunedLinear)


def is_autotunable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a plain layer of a size that gains, whose `forward` nothing replaces."""
    if type(module) is not nn.Linear or find_kernel(module) is not None or not is_plain_weight(module.weight):
        return False
    if min(module.weight.shape) < LEAST_SIZE or module.out_features > MOST_OUTPUTS:
        return False
    return module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def probe_kernels(outputs: int, width: int) -> LinearKernels:
    """A probe of both kernels for a layer's three products."""
    rows = min(PROBED_ROWS, max(FEWEST_ROWS, TRAINING_PROBE_WORK // (outputs * width)))
    x, weight, slope = torch.ones(rows, width), torch.ones(outputs, width), torch.ones(rows, outputs)
    return LinearKernels(
        select_faster_kernel(x, weight.t()), select_faster_kernel(slope, weight), select_faster_kernel(slope.t(), x)
    )


def select_faster_kernel(a: Tensor, b: Tensor) -> GemmKernel:
    torchs, onednns = measure_seconds((multiply_by_torch, multiply_by_onednn), a, b)
    return multiply_by_onednn if onednns < MAX_TIME_RATIO * torchs else multiply_by_torch


def measure_seconds(kernels: Sequence[GemmKernel], a: Tensor, b: Tensor, repeats: int = 4) -> list[float]:
    """The least CPU time of each kernel, one after the other in every round."""
    times: list[list[float]] = [[] for _ in kernels]
    with torch.no_grad():
        for _ in range(1 + repeats):
            for kernel, own in zip(kernels, times, strict=True):
                start = time.process_time()
                kernel(a, b, None)
                own.append(time.process_time() - start)
    return [min(own[1:]) for own in times]
