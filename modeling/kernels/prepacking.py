"""Prepacking: copies the weights of linear layers once into the layouts that are fastest on this CPU, for inference.

Products of several rows use oneDNN with W in its own layout; products of one row (a decode step) use a transposed W. On
a processor that does not multiply bfloat16, W is copied to float32: torch emulates the product, many times slower. An
MLP's activation overwrites the product that it is computed from.

A packed copy does not follow a later change of its weight, and a change through `.data` cannot be noticed: so weights
are packed only on request, `train()` drops the copies, and a change that torch counts is an error.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ..core.layers import PlaitGatedMLP, PlaitMLP, build_activation, quick_gelu_
from .install import ForwardKernel, find_kernel, install_kernel, is_replaceable, remove_kernels
from .linear import linear as compute_linear
from .plain import has_forward_hooks, is_plain_weight

Kernel = Callable[[Tensor], Tensor]

PACKED_ROWS = 1024  # rows of the product that weights are packed and probed for
PREPACK_PROBE_WORK = 2**30  # multiplications in a probe; wider layers are probed with fewer rows
PROBED_LAYERS = 4  # one row is probed over several layers: the weight of one would stay in the processor's cache
NO_ACTIVATION = ("none", "")
TANH_GELU = ("gelu", "tanh")
FUSED_ACTIVATIONS = {"gelu": ("gelu", "none"), "gelu_new": TANH_GELU, "gelu_pytorch_tanh": TANH_GELU}
FUSED_ACTIVATIONS |= {"relu": ("relu", "")}
tanh_gelu_ = partial(torch.ops.aten.gelu_, approximate="tanh")
IN_PLACE_ACTIVATIONS = {"gelu": torch.ops.aten.gelu_, "gelu_new": tanh_gelu_, "gelu_pytorch_tanh": tanh_gelu_}
IN_PLACE_ACTIVATIONS |= {
    "relu": torch.relu_,
    "silu": partial(nn.functional.silu, inplace=True),
    "quick_gelu": quick_gelu_,
}


class PlainLinear:
    """Computes y = W x + b from the layer's weight, without a copy."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (..., width) to (..., outputs)."""
        return compute_linear(x, self.linear.weight, self.linear.bias)


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
    """Computes y = act(W x + b) by oneDNN from a copy of W in its layout; torch has no public name for the kernel."""

    def __init__(self, linear: nn.Linear) -> None:
        self.bias, self.activation = linear.bias, NO_ACTIVATION
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (..., width) to (..., outputs)."""
        name, algorithm = self.activation
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], algorithm)

    def fuse_activation(self, activation: tuple[str, str]) -> "OneDNNLinear":
        """Returns a kernel with this activation that shares the packed weight."""
        kernel = object.__new__(OneDNNLinear)
        kernel.weight, kernel.bias, kernel.activation = self.weight, self.bias, activation
        return kernel


class Float32Linear:
    """Computes y = W x + b in float32 from a copy of W and returns it in the dtype of the input."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = linear.weight.detach().float()
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (..., width) to (..., outputs)."""
        return compute_linear(x.float(), self.weight, self.bias).to(x.dtype)


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


class PackedMLP(ForwardKernel):
    """down(act(up(x))), with the activation fused into the first product for several rows. Where the first layer or the
    activation was replaced since (by an adapter, for example) or has a hook, the class's own `forward` is used."""

    def __init__(self, mlp: PlaitMLP, up: PackedLinear, fused: Kernel) -> None:
        self.mlp, self.up, self.fused, self.parts = mlp, up, fused, (mlp.up_proj, mlp.act)

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (batch, length, width) to the same shape. Raises RuntimeError as `PackedLinear.check` does."""
        up, act = self.parts
        if self.mlp.up_proj is not up or self.mlp.act is not act or find_kernel(up) is not self.up:
            return type(self.mlp).forward(self.mlp, x)
        if has_forward_hooks(up, act):
            return type(self.mlp).forward(self.mlp, x)
        self.up.check()
        inner = self.mlp.act(self.up.one(x)) if self.up.is_one_row(x) else self.fused(x)
        return self.mlp.down_proj(self.mlp.dropout(inner))


class InPlaceMLP(ForwardKernel):
    """down(act(up(x))) or down(act(gate(x)) * up(x)), with the activation in place. With gradients, with a hook (which
    may keep a layer's output), or where the layer or the activation was replaced since, the class's own `forward` is
    used."""

    def __init__(self, mlp: PlaitMLP, act_: Callable[[Tensor], Tensor]) -> None:
        self.mlp, self.act_, self.act = mlp, act_, mlp.act

    def __call__(self, x: Tensor) -> Tensor:
        """Maps x: (batch, length, width) to the same shape."""
        mlp, gated = self.mlp, isinstance(self.mlp, PlaitGatedMLP)
        first: Any = mlp.gate_proj if gated else mlp.up_proj
        replaced = type(first) is not nn.Linear or mlp.act is not self.act
        if torch.is_grad_enabled() or replaced or has_forward_hooks(first, self.act):
            return type(mlp).forward(mlp, x)
        inner = self.act_(first(x))
        return mlp.down_proj(mlp.dropout(inner.mul_(mlp.up_proj(x)) if gated else inner))


def prepack_weights(model: nn.Module) -> int:
    """Packs the weights of the linear layers for which that is faster on this CPU; returns the number of packed layers.

    A plain MLP's activation is computed by the same kernel as its first layer, or else in place. The state dict does
    not change. Packed layers are for inference only: with gradients enabled they raise RuntimeError. Memory: at most
    two copies of each packed weight, one for products of several rows and one for one row (in float32 if the processor
    does not multiply bfloat16).

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
        for linear in linears:
            install_kernel(linear, PackedLinear(linear, layout))
    for mlp in (module for module in model.modules() if _is_plain_mlp(module)):
        faster = build_faster_mlp(mlp)
        if faster is not None:
            install_kernel(mlp, faster)
    return packed


def build_faster_mlp(mlp: PlaitMLP) -> PackedMLP | InPlaceMLP | None:
    """Builds the MLP's kernel: with the activation fused into the first product if oneDNN computes that, else in
    place; None if the activation supports neither, or a layer is not a plain linear layer."""
    up, fused = find_kernel(mlp.up_proj), FUSED_ACTIVATIONS.get(mlp.hidden_act)
    if fused and type(mlp) is PlaitMLP and isinstance(up, PackedLinear) and isinstance(up.several, OneDNNLinear):
        return PackedMLP(mlp, up, up.several.fuse_activation(fused))
    plain = all(type(child) is nn.Linear for child in mlp.children() if child not in (mlp.act, mlp.dropout))
    act_ = IN_PLACE_ACTIVATIONS.get(mlp.hidden_act)
    return InPlaceMLP(mlp, act_) if plain and act_ else None


def drop_packed_weights(model: nn.Module) -> None:
    """Removes the packed copies of all weights; a model without any does not change."""
    remove_kernels(model, PackedLinear, PackedMLP, InPlaceMLP)


PLAIN_LAYOUT = KernelLayout(PlainLinear, PlainLinear)


def probe_layout(linears: Sequence[nn.Linear]) -> KernelLayout:
    """Measures the kernels on this machine for layers of one size and dtype, and returns the fastest layout."""
    if not _has_onednn_kernel(linears[0].weight.dtype):
        emulated = _measure_seconds(PlainLinear, linears[:1], _count_probe_rows(linears[0]))
        return (
            KernelLayout(Float32Linear, Float32Linear)
            if _measure_seconds(Float32Linear, linears[:1], _count_probe_rows(linears[0])) < emulated
            else PLAIN_LAYOUT
        )
    some, rows = linears[:PROBED_LAYERS], _count_probe_rows(linears[0])
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


def _is_plain_mlp(module: nn.Module) -> TypeGuard[PlaitMLP]:
    """Returns whether this is exactly one of the two MLP classes, with its config's activation, and whether kernels may
    replace every `forward` in it."""
    if not isinstance(module, PlaitMLP) or type(module) not in (PlaitMLP, PlaitGatedMLP):
        return False
    own = type(module.act) is type(build_activation(module.hidden_act))
    return own and all(is_replaceable(part) for part in (module, *module.children()))


def _has_onednn_kernel(dtype: torch.dtype) -> bool:
    """Returns whether oneDNN multiplies in this dtype on this machine (bfloat16 needs AVX-512 or AVX-NE-CONVERT)."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


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
