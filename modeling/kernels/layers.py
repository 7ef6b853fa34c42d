"""Linear layers and their activations in inference, as the layers of the core call them.

A product is computed by the fastest kernel for its size (`linear`), the activation by the same kernel where that has
it, else in place. Layers of int8 that read the same input share its rounding. Where a call of the modules might do
anything else than that (with gradients, hooks, an adapter, another quantized weight, ...), the modules are called.
"""

from collections.abc import Sequence
from typing import TypeGuard

import torch
from torch import Tensor, nn

from .activations import ActivationKernel, find_activation_kernel
from .install import find_kernel
from .int8 import Int8Linear, round_rows
from .linear import is_large, linear, onednn_linear, select_kernel
from .plain import has_forward_hooks, is_observed, is_unaltered
from .prepacking import PackedLinear


def compute_linear(layer: nn.Module, x: Tensor) -> Tensor:
    """Computes layer(x); x: (..., width)."""
    if not may_pass_by(layer, x) or find_kernel(layer) is not None:
        return layer(x)
    return linear(x, layer.weight, layer.bias)


def compute_linears(layers: Sequence[nn.Module], x: Tensor) -> list[Tensor]:
    """Computes layer(x) for each layer; x: (..., width). Layers that round x to int8 share the rounded one."""
    kernels = [find_kernel(layer) for layer in layers if is_int8(layer, x)]
    if len(kernels) < len(layers):
        return [compute_linear(layer, x) for layer in layers]
    rounded = round_rows(x)
    return [kernel.multiply(rounded) for kernel in kernels]


def compute_activated(layer: nn.Module, act: nn.Module, x: Tensor) -> Tensor:
    """Computes act(layer(x)); x: (..., width)."""
    if is_int8(layer, x):
        return activate(act, layer(x))
    kernel = find_activation_kernel(act) if may_pass_by(layer, x) else None
    return act(layer(x)) if kernel is None else activate_product(layer, kernel, x)


def compute_gated(gate: nn.Module, act: nn.Module, layer: nn.Module, x: Tensor) -> Tensor:
    """Computes act(gate(x)) * layer(x); x: (..., width)."""
    if is_int8(gate, x):
        opened, values = compute_linears((gate, layer), x)
        return activate(act, opened) * values
    kernel = find_activation_kernel(act) if may_pass_by(gate, x) else None
    if kernel is None:
        return act(gate(x)) * layer(x)
    return activate_product(gate, kernel, x).mul_(compute_linear(layer, x))


def activate(act: nn.Module, x: Tensor) -> Tensor:
    """Computes act(x), in place if it can be; x: (...), which nothing else holds."""
    kernel = find_activation_kernel(act)
    return act(x) if kernel is None else kernel.in_place(x)


def activate_product(layer: nn.Module, act: ActivationKernel, x: Tensor) -> Tensor:
    """Computes act(layer(x)) for a layer that `may_pass_by`: in one product if its kernel has the activation, else in
    place."""
    weight, bias, packed = layer.get_parameter("weight"), layer._parameters["bias"], find_kernel(layer)
    if isinstance(packed, PackedLinear):
        fused = packed.compute_fused(x, act.fused)
        return act.in_place(layer(x)) if fused is None else fused
    kernel = select_kernel(x, weight)
    if act.fused and kernel is onednn_linear:
        return onednn_linear(x, weight, bias, act.fused)
    return act.in_place(kernel(x, weight, bias))


def is_int8(layer: nn.Module, x: Tensor) -> bool:
    """Returns whether a call of the layer multiplies x, rounded to int8, and nothing else."""
    kernel = find_kernel(layer)
    return isinstance(kernel, Int8Linear) and kernel.fits(x) and not has_forward_hooks(layer) and not is_observed(x)


def may_pass_by(layer: nn.Module, x: Tensor) -> TypeGuard[nn.Linear]:
    """Returns whether the layer's output for x may be computed without a call of the layer: it is a large product
    without gradients that nothing watches, of a plain linear layer whose weight may be packed."""
    if torch.is_grad_enabled() or type(layer) is not nn.Linear or is_observed(x):
        return False
    if torch.is_autocast_enabled(x.device.type) or not is_large(layer.weight, x.numel() // max(1, x.shape[-1])):
        return False
    return isinstance(find_kernel(layer), PackedLinear | None) and is_unaltered(layer)
