"""The one question before a weight is read past its module: whether a call of the module would compute just that.

A fast path (a chunked loss, the decode step, a fused or packed product, a tied embedding) asks here, and where the
answer is no it calls the module: with hooks, an adapter, a parametrization, a replaced `forward`, or a weight that is
quantized, sharded or offloaded, the weight alone is not what the module computes with.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.nn.modules import module as hooks_of_all_modules

from ..graphs import is_recording_graph
from .install import find_kernel, is_replaceable

HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
FORWARD_HOOKS_OF_ALL = (hooks_of_all_modules._global_forward_hooks, hooks_of_all_modules._global_forward_pre_hooks)
HOOKS_OF_ALL = (
    *FORWARD_HOOKS_OF_ALL,
    hooks_of_all_modules._global_backward_hooks,
    hooks_of_all_modules._global_backward_pre_hooks,
)


def has_forward_hooks(*modules: nn.Module) -> bool:
    """Returns whether one of the modules, or all modules of the process, have a forward hook or pre-hook."""
    return any(FORWARD_HOOKS_OF_ALL) or any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def is_plain_weight(weight: Any) -> bool:
    """Returns whether a weight is a parameter of torch's own class that holds its values: not quantized, sharded,
    computed by a parametrization, or offloaded (to the meta device)."""
    return type(weight) is nn.Parameter and not weight.is_meta


def is_unaltered(module: nn.Module) -> bool:
    """Returns whether the module has no hooks and only plain weights, and `forward` is the class's own or a kernel."""
    if not is_replaceable(module) or any(HOOKS_OF_ALL) or any(getattr(module, hooks) for hooks in HOOK_ATTRIBUTES):
        return False
    if "weight" in module.__dict__ or "bias" in module.__dict__:  # set as a plain attribute, which hides the parameter
        return False
    return all(weight is None or is_plain_weight(weight) for weight in module._parameters.values())


def is_plain(module: nn.Module) -> bool:
    """Returns whether a call of the module runs its class's `forward` and nothing else. (An adapter or a
    parametrization changes the module's class.)"""
    return find_kernel(module) is None and is_unaltered(module)


def is_exact_linear(module: nn.Module) -> bool:
    """Returns whether the module computes x W^T + b from its own weight and nothing else, with or without a kernel."""
    return type(module) is nn.Linear and is_unaltered(module)


def is_exact_embedding(module: nn.Module) -> bool:
    """Returns whether the module selects rows of its own weight and does nothing else (no `max_norm`, no scaled
    gradient)."""
    plain = type(module) is nn.Embedding and is_plain(module)
    return plain and module.max_norm is None and not module.scale_grad_by_freq


def is_plain_tensor(x: Tensor) -> bool:
    """Returns whether a tensor is of torch's own class, with no operations of its own."""
    return type(x) in (Tensor, nn.Parameter)


def is_observed(x: Tensor) -> bool:
    """Returns whether operations on x are watched (`is_watched`), or x is of a class of its own."""
    return not is_plain_tensor(x) or is_watched()


def is_watched() -> bool:
    """Returns whether operations are recorded, transformed or watched by something that knows torch's operations and
    perhaps not another kernel: a graph, a mode of torch (which counts operations, or computes shapes alone), vmap and
    the like, forward-mode derivatives."""
    if is_recording_graph() or forward_ad._current_level >= 0:
        return True
    functorch: Any = getattr(torch._C, "_functorch")  # noqa: B009  (its stubs do not name it)
    modes = torch._C._len_torch_dispatch_stack() + torch._C._len_torch_function_stack()
    return modes > 0 or functorch.peek_interpreter_stack() is not None
