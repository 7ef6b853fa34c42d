"""The rules of conversion: how one tensor of a file becomes one or several of ours, and back."""

from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Rule:
    """How one tensor of a file becomes ours (`targets`) and back; this base class only renames."""

    def __init__(self, *targets: str) -> None:
        self.targets = targets

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Converts a tensor of a file to ours, one for each target."""
        return (tensor,)

    def backward(self, *tensors: Tensor) -> Tensor:
        """Converts our tensors, in the order of the targets, to that of the file: the exact inverse of `forward`."""
        return tensors[0]


class Alias(Rule):
    """A second name on disk of a tied tensor, which all targets share.

    It is read if the targets' own names are missing, and written instead of them, or next to them if they are untied.
    """

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor,) * len(self.targets)

    def backward(self, *tensors: Tensor) -> Tensor:
        return tensors[0].clone()  # a file holds no tensor twice


class OptionalRule(Rule):
    """A module of a head that depends on its settings and may be missing."""


class Split(Rule):
    """A fused tensor on disk: equal chunks of dimension 0, one for each target."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in tensor.chunk(len(self.targets)))

    def backward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors)


class Transposed(Rule):
    """A weight stored on disk as (in, out), as in GPT-2's Conv1D; a bias stays unchanged."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (transpose_matrix(tensor),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return transpose_matrix(tensors[0])


class TransposedSplit(Split):
    """A fused weight stored on disk as (in, out): equal chunks of its outputs, one for each target."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return super().forward(transpose_matrix(tensor))

    def backward(self, *tensors: Tensor) -> Tensor:
        return transpose_matrix(super().backward(*tensors))


class Leading(Rule):
    """A tensor of ours with `count` more leading dimensions of size 1 than on disk (fewer if negative)."""

    def __init__(self, target: str, count: int) -> None:
        super().__init__(target)
        self.count = count

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (add_leading_dims(tensor, self.count),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return add_leading_dims(tensors[0], -self.count)


def transpose_matrix(tensor: Tensor) -> Tensor:
    """Transposes a matrix; returns any other tensor unchanged."""
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor


def add_leading_dims(tensor: Tensor, count: int) -> Tensor:
    """Adds `count` leading dimensions of size 1, or removes them if negative; raises ValueError for other sizes."""
    if count >= 0:
        return tensor[(None,) * count]
    if tensor.shape[:-count].numel() != 1:
        raise ValueError(f"shape {tuple(tensor.shape)} does not begin with {-count} dimensions of size 1 to remove")
    return tensor.reshape(tensor.shape[-count:])


NameTable = dict[str, str | Rule | None]
