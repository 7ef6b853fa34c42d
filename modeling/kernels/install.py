"""Installs a kernel in the place of a module's `forward`, finds it and removes it again.

A kernel shadows the class's `forward` in the module's own `__dict__`: the state dict, the parameter paths and the
module's hooks stay, and a copy of the model computes with the copy's weights.
"""

from typing import Any

from torch import Tensor, nn


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
