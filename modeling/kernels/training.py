"""Autotunes linear layers for training on a CPU: each of a layer's three matrix products by the faster kernel.

torch uses MKL for all of them. On some processors oneDNN is faster; by how much, and for which of the three, depends on
the processor and the layer, so both are measured. They give the same numbers up to rounding: a run that must be
reproducible bit by bit does not use them.
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional as F
from transformers.utils.import_utils import is_torchdynamo_compiling

from .autotune import measure_least, recall_choice
from .install import ForwardKernel, find_kernel, install_kernel, remove_kernels
from .linear import linear as compute_product
from .linear import onednn_linear
from .plain import is_plain_weight

GemmKernel = Callable[[Tensor, Tensor, Tensor | None], Tensor]

FEWEST_ROWS = 64  # with fewer rows the call costs more than a faster product saves
LEAST_SIZE, MOST_OUTPUTS = 128, 2**13  # layers with more outputs project to a vocabulary: the loss computes them
PROBED_ROWS = 512
TRAINING_PROBE_WORK = 2**29  # multiplications in a probe; wider layers are probed with fewer rows
MAX_TIME_RATIO = 0.97  # a kernel is chosen if it takes less than this share of torch's time


def multiply_by_torch(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes a b + bias by torch's kernel; a: (n, k), b: (k, m), bias: (m,)."""
    return a @ b if bias is None else torch.addmm(bias, a, b)


def multiply_by_onednn(a: Tensor, b: Tensor, bias: Tensor | None = None) -> Tensor:
    """Computes a b + bias by oneDNN, which takes the transpose of b; shapes as in `multiply_by_torch`."""
    return onednn_linear(a, b.t(), bias)


KERNEL_NAMES: dict[GemmKernel, str] = {multiply_by_torch: "torch", multiply_by_onednn: "onednn"}


class LinearKernels(NamedTuple):
    """The kernels of a layer y = x W^T + b: for x W^T, for dx = dy W and for dW = dy^T x."""

    output: GemmKernel
    input_gradient: GemmKernel
    weight_gradient: GemmKernel


TORCH_KERNELS = LinearKernels(multiply_by_torch, multiply_by_torch, multiply_by_torch)


