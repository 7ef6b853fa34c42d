"""Counts the bytes of tensors that live at once while a forward and a backward pass run."""

import weakref
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class LiveBytes(TorchDispatchMode):
    """A context that counts the bytes of all storages that operations make inside it, and the largest sum of those that
    live at once, on any device. What an operation needs only while it runs is not seen.

    Attributes:
        current, peak: bytes.
    """

    def __init__(self, known: list[Tensor]) -> None:
        super().__init__()
        self.current = self.peak = 0
        self.seen: dict[int, weakref.ref] = {}
        self.known = {tensor.untyped_storage()._cdata for tensor in known}  # weights, which are counted elsewhere

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for leaf in tree_leaves(result):
            if isinstance(leaf, Tensor):
                for dense in list_dense(leaf):
                    self.add(dense)
        return result

    def add(self, tensor: Tensor) -> None:
        """Counts the storage of a tensor until it is freed, once."""
        storage = tensor.untyped_storage()
        key = storage._cdata
        if key in self.known or key in self.seen:
            return
        size = storage.nbytes()

        def free(_: Any) -> None:
            self.current -= size
            self.seen.pop(key, None)

        self.seen[key] = weakref.ref(storage, free)
        self.current += size
        self.peak = max(self.peak, self.current)


def list_dense(tensor: Tensor) -> list[Tensor]:
    """Returns a dense tensor itself; of a sparse one, such as an embedding's gradient, its indices and values."""
    if tensor.layout == torch.strided:
        return [tensor]
    return [tensor._indices(), tensor._values()] if tensor.layout == torch.sparse_coo else []
