"""The limits of this machine, measured: how fast it multiplies matrices, and how fast it reads memory.

No computation of so many products, or that reads so many bytes, can take less time; a share of 1.0 is the end.
"""

import os
import time
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from plait.modeling.kernels.linear import halved_linear, list_kernels

SIZE = 1536  # of the square matrices whose product is timed
REPEATS = 4
READ_BYTES = 2**28  # more than the processor's caches hold
READ_WIDTH = 1024  # of the matrix that is read by a product with a vector


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
    """The floating-point operations of a computation's matrix products, two for each multiplication, as torch's
    profiler counts them in torch's own kernels, so before weights are packed or products chosen; those inside
    attention are not counted."""
    kept = os.environ.get("PLAIT_AUTOTUNE")
    os.environ["PLAIT_AUTOTUNE"] = "0"
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], with_flops=True) as profile:
            compute()
    finally:
        os.environ.pop("PLAIT_AUTOTUNE")
        os.environ |= {} if kept is None else {"PLAIT_AUTOTUNE": kept}
    return float(sum(event.flops for event in profile.key_averages()))


def process_seconds(function: Callable[[], object]) -> float:
    """The CPU seconds of a call."""
    start = time.process_time()
    function()
    return time.process_time() - start


def measure_limits(
    dtype: torch.dtype = torch.float32,
    device: str = "cpu",
    seconds: Callable[[Callable[[], object]], float] = process_seconds,
    size: int = SIZE,
) -> Limits:
    """Measures them by the fastest of the kernels of a large product, and the fastest of three ways to read: a sum, a
    product of two vectors, one of a matrix and a vector."""
    a = torch.ones(size, size, dtype=dtype, device=device)
    kernels = list_kernels(size, dtype) if device == "cpu" else {"torch": torch.nn.functional.linear}
    memory: Tensor = torch.ones(READ_BYTES // 4, device=device)
    products: list[Callable[[], object]] = [partial(kernel, a, a, None) for kernel in kernels.values()]
    row, matrix = torch.ones(1, READ_WIDTH, device=device), memory.view(-1, READ_WIDTH)
    reading: list[Callable[[], object]] = [partial(torch.sum, memory), partial(torch.dot, memory, memory)]
    reading.append(partial(halved_linear, row, matrix, None))
    with torch.inference_mode():
        fastest = [min(seconds(one) for _ in range(REPEATS) for one in ways) for ways in (products, reading)]
    return Limits({dtype: 2 * size**3 / fastest[0]}, READ_BYTES / fastest[1])
