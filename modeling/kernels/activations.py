"""Activations as kernels: in place, and as a part of oneDNN's matrix product."""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.activations import GELUActivation, SiLUActivation

from .install import find_kernel
from .linear import Activation
from .plain import has_forward_hooks


class ActivationKernel(NamedTuple):
    """How an activation is computed in place, and what oneDNN calls it (None: oneDNN does not have it)."""

    in_place: Callable[[Tensor], Tensor]
    fused: Activation | None = None


class QuickGELU(nn.Module):
    """x sigmoid(1.702 x) (Hendrycks and Gimpel 2016, https://arxiv.org/abs/1606.08415, section 2), computed by SiLU,
    z sigmoid(z) with z = 1.702 x: without gradients it allocates one tensor instead of three."""

    def forward(self, x: Tensor) -> Tensor:
        """Maps x: (...) to the same shape."""
        if torch.is_grad_enabled():
            return F.silu(x * 1.702) / 1.702
        return F.silu(x * 1.702, inplace=True).div_(1.702)


def quick_gelu_(x: Tensor) -> Tensor:
    """Computes `QuickGELU` in place."""
    return F.silu(x.mul_(1.702), inplace=True).div_(1.702)


GELU = ActivationKernel(torch.ops.aten.gelu_, ("gelu", "none"))
TANH_GELU = ActivationKernel(partial(torch.ops.aten.gelu_, approximate="tanh"), ("gelu", "tanh"))
SILU = ActivationKernel(partial(F.silu, inplace=True))
ACTIVATION_KERNELS: dict[type[nn.Module], Callable[[Any], ActivationKernel | None]] = {
    nn.GELU: lambda act: TANH_GELU if act.approximate == "tanh" else GELU,
    GELUActivation: lambda act: GELU if act.act is F.gelu else None,
    nn.ReLU: lambda act: ActivationKernel(torch.relu_, ("relu", "")),
    nn.SiLU: lambda act: SILU,
    SiLUActivation: lambda act: SILU,
    QuickGELU: lambda act: ActivationKernel(quick_gelu_),
}


def find_activation_kernel(act: nn.Module) -> ActivationKernel | None:
    """Returns how the activation is computed in place; None for one that is not known, has a hook, or whose `forward`
    is replaced."""
    build = ACTIVATION_KERNELS.get(type(act))
    return None if build is None or has_forward_hooks(act) or find_kernel(act) is not None else build(act)
