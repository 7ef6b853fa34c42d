"""Installs a kernel in the place of a module's `forward`, finds it and removes it again.

A kernel shadows the class's `forward` in the module's own `__dict__`: the state dict, the parameter paths and the
module's hooks stay, and a copy of the model computes with the copy's weights.
"""

from typing import Any

from torch import Tensor, nn

HOOK_ATTRIBUTES = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


class ForwardKernel:
    """A callable that replaces a module's `forward` and computes the same."""

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        """Computes the module's output from the arguments of its `forward`."""
        raise NotImplementedError


def install_kernel(module: nn.Module, kernel: ForwardKernel) -> None:
    """Replaces the module's `forward`, or the kernel installed before.

    Raises ValueError if something other than a kernel replaces it: see `is_replaceable`.
    """
    if not is_replaceable(module):
        raise ValueError(f"the forward of this {type(module).__name__} is replaced by {find_kernel(module)}: remove it")
    module.forward = kernel


def remove_kernels(model: nn.Module, *kinds: type[ForwardKernel]) -> None:
    """Removes all kernels of these classes from the model and every module in it, whose own `forward` applies again."""
    for module in model.modules():
        if isinstance(find_kernel(module), kinds):
            del module.forward


def find_kernel(module: nn.Module) -> Any:
    """Returns whatever replaces the module's `forward` (a kernel or not); None if the class's own applies."""
    return module.__dict__.get("forward")


def is_replaceable(module: nn.Module) -> bool:
    """Returns whether a kernel may replace `forward`: it is the class's own or a kernel, not, for example, the one that
    accelerate sets for offloaded weights."""
    return isinstance(find_kernel(module), ForwardKernel | None)


def has_forward_hooks(*modules: nn.Module) -> bool:
    """Returns whether one of the modules has a forward hook or a forward pre-hook."""
    return any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def is_plain_weight(weight: Any) -> bool:
    """Returns whether a weight is a parameter of torch's own class: not quantized, sharded, or parametrized."""
    return type(weight) is nn.Parameter


def is_unaltered(module: nn.Module) -> bool:
    """Returns whether the module has no hooks and only plain weights, and `forward` is the class's own or a kernel."""
    if not is_replaceable(module) or any(getattr(module, hooks) for hooks in HOOK_ATTRIBUTES):
        return False
    return all(weight is None or is_plain_weight(weight) for weight in module._parameters.values())


def is_plain(module: nn.Module) -> bool:
    """Returns whether a call of the module runs its class's `forward` and nothing else. (An adapter or a
    parametrization changes the module's class.)"""
    return find_kernel(module) is None and is_unaltered(module)


def is_exact_linear(module: nn.Module) -> bool:
    """Returns whether the module computes x W^T + b from its own weight and nothing else, with or without a kernel."""
    return type(module) is nn.Linear and is_unaltered(module)
