"""The order in which rows are trained on: rows that share a picture together, or rows of like length."""

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

SEED_STRIDE = 1_000_003  # between the seeds of neighbouring runs: more than there are epochs


class SharedImageSampler(Sampler[int]):
    """All rows of one picture, then all of the next; the pictures are shuffled anew in every epoch.

    A batch is cut from this order, so it holds all rows of some pictures (at its two ends a picture may go on in the
    neighbouring batch), and a collator that finds the shared ones encodes each once. The order depends on `seed` and
    `epoch()` alone: every process draws the same one and a resumed run goes on in it.

    Args:
        keys: the picture of each row; rows with None have no picture and stand alone.
        seed: of the shuffle.
        epoch: asked for the number of the epoch whenever the rows are walked through.
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


class LengthSampler(Sampler[int]):
    """Batches of so many rows of like length, in an order shuffled anew in every epoch; rows of equal length change
    their batches. Seed and epoch as in `SharedImageSampler`."""

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
        first = len(rows) % self.batch_size  # the shortest rows: the batch that is not full must be the last
        starts = range(first, len(rows), self.batch_size)
        for batch in shuffle_indices(len(starts), seed):
            yield from rows[starts[batch] : starts[batch] + self.batch_size]
        yield from rows[:first]


class TokenBatchSampler(Sampler[list[int]]):
    """Batches of rows of like length that hold at most `tokens` tokens, padding counted; a longer row stands alone.

    The lengths of the batches are the same in every epoch, and so is their number, a multiple of `processes`; their
    order, and which of the rows of one length they hold, are drawn anew. Seed and epoch as in `SharedImageSampler`.
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
    """Row numbers from the shortest to the longest, rows of equal length in an order that depends on the seed."""
    return sorted(shuffle_indices(len(lengths), seed), key=lengths.__getitem__)


def cut_batches(lengths: Sequence[int], tokens: int) -> list[tuple[int, int]]:
    """Where to cut rows of ascending length into batches: (start, end) by batch."""
    cuts, start = [], 0
    for row, length in enumerate(lengths):
        if row > start and (row - start + 1) * length > tokens:
            cuts.append((start, row))
            start = row
    return [*cuts, (start, len(lengths))]


def balance_cuts(cuts: list[tuple[int, int]], processes: int) -> list[tuple[int, int]]:
    """The largest batches halved until each process gets as many as the others.

    Raises:
        ValueError: fewer rows than processes.
    """
    cuts = list(cuts)
    while len(cuts) % processes:
        start, end = max(cuts, key=lambda cut: cut[1] - cut[0])
        if end - start < 2:
            raise ValueError(f"{len(cuts)} batches of one row cannot be shared by {processes} processes")
        cuts.remove((start, end))
        cuts += [(start, (start + end) // 2), ((start + end) // 2, end)]
    return cuts


def group_rows(keys: Sequence[Hashable]) -> list[list[int]]:
    """Row numbers by key, in the order of first appearance; a row whose key is None is a group of its own."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(("alone", row) if key is None else ("key", key), []).append(row)
    return list(groups.values())


def shuffle_indices(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order that depends on the seed alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
