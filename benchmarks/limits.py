"""The limits of this machine, measured: how fast one thread multiplies matrices, and how fast it reads memory.

No computation of so many products, or that reads so many bytes, can take less time; a share of 1.0 is the end.
"""

import time
from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from plait.modeling.kernels.linear import list_kernels

SIZE = 1536  # of the square matrices whose product is timed
READ_BYTES = 2**28  # more than the processor's caches hold


class Work(NamedTuple):
    """What a computation must do: floating-point operations of matrix products, and bytes that it reads of weights
    where reading them takes longer than multiplying (one token at a time)."""

    operations: float
    bytes_read: float = 0.0
    dtype: torch.dtype = torch.float32


class Limits(NamedTuple):
    """Operations per second by dtype, and bytes per second."""

    operations: Mapping[torch.dtype, float]
    bytes_read: float

    def least_seconds(self, work: Work) -> float:
        """The time that the work takes at least on this machine."""
        return work.operations / self.operations[work.dtype] + work.bytes_read / self.bytes_read

    def describe(self, work: Work) -> str:
        parts = []
        if work.operations:
            speed = self.operations[work.dtype] / 1e9
            parts.append(f"{work.operations / 1e9:.1f} GFLOP at {speed:.0f} GFLOP/s")
        if work.bytes_read:
            parts.append(f"{work.bytes_read / 1e9:.2f} GB at {self.bytes_read / 1e9:.1f} GB/s")
        return " and ".join(parts)


def count_operations(compute: Callable[[], object]) -> float:
    """The floating-point operations of a computation's matrix products and attention, two for each multiplication."""
    with FlopCounterMode(display=False) as counter:
        compute()
    return float(counter.get_total_flops())


def fastest(functions: list[Callable[[], object]], repeats: int = 4) -> float:
    """The least CPU seconds of one call, of all functions."""
    times = []
    with torch.inference_mode():
        for _ in range(repeats):
            for function in functions:
                start = time.process_time()
                function()
                times.append(time.process_time() - start)
    return min(times)


def measure_limits(dtype: torch.dtype = torch.float32) -> Limits:
    """Measures them by the fastest of the kernels of a large product, and the faster of two ways to read."""
    a, b = torch.ones(SIZE, SIZE, dtype=dtype), torch.ones(SIZE, SIZE, dtype=dtype)
    products: list[Callable[[], object]] = [
        lambda kernel=kernel: kernel(a, b, None) for kernel in list_kernels(SIZE, dtype).values()
    ]
    memory: Tensor = torch.ones(READ_BYTES // 4)
    reading: list[Callable[[], object]] = [lambda: memory.sum(), lambda: torch.dot(memory, memory)]
    return Limits({dtype: 2 * SIZE**3 / fastest(products)}, READ_BYTES / fastest(reading))
