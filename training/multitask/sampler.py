"""Batches of one task each, the tasks sampled by the sizes of their data."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from ..data.samplers import SEED_STRIDE, shuffle_indices


def compute_task_shares(sizes: Sequence[int], temperature: float) -> list[float]:
    """Returns the probability of sampling each task: p_i proportional to n_i^(1/T) for n_i rows (multilingual BERT,
    Devlin 2019; T5, Raffel et al. 2020, https://arxiv.org/abs/1910.10683, section 3.5.2). T = 1: by size; a higher T
    makes the probabilities more equal.

    Raises ValueError for a temperature that is not above 0.
    """
    if not temperature > 0:
        raise ValueError(f"temperature is {temperature}: expected a number above 0 (1: by size; inf: all equal)")
    largest = max(sizes)  # the shares do not change with a common factor, and n / n_max does not overflow
    scaled = [(size / largest) ** (1 / temperature) for size in sizes]
    return [share / sum(scaled) for share in scaled]


class TaskRows(Dataset):
    """The rows of all tasks, one task after the other; an item is a task's name and one of its rows."""

    def __init__(self, parts: Mapping[str, Any]) -> None:
        self.parts = dict(parts)
        self.names = [name for name, part in self.parts.items() for _ in range(len(part))]
        self.starts, start = {}, 0
        for name, part in self.parts.items():
            self.starts[name] = start
            start += len(part)

    def __len__(self) -> int:
        return len(self.names)

    def __getitem__(self, number: int) -> tuple[str, dict[str, Any]]:
        if not 0 <= number < len(self):
            raise IndexError(number)
        name = self.names[number]
        return name, self.parts[name][number - self.starts[name]]


class TaskBatchSampler(Sampler[list[int]]):
    """Samples batches of `rows` rows of one task, in every epoch anew, by `compute_task_shares`.

    An epoch has the number of batches that the rows of all tasks fill. The rows of a task come in a shuffled order, and
    in another one when all have been used. All processes sample the same task for a step. The order depends on `seed`
    and `epoch()` alone.
    """

    def __init__(
        self,
        data: TaskRows,
        rows: int,
        temperature: float,
        seed: int,
        epoch: Callable[[], int],
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.sizes = [len(part) for part in data.parts.values()]
        self.starts = list(data.starts.values())
        self.shares = compute_task_shares(self.sizes, temperature)
        self.rows, self.seed, self.epoch = rows, seed, epoch
        self.processes, self.process = processes, process

    def __len__(self) -> int:
        return max(1, sum(self.sizes) // (self.rows * self.processes))

    def __iter__(self) -> Iterator[list[int]]:
        seed = self.seed * SEED_STRIDE + self.epoch()
        generator = torch.Generator().manual_seed(seed)
        tasks = torch.multinomial(torch.tensor(self.shares), len(self), replacement=True, generator=generator)
        flows = [self.iterate_rows(task, seed) for task in range(len(self.sizes))]
        for task in tasks.tolist():
            batch = [next(flows[task]) for _ in range(self.rows * self.processes)]
            yield batch[self.process * self.rows : (self.process + 1) * self.rows]

    def iterate_rows(self, task: int, seed: int) -> Iterator[int]:
        """Yields a task's row numbers without end, shuffled anew for every pass."""
        turn = 0
        while True:
            order = shuffle_indices(self.sizes[task], hash((seed, task, turn)) % 2**62)
            yield from (self.starts[task] + row for row in order)
            turn += 1
