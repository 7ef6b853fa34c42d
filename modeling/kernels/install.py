"""The one place that replaces a module's `forward` by a kernel, finds the kernel and removes it again.

A kernel shadows the class's `forward` in the module's own `__dict__`: the state dict, the parameter paths and the
module's hooks stay, and a copy of the model computes with the copy's weights.
"""

from typing import Any

from torch import Tensor, nn

HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ForwardKernel:
    """Computes what a module's own `forward` computes, in its place."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


def install_kernel(module: nn.Module, kernel: ForwardKernel) -> None:
    """Replaces the module's `forward`, or the kernel that replaced it before.

    Raises ValueError where something else did: see `is_replaceable`.
    """
    if not is_replaceable(module):
        raise ValueError(f"the forward of this {type(module).__name__} is replaced by {find_kernel(module)}: remove it")
    module.forward = kernel


def remove_kernels(model: nn.Module, *kinds: type[ForwardKernel]) -> None:
    """Restores `forward` of the model, and of every module in it, where a kernel of one of these kinds replaces it."""
    for module in model.modules():
        if isinstance(find_kernel(module), kinds):
            del module.forward


def find_kernel(module: nn.Module) -> Any:
    """Returns what replaces the module's `forward`, by whomever it was put there; None for the class's own."""
    return module.__dict__.get("forward")


def is_replaceable(module: nn.Module) -> bool:
    """Whether a kernel may replace `forward`: it is the class's own or a kernel, not that of offloaded weights, say."""
    return isinstance(find_kernel(module), ForwardKernel | None)


def has_forward_hooks(*modules: nn.Module) -> bool:
    """Whether a hook reads what goes into one of the modules, or keeps or changes what it gives."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def is_plain_weight(weight: Any) -> bool:
    """Whether a weight is a parameter of torch's own class: not quantised, sharded, or computed from another."""
    return type(weight) is nn.Parameter


def is_unaltered(module: nn.Module) -> bool:
    """Whether nothing hooks into the module, its own weights are plain, and at most a kernel replaces `forward`."""
    if not is_replaceable(module) or any(getattr(module, hooks) for hooks in HOOK_ATTRIBUTES):
        return False
    return all(weight is None or is_plain_weight(weight) for weight in module._parameters.values())


def is_plain(module: nn.Module) -> bool:
    """Whether calling the module does what its class says and nothing else. (An adapter or a parametrisation gives a
    module another class.)"""
    return find_kernel(module) is None and is_unaltered(module)


def is_exact_linear(module: nn.Module) -> bool:
    """Whether the module computes x W^T + b from its own weight and nothing else, by whichever kernel."""
    return type(module) is nn.Linear and is_unaltered(module)
