"""Samplers that group the training rows by shared image or by length."""

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

SEED_STRIDE = (
    1_000_003  # distance between the epoch seeds of runs with neighbouring seeds, larger than any number of epochs
)


class SharedImageSampler(Sampler[int]):
    """A sampler that yields all rows of one image, then all rows of the next; images are reshuffled in every epoch.

    A batch is cut from this order, so it has all rows of some images (those at its ends may continue in neighbouring
    batches), and a collator can encode each shared image once. The order depends only on `seed` and `epoch()`, so it
    is the same in every process and in a resumed run.

    Args:
        keys: the image of each row; a row with None has no image and is a group of its own.
        seed: seed of the shuffle.
        epoch: called at the start of each iteration; returns the number of the epoch.
    """

    def __init__(self, keys: Sequence[Hashable], seed: int, epoch: Callable[[], int]) -> None:
        self.groups = group_rows(keys)
        self.length = len(keys)
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return self.length

    def __iter__(self) -> Iterator[int]:
        for group in shuffle_indices(len(self.groups), self.seed * SEED_STRIDE + self.epoch()):
            yield from self.groups[group]


class BucketSampler(Sampler[int]):
    """A sampler whose consecutive `batch_size` rows are of one bucket; batches and their rows are reshuffled in every
    epoch. Every row is yielded once; random rows of its bucket, yielded again, fill the last batch of each.

    Args:
        buckets: the bucket of each row.
        batch_size: rows of a batch, at least 1.
        seed, epoch: as in `SharedImageSampler`.
    """

    def __init__(self, buckets: Sequence[Hashable], batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.groups = group_rows(buckets)
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return sum(-(-len(group) // self.batch_size) * self.batch_size for group in self.groups)

    def __iter__(self) -> Iterator[int]:
        seed = self.seed * SEED_STRIDE + self.epoch()
        batches: list[list[int]] = []
        for group in self.groups:
            order = [group[place] for place in shuffle_indices(len(group), seed)]
            order += (order * self.batch_size)[: -len(order) % self.batch_size]
            batches += [order[start : start + self.batch_size] for start in range(0, len(order), self.batch_size)]
        for number in shuffle_indices(len(batches), seed):
            yield from batches[number]


class LengthSampler(Sampler[int]):
    """A sampler whose consecutive `batch_size` rows have similar lengths; batches, and rows of equal length, are
    reshuffled in every epoch. `seed` and `epoch` are as in `SharedImageSampler`."""

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, epoch: Callable[[], int]) -> None:
        self.lengths = lengths
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.lengths)

    def __iter__(self) -> Iterator[int]:
        seed = self.seed * SEED_STRIDE + self.epoch()
        rows = sort_by_length(self.lengths, seed)
        first = len(rows) % self.batch_size  # the shortest rows make the incomplete batch, which must come last
        starts = range(first, len(rows), self.batch_size)
        for batch in shuffle_indices(len(starts), seed):
            yield from rows[starts[batch] : starts[batch] + self.batch_size]
        yield from rows[:first]


class TokenBatchSampler(Sampler[list[int]]):
    """A sampler of batches of rows of similar lengths, with at most `tokens` tokens, padding included.

    A row that is longer than `tokens` is a batch by itself. The number of batches, a multiple of `processes`, and their
    sizes are the same in every epoch; their order, and the assignment of rows of equal length, are reshuffled. `seed`
    and `epoch` are as in `SharedImageSampler`.
    """

    def __init__(
        self,
        lengths: Sequence[int],
        tokens: int,
        seed: int,
        epoch: Callable[[], int],
        processes: int = 1,
        process: int = 0,
    ) -> None:
        self.lengths = lengths
        self.seed = seed
        self.epoch = epoch
        self.processes, self.process = processes, process
        self.cuts = balance_cuts(cut_batches(sorted(lengths), tokens), processes)

    def __len__(self) -> int:
        return len(self.cuts) // self.processes

    def __iter__(self) -> Iterator[list[int]]:
        seed = self.seed * SEED_STRIDE + self.epoch()
        rows = sort_by_length(self.lengths, seed)
        for batch in shuffle_indices(len(self.cuts), seed)[self.process :: self.processes]:
            start, end = self.cuts[batch]
            yield rows[start:end]


def sort_by_length(lengths: Sequence[int], seed: int) -> list[int]:
    """Returns row numbers from the shortest to the longest row; rows of equal length are shuffled by the seed."""
    return sorted(shuffle_indices(len(lengths), seed), key=lengths.__getitem__)


def cut_batches(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Returns (start, end) of each batch, for rows of ascending length and at most `tokens` tokens per batch."""
    cuts, start = [], 0
    for row, length in enumerate(lengths):
        if row > start and (row - start + 1) * length > tokens:
            cuts.append((start, row))
            start = row
    return [*cuts, (start, len(lengths))]


def balance_cuts(cuts: list[tuple[int, int]], processes: int) -> list[tuple[int, int]]:
    """Halves the largest batches until their number is a multiple of `processes`.

    Raises:
        ValueError: fewer rows than processes.
    """
    cuts = list(cuts)
    while len(cuts) % processes:
        start, end = max(cuts, key=lambda cut: cut[1] - cut[0])
        if end - start < 2:
            raise ValueError(
                f"{len(cuts)} batches of one row cannot be shared by {processes} processes: use fewer processes"
            )
        cuts.remove((start, end))
        cuts += [(start, (start + end) // 2), ((start + end) // 2, end)]
    return cuts


def group_rows(keys: Sequence[Hashable]) -> list[list[int]]:
    """Groups row numbers by key, in order of first appearance; a row whose key is None is a group of its own."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(("alone", row) if key is None else ("key", key), []).append(row)
    return list(groups.values())


def shuffle_indices(count: int, seed: int) -> list[int]:
    """Returns the numbers below `count` in an order that depends only on the seed."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
