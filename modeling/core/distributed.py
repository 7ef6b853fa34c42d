"""Rows of all processes, with gradients: what one process computes alone, several compute together."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn
from transformers.utils.import_utils import is_torchdynamo_compiling


class Gathered(NamedTuple):
    """tensors: (rows of all processes, ...) each, in the order of the processes; start: the number of this process's
    first row among them; processes: how many took part."""

    tensors: tuple[Tensor, ...]
    start: int
    processes: int


class GatherRows(torch.autograd.Function):
    """Concatenate the equally shaped tensors of all processes. The gradient of a row is the sum of what the losses of
    all processes ask of it, so that the mean over processes is that of one process with all rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        pieces = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(pieces, tensor)
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def is_distributed() -> bool:
    """Whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_rows(tensors: Sequence[Tensor]) -> Gathered:
    """Rows of all processes; a process may have any number of them, also none, but as many in every tensor.

    tensors: (rows, ...) each, as wide in every process. Those of one type travel together, so that processes wait for
    each other in the same order whatever their rows hold. Without several processes they are returned as they are.
    """
    if not is_distributed():
        return Gathered(tuple(tensors), 0, 1)
    trained = any(tensor.requires_grad for tensor in tensors) and torch.is_grad_enabled()
    own = torch.tensor([len(tensors[0]), trained], device=tensors[0].device)
    said = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(said, own)
    counts, grads = torch.stack(said).T.tolist()
    kept = torch.cat([torch.arange(max(counts)) < count for count in counts]).to(own.device)
    gathered: list[Tensor] = list(tensors)
    for dtype in dict.fromkeys(tensor.dtype for tensor in tensors):
        numbers = [number for number, tensor in enumerate(tensors) if tensor.dtype == dtype]
        together = torch.cat([tensors[number].flatten(1) for number in numbers], dim=1)
        every = gather_equal_rows(pad_rows(together, max(counts)), dtype.is_floating_point and any(grads))[kept]
        parts = every.split([tensors[number].shape[1:].numel() for number in numbers], dim=1)
        for number, part in zip(numbers, parts, strict=True):
            gathered[number] = part.reshape(len(every), *tensors[number].shape[1:])
    return Gathered(tuple(gathered), sum(counts[: distributed.get_rank()]), len(counts))


def gather_equal_rows(tensor: Tensor, trained: bool) -> Tensor:
    """The rows of all processes, of a tensor with as many in each, with gradients where one of them needs these."""
    if trained and not tensor.requires_grad:
        tensor.requires_grad_()
    return GatherRows.apply(tensor.contiguous()) if tensor.numel() else tensor


def pad_rows(tensor: Tensor, length: int) -> Tensor:
    """Rows of zeros behind those of a tensor, `length` in all."""
    return torch.cat((tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])))


def trains_distributed() -> bool:
    """Whether this process trains along with others, which expect a gradient of every weight from it."""
    if is_torchdynamo_compiling() or not torch.is_grad_enabled():
        return False
    return distributed.is_available() and distributed.is_initialized()


def zero_with_grad(tower: nn.Module) -> Tensor:
    """Zero, with a gradient of zeros for every weight that is trained: no part of the tower is run."""
    parts = [weight.flatten()[:0].float().sum() for weight in tower.parameters() if weight.requires_grad]
    return torch.stack(parts).sum() if parts else torch.zeros(())
