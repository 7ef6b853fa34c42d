"""Gathers rows from all processes, with gradients, so that a loss over the whole batch does not depend on how many
processes share it."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, distributed, nn

from ..graphs import is_recording_graph


class Gathered(NamedTuple):
    """Rows gathered from all processes. tensors: (rows of all processes, ...) each, in the order of the processes;
    start: index of this process's first row among them; processes: the number of processes."""

    tensors: tuple[Tensor, ...]
    start: int
    processes: int


class GatherRows(torch.autograd.Function):
    """Concatenates the equally shaped tensors of all processes. The gradient of a row is the sum of its gradients from
    the losses of all processes, so that the mean over processes equals that of one process with all rows."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor) -> Tensor:
        """Maps this process's tensor: (rows, ...) to (processes * rows, ...)."""
        pieces = [torch.empty_like(tensor) for _ in range(distributed.get_world_size())]
        distributed.all_gather(pieces, tensor)
        return torch.cat(pieces)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        """Sums the gradients of all processes and returns this process's rows of them."""
        total = gradients[0].contiguous().clone()
        distributed.all_reduce(total)
        return total.chunk(distributed.get_world_size())[distributed.get_rank()]


def is_distributed() -> bool:
    """Returns whether several processes train together."""
    return distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1


def gather_rows(tensors: Sequence[Tensor]) -> Gathered:
    """Gathers the rows of all processes; a process may have any number of rows, also none.

    tensors: (rows, ...), all with the same number of rows, and each of the same width in every process. Tensors of one
    dtype are exchanged together, so that all processes wait for each other in the same order whatever their rows hold.
    With a single process the tensors are returned unchanged.
    """
    if not is_distributed():
        return Gathered(tuple(tensors), 0, 1)
    trained = any(tensor.requires_grad for tensor in tensors) and torch.is_grad_enabled()
    own = torch.tensor([len(tensors[0]), trained], device=tensors[0].device)
    reports = [torch.empty_like(own) for _ in range(distributed.get_world_size())]
    distributed.all_gather(reports, own)
    counts, grads = torch.stack(reports).T.tolist()
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
    """Gathers a tensor that has the same number of rows in every process; with gradients if `trained`."""
    if trained and not tensor.requires_grad:
        tensor.requires_grad_()
    return GatherRows.apply(tensor.contiguous()) if tensor.numel() else tensor


def pad_rows(tensor: Tensor, length: int) -> Tensor:
    """Appends rows of zeros to a tensor, (rows, ...), so that it has `length` rows."""
    return torch.cat((tensor, tensor.new_zeros(length - len(tensor), *tensor.shape[1:])))


def trains_distributed() -> bool:
    """Returns whether this process trains in a distributed run, where the others wait for its gradient of every
    weight."""
    if is_recording_graph() or not torch.is_grad_enabled():
        return False
    return distributed.is_available() and distributed.is_initialized()


def zero_with_grad(tower: nn.Module) -> Tensor:
    """Returns a zero whose gradient is zero for every trainable weight of the tower, which is not run. Sharded weights
    are left out: their processes exchange gradients by themselves."""
    trained = [weight for weight in tower.parameters() if weight.requires_grad and type(weight) is nn.Parameter]
    parts = [weight.flatten()[:0].float().sum() for weight in trained]
    return torch.stack(parts).sum() if parts else torch.zeros(())


def is_sharded(module: nn.Module) -> bool:
    """Returns whether weights of the module are sharded (FSDP, ZeRO-3), so that all processes have to run it together,
    whatever their batches hold."""
    if not is_distributed():
        return False
    from torch.distributed.fsdp import FSDPModule, FullyShardedDataParallel

    kinds = (FSDPModule, FullyShardedDataParallel)
    return any(isinstance(part, kinds) for part in module.modules()) or any(
        hasattr(weight, "ds_id") for weight in module.parameters()
    )
