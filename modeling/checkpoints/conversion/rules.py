"""Rules of conversion: how one parameter of a file becomes one or several of ours, and back."""

from typing import TypeVar

import torch
from torch import Tensor

Value = TypeVar("Value")


class Rule:
    """How one of their tensors becomes ours and back; this one only renames."""

    def __init__(self, *targets: str) -> None:
        self.targets = targets

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        """Their tensor to ours, one for each target."""
        return (tensor,)

    def backward(self, *tensors: Tensor) -> Tensor:
        """Our tensors, in the order of the targets, to theirs: bit-equal to what `forward` took."""
        return tensors[0]


class Alias(Rule):
    """Another name of a tied tensor (of several, all its targets): read where the others are missing; written where the
    others are not, or untied."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (tensor,) * len(self.targets)

    def backward(self, *tensors: Tensor) -> Tensor:
        return tensors[0].clone()  # a file holds no tensor twice


class OptionalRule(Rule):
    """A module of a head that some of its settings do without."""


class Split(Rule):
    """A fused tensor: equal chunks of dimension 0, one for each target."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return tuple(part.clone() for part in tensor.chunk(len(self.targets)))

    def backward(self, *tensors: Tensor) -> Tensor:
        return torch.cat(tensors)


class Transposed(Rule):
    """A weight stored as (in, out), such as GPT-2's Conv1D; a bias is left as it is."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (transpose_matrix(tensor),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return transpose_matrix(tensors[0])


class TransposedSplit(Split):
    """A fused weight stored as (in, out): equal chunks of its outputs."""

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return super().forward(transpose_matrix(tensor))

    def backward(self, *tensors: Tensor) -> Tensor:
        return transpose_matrix(super().backward(*tensors))


class Leading(Rule):
    """Ours has `count` more leading dimensions of size 1 than theirs, or fewer where it is negative."""

    def __init__(self, target: str, count: int) -> None:
        super().__init__(target)
        self.count = count

    def forward(self, tensor: Tensor) -> tuple[Tensor, ...]:
        return (add_leading_dims(tensor, self.count),)

    def backward(self, *tensors: Tensor) -> Tensor:
        return add_leading_dims(tensors[0], -self.count)


def transpose_matrix(tensor: Tensor) -> Tensor:
    return tensor.T.contiguous() if tensor.ndim == 2 else tensor


def add_leading_dims(tensor: Tensor, count: int) -> Tensor:
    """Put `count` dimensions of size 1 first, or take them away where it is negative."""
    if count >= 0:
        return tensor[(None,) * count]
    if tensor.shape[:-count].numel() != 1:
        raise ValueError(f"shape {tuple(tensor.shape)} does not begin with {-count} dimensions of size 1")
    return tensor.reshape(tensor.shape[-count:])


NameTable = dict[str, str | Rule | None]