class LinearFunction(torch.autograd.Function):
    """Computes y = x W^T + b and its gradients by the given kernels. x: (rows, width), weight: (outputs, width)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, kernels: LinearKernels) -> Tensor:
        """Returns y: (rows, outputs)."""
        wants_x, wants_weight, *_ = ctx.needs_input_grad
        ctx.save_for_backward(x if wants_weight else None, weight if wants_x else None)
        ctx.products = kernels
        return kernels.output(x, weight.t(), bias)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, slope: Tensor) -> tuple[Tensor | None, ...]:
        """Returns the gradients of x, weight and bias for that of y, slope: (rows, outputs)."""
        x, weight = ctx.saved_tensors
        wants_x, wants_weight, wants_bias, _ = ctx.needs_input_grad
        return (
            ctx.products.input_gradient(slope, weight, None) if wants_x else None,
            ctx.products.weight_gradient(slope.t(), x, None) if wants_weight else None,
            slope.sum(0) if wants_bias else None,
            None,
        )


class AutotunedLinear(ForwardKernel):
    """A linear layer's output and gradients by the given kernels; inputs that they do not support are computed by
    torch, calls without gradients as in inference."""

    def __init__(self, linear: nn.Linear, kernels: LinearKernels) -> None:
        self.linear, self.kernels = linear, kernels

    def __call__(self, input: Tensor) -> Tensor:
        """Maps input: (..., width) to (..., outputs)."""
        linear = self.linear
        if not torch.is_grad_enabled():
            return compute_product(input, linear.weight, linear.bias)
        if not self.has_kernel_for(input):
            return F.linear(input, linear.weight, linear.bias)
        rows = input.reshape(-1, linear.in_features)
        out: Any = LinearFunction.apply(rows, linear.weight, linear.bias, self.kernels)
        return out.view(*input.shape[:-1], linear.out_features)

    def has_kernel_for(self, x: Tensor) -> bool:
        """Returns whether the kernels compute this input: float32 on a CPU, with gradients, of at least `FEWEST_ROWS`
        rows, outside autocast and torch.compile, and only with a plain weight."""
        if not torch.is_grad_enabled() or x.numel() < FEWEST_ROWS * self.linear.in_features:
            return False
        weight = self.linear.weight
        single = x.dtype == weight.dtype == torch.float32 and x.device.type == "cpu" and is_plain_weight(weight)
        return single and not torch.is_autocast_enabled("cpu") and not is_torchdynamo_compiling()


def choose_products(model: nn.Module, chosen: dict[str, list[bool]] | None = None) -> int:
    """Measures the products of the linear layers on this CPU and installs the faster kernels, until `drop_products`;
    returns the number of layers that got another kernel than torch's.

    The state dict does not change. Second-order gradients are an error in the layers that got kernels. Layers that are
    not float32 or not on a CPU, and sizes for which torch is fastest, are skipped.

    chosen: by the size of a layer ("outputs x width"), for which of its three products oneDNN is faster; sizes in it
        are not measured again, so that a resumed training computes the same numbers, and others are added.
    """
    chosen = {} if chosen is None else chosen
    if not torch.backends.mkldnn.is_available():
        return 0
    drop_products(model)
    kinds: dict[torch.Size, list[nn.Linear]] = {}
    for module in model.modules():
        if is_autotunable(module):
            kinds.setdefault(module.weight.shape, []).append(module)
    gained = 0
    for shape, linears in kinds.items():
        size = f"{shape[0]} x {shape[1]}"
        if size not in chosen:
            chosen[size] = [kernel is multiply_by_onednn for kernel in probe_kernels(*shape)]
        products = LinearKernels(*(multiply_by_onednn if faster else multiply_by_torch for faster in chosen[size]))
        if products == TORCH_KERNELS:
            continue
        gained += len(linears)
        for linear in linears:
            install_kernel(linear, AutotunedLinear(linear, products))
    return gained


def drop_products(model: nn.Module) -> None:
    """Removes the kernels that `choose_products` installed; a model without any does not change."""
    remove_kernels(model, AutotunedLinear)


def is_autotunable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Returns whether this is a plain float32 layer on a CPU, of a size worth measuring, whose `forward` is not
    replaced."""
    if type(module) is not nn.Linear or find_kernel(module) is not None or not is_plain_weight(module.weight):
        return False
    if min(module.weight.shape) < LEAST_SIZE or module.out_features > MOST_OUTPUTS:
        return False
    return module.weight.dtype == torch.float32 and module.weight.device.type == "cpu"


def probe_kernels(outputs: int, width: int) -> LinearKernels:
    """Returns the faster kernels for the three products of a layer of this size, measured once on this machine (see
    `autotune`)."""
    choice = recall_choice(
        f"training linear {outputs} x {width}",
        lambda: " ".join(KERNEL_NAMES[kernel] for kernel in measure_kernels(outputs, width)),
    )
    named = {name: kernel for kernel, name in KERNEL_NAMES.items()}
    kernels = [named.get(name, multiply_by_torch) for name in choice.split()]
    return LinearKernels(*kernels) if len(kernels) == 3 else TORCH_KERNELS


def measure_kernels(outputs: int, width: int) -> LinearKernels:
    """Measures both kernels for the three products of a layer of this size, and returns the faster ones."""
    rows = min(PROBED_ROWS, max(FEWEST_ROWS, TRAINING_PROBE_WORK // (outputs * width)))
    x, weight, slope = torch.ones(rows, width), torch.ones(outputs, width), torch.ones(rows, outputs)
    return LinearKernels(
        select_faster_kernel(x, weight.t()), select_faster_kernel(slope, weight), select_faster_kernel(slope.t(), x)
    )


def select_faster_kernel(a: Tensor, b: Tensor) -> GemmKernel:
    """Returns the faster kernel for the product a b; torch's unless oneDNN is clearly faster."""
    torchs, onednns = measure_seconds((multiply_by_torch, multiply_by_onednn), a, b)
    return multiply_by_onednn if onednns < MAX_TIME_RATIO * torchs else multiply_by_torch


def measure_seconds(kernels: Sequence[GemmKernel], a: Tensor, b: Tensor) -> list[float]:
    """Measures the least CPU time in seconds of each kernel for the product a b."""
    return measure_least([partial(kernel, a, b, None) for kernel in kernels])
