"""Linear layers whose weights are laid out once for the kernels that are fastest here: faster inference on a CPU, on
request. Products of many rows go to oneDNN, W in its own layout; products of one row, which are a step of generation,
to a transposed W. Where the processor does not multiply bfloat16, such weights are kept in float32 beside: torch
emulates the product, many times slower. An MLP's activation overwrites the product that it is computed from.

A packed copy does not follow a later change of its weight, and a change through `.data` cannot be noticed: so nothing
is packed unasked, `train()` drops the copies, and a change that torch counts is an error.
"""

import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple, TypeGuard

import torch
from torch import Tensor, nn

from ..core.layers import PlaitGatedMLP, PlaitMLP, build_activation, quick_gelu_
from . import linear as products
from .install import (
    ForwardKernel,
    find_kernel,
    has_forward_hooks,
    install_kernel,
    is_plain_weight,
    is_replaceable,
    remove_kernels,
)

Kernel = Callable[[Tensor], Tensor]

PACKED_ROWS = 1024  # rows of the product that weights are packed and probed for
PREPACK_PROBE_WORK = 2**30  # multiplications of a probe; wider layers are probed with fewer rows
PROBED_LAYERS = 4  # one row is probed over several layers: a single one would stay in the processor's cache
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
    """y = W x + b by the weight itself."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear = linear

    def __call__(self, x: Tensor) -> Tensor:
        return products.linear(x, self.linear.weight, self.linear.bias)


class TransposedLinear:
    """y = W x + b of one row, from a copy of W that is read row by row."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight, self.bias = linear.weight.detach().T.contiguous(), linear.bias

    def __call__(self, x: Tensor) -> Tensor:
        row = x.reshape(1, -1)
        product = row @ self.weight if self.bias is None else torch.addmm(self.bias, row, self.weight)
        return product.view(*x.shape[:-1], -1)


class OneDNNLinear:
    """y = act(W x + b) by oneDNN, W in its own layout. torch has no public name for the kernel."""

    def __init__(self, linear: nn.Linear) -> None:
        self.bias, self.activation = linear.bias, NO_ACTIVATION
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), PACKED_ROWS)

    def __call__(self, x: Tensor) -> Tensor:
        name, algorithm = self.activation
        return torch.ops.mkldnn._linear_pointwise(x, self.weight, self.bias, name, [], algorithm)

    def fuse_activation(self, activation: tuple[str, str]) -> "OneDNNLinear":
        """The same weight, not copied, with an activation."""
        kernel = object.__new__(OneDNNLinear)
        kernel.weight, kernel.bias, kernel.activation = self.weight, self.bias, activation
        return kernel


class Float32Linear:
    """y = W x + b computed in float32, from a copy of W, in the type of the input."""

    def __init__(self, linear: nn.Linear) -> None:
        self.weight = linear.weight.detach().float()
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def __call__(self, x: Tensor) -> Tensor:
        return products.linear(x.float(), self.weight, self.bias).to(x.dtype)


class KernelLayout(NamedTuple):
    """The kernels for a product of one row and for one of several; one class in both places is made once."""

    one: type
    several: type


class PackedLinear(ForwardKernel):
    """A linear layer with its weight packed: one kernel for one row, one for several."""

    def __init__(self, linear: nn.Linear, layout: KernelLayout) -> None:
        self.linear, self.version = linear, linear.weight._version
        self.several: Kernel = layout.several(linear)
        self.one: Kernel = self.several if layout.one is layout.several else layout.one(linear)

    def __call__(self, input: Tensor) -> Tensor:
        self.check()
        return self.one(input) if self.is_one_row(input) else self.several(input)

    def is_one_row(self, x: Tensor) -> bool:
        return x.numel() == self.linear.in_features

    def check(self) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "packed weights have no gradient: use torch.inference_mode(), or model.train() to drop them"
            )
        if self.linear.weight._version != self.version:
            raise RuntimeError("a weight changed after it was packed: call prepack_weights(model) again")


class PackedMLP(ForwardKernel):
    """down(act(up(x))), of several rows with the activation inside the first product. With a hook on either, the MLP
    computes one after the other as ever."""

    def __init__(self, mlp: PlaitMLP, up: PackedLinear, fused: Kernel) -> None:
        self.mlp, self.up, self.fused = mlp, up, fused

    def __call__(self, x: Tensor) -> Tensor:
        self.up.check()
        if has_forward_hooks(self.mlp.up_proj, self.mlp.act):
            return type(self.mlp).forward(self.mlp, x)
        inner = self.mlp.act(self.up.one(x)) if self.up.is_one_row(x) else self.fused(x)
        return self.mlp.down_proj(self.mlp.dropout(inner))


