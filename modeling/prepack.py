"""Linear layers with weights packed once for oneDNN's kernels: faster inference on a CPU, on request. Where the
processor does not multiply bfloat16, such weights are kept in float32 beside: torch emulates the product, many times
slower.

A packed copy does not follow a later change of its weight, and a change through `.data` cannot be noticed: so nothing
is packed unasked, `train()` drops the copies, and a change that torch counts is an error.
"""

import time
from collections.abc import Callable
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

from .layers import PlaitMLP

ROWS = 1024  # rows of the product that weights are packed and probed for
TANH_GELU = ("gelu", "tanh")
FUSED_ACTIVATIONS = {"gelu": ("gelu", "none"), "gelu_new": TANH_GELU, "gelu_pytorch_tanh": TANH_GELU}
FUSED_ACTIVATIONS |= {"relu": ("relu", "")}


class PackedLinear:
    """y = act(W x + b) by oneDNN, W in its own layout; stands in for a layer's `forward`.

    torch has no public name for the kernel: `torch.ops.mkldnn._linear_pointwise`.
    """

    def __init__(self, linear: nn.Linear, activation: tuple[str, str] = ("none", "")) -> None:
        self.linear, self.activation, self.version = linear, activation, linear.weight._version
        self.weight = torch.ops.mkldnn._reorder_linear_weight(linear.weight.detach(), ROWS)

    def __call__(self, input: Tensor) -> Tensor:
        self.check()
        name, algorithm = self.activation
        return torch.ops.mkldnn._linear_pointwise(input, self.weight, self.linear.bias, name, [], algorithm)

    def check(self) -> None:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "packed weights have no gradient: use torch.inference_mode(), or model.train() to drop them"
            )
        if self.linear.weight._version != self.version:
            raise RuntimeError("a weight changed after it was packed: call prepack_weights(model) again")


class FloatLinear(PackedLinear):
    """y = W x + b computed in float32, from a copy of W, in the type of the input."""

    def __init__(self, linear: nn.Linear) -> None:
        self.linear, self.version = linear, linear.weight._version
        self.weight = linear.weight.detach().float()
        self.bias = None if linear.bias is None else linear.bias.detach().float()

    def __call__(self, input: Tensor) -> Tensor:
        self.check()
        return nn.functional.linear(input.float(), self.weight, self.bias).to(input.dtype)


def prepack_weights(model: nn.Module) -> int:
    """Pack the weights of the transformers' linear layers where that is faster here; returns how many were packed.

    A plain MLP's activation is computed by the same kernel as its first layer. The state dict stays as it is. Packed
    layers serve inference alone: with gradients enabled they raise. Memory: one more copy of the packed weights (in
    float32, where bfloat16 has no kernel).

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
    linears = [module for module in model.modules() if _suits(module)]
    faster = {shape: _faster(linear) for shape, linear in {_kind(linear): linear for linear in linears}.items()}
    chosen = [linear for linear in linears if faster[_kind(linear)]]
    for linear in chosen:
        linear.forward = packed(linear)
    for mlp in (module for module in model.modules() if type(module) is PlaitMLP):
        fused = mlp.up_proj in chosen and _has_kernel(mlp.up_proj.weight.dtype)
        if fused and (activation := FUSED_ACTIVATIONS.get(mlp.hidden_act)):
            mlp.forward = PackedMLP(mlp, activation)
    return len(chosen)


def packed(linear: nn.Linear) -> PackedLinear:
    """What stands in for the layer's `forward` on this machine."""
    return PackedLinear(linear) if _has_kernel(linear.weight.dtype) else FloatLinear(linear)


class PackedMLP:
    """down(act(up(x))) with the activation inside the first product; stands in for an MLP's `forward`."""

    def __init__(self, mlp: PlaitMLP, activation: tuple[str, str]) -> None:
        self.up, self.down = PackedLinear(mlp.up_proj, activation), mlp.down_proj

    def __call__(self, x: Tensor) -> Tensor:
        return self.down(self.up(x))


def drop_packed_weights(model: nn.Module) -> None:
    """Go back to the plain layers; a model without packed ones stays as it is."""
    for module in model.modules():
        if isinstance(module.__dict__.get("forward"), PackedLinear | PackedMLP):
            del module.forward


def _suits(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Layers large enough that the kernel's constant cost of a call does not matter."""
    if type(module) is not nn.Linear or module.weight.dtype not in (torch.float32, torch.bfloat16):
        return False
    return min(module.weight.shape) >= 128


def _has_kernel(dtype: torch.dtype) -> bool:
    """Whether oneDNN multiplies in this type on this machine (bfloat16 needs AVX-512 or AVX-NE-CONVERT)."""
    return dtype == torch.float32 or (dtype == torch.bfloat16 and torch.ops.mkldnn._is_mkldnn_bf16_supported())


def _kind(linear: nn.Linear) -> tuple[Any, ...]:
    return (*linear.weight.shape, linear.weight.dtype)


def _faster(linear: nn.Linear) -> bool:
    """A probe of both kernels on this machine."""
    x = torch.randn(ROWS, linear.in_features, dtype=linear.weight.dtype)
    with torch.inference_mode():
        return _seconds(packed(linear), x) < 1.02 * _seconds(linear, x)  # a tie goes to the fused activation


def _seconds(function: Callable[[Tensor], Tensor], x: Tensor, repeats: int = 5) -> float:
    function(x)
    times = []
    for _ in range(repeats):
        start = time.process_time()
        function(x)
        times.append(time.process_time() - start)
    return min(times)