class InPlaceMLP(ForwardKernel):
    """down(act(up(x))) or down(act(gate(x)) * up(x)) with no second tensor of the inner width. A hook may keep what the
    layer gave: then, and with gradients, the MLP computes as ever."""

    def __init__(self, mlp: PlaitMLP, act_: Callable[[Tensor], Tensor]) -> None:
        self.mlp, self.act_ = mlp, act_

    def __call__(self, x: Tensor) -> Tensor:
        mlp, gated = self.mlp, isinstance(self.mlp, PlaitGatedMLP)
        first: Any = mlp.gate_proj if gated else mlp.up_proj
        if torch.is_grad_enabled() or has_forward_hooks(first, mlp.act):
            return type(mlp).forward(mlp, x)
        inner = self.act_(first(x))
        return mlp.down_proj(mlp.dropout(inner.mul_(mlp.up_proj(x)) if gated else inner))


def prepack_weights(model: nn.Module) -> int:
    """Lay out the weights of the linear layers anew where that is faster here; returns how many layers gained.

    A plain MLP's activation is computed by the same kernel as its first layer, or else in place. The state dict stays
    as it is. Packed layers serve inference alone: with gradients enabled they raise. Memory: at most two more copies of
    the packed weights, one for products of many rows and one for those of one row (in float32, where bfloat16 has no
    kernel).

    Raises:
        ValueError: the model is in training mode, or not on a CPU.
    """
    devices = {parameter.device.type for parameter in model.parameters()}
    if model.training or devices != {"cpu"}:
        state = "in training mode" if model.training else f"on {', '.join(sorted(devices))}"
        raise ValueError(f"weights are packed for inference on a CPU, but the model is {state}")
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
    """The activation inside the first product where that is oneDNN's, else in its place; None for an activation that
    has neither, or where the first layer is not a plain one."""
    up, fused = find_kernel(mlp.up_proj), FUSED_ACTIVATIONS.get(mlp.hidden_act)
    if fused and type(mlp) is PlaitMLP and isinstance(up, PackedLinear) and isinstance(up.several, OneDNNLinear):
        return PackedMLP(mlp, up, up.several.fuse_activation(fused))
    plain = all(type(child) is nn.Linear for child in mlp.children() if child not in (mlp.act, mlp.dropout))
    act_ = IN_PLACE_ACTIVATIONS.get(mlp.hidden_act)
    return InPlaceMLP(mlp, act_) if plain and act_ else None


def drop_packed_weights(model: nn.Module) -> None:
    """Go back to the plain layers; a model without packed ones stays as it is."""
    remove_kernels(model, PackedLinear, PackedMLP, InPlaceMLP)


PLAIN_LAYOUT = KernelLayout(PlainLinear, PlainLinear)


def probe_layout(linears: Sequence[nn.Linear]) -> KernelLayout:
    """A probe of the kernels on this machine, for layers of one size and type."""
    if not _has_onednn_kernel(linears[0].weight.dtype):
        emulated = _measure_seconds(PlainLinear, linears[:1], _count_probe_rows(linears[0]))
        return (
            KernelLayout(Float32Linear, Float32Linear)
            if _measure_seconds(Float32Linear, linears[:1], _count_probe_rows(linears[0])) < emulated
            else PLAIN_LAYOUT
        )
    some, rows = linears[:PROBED_LAYERS], _count_probe_rows(linears[0])
    # of several rows a tie goes to the fused activation; of one row the copy must pay for its memory
    several = _measure_seconds(OneDNNLinear, linears[:1], rows) < 1.02 * _measure_seconds(
        PlainLinear, linears[:1], rows
    )
    one = _measure_seconds(TransposedLinear, some, 1) < 0.9 * _measure_seconds(PlainLinear, some, 1)
    return KernelLayout(TransposedLinear if one else PlainLinear, OneDNNLinear if several else PlainLinear)


def _is_packable(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Layers large enough that the kernel's constant cost of a call does not matter."""
    if type(module) is not nn.Linear or not is_replaceable(module) or not is_plain_weight(module.weight):
        return False
    return module.weight.dtype in (torch.float32, torch.bfloat16) and min(module.weight.shape) >= 128


def _is_plain_mlp(module: nn.Module) -> TypeGuard[PlaitMLP]:
    """MLPs of exactly these classes, with their config's activation, whose only replaced `forward` is a kernel's."""
    if not isinstance(module, PlaitMLP) or type(module) not in (PlaitMLP, PlaitGatedMLP):
        return False
    own = type(module.act) is type(build_activation(module.hidden_act))
    return own and all(is_replaceable(part) for part in (module, *module.children()))


def _has_onednn_kernel(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this type on this machine (bfloat16 needs AVX-512 or AVX-NE-CONVERT)."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _group_linears(model: nn.Module) -> list[list[nn.Linear]]:
    """The layers that suit, those of one size and type together."""
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
    """The least CPU time of the layers' products, one after the other."""
    kernels = [kernel(linear) for linear in linears]
    x = torch.ones(rows, linears[0].in_features, dtype=linears[0].weight.dtype)  # random numbers are the user's
    times = []
    with torch.inference_mode():
        for _ in range(1 + repeats):
            start = time.process_time()
            for function in kernels:
                function(x)
            times.append(time.process_time() - start)
    return min(times[1:])
