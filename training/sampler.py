"""The order in which rows are trained on when rows that share a picture should meet in one batch."""

from collections.abc import Callable, Hashable, Iterator, Sequence

import torch
from torch.utils.data import Sampler


class PictureSampler(Sampler[int]):
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
        for group in shuffled(len(self.groups), self.seed * 1_000_003 + self.epoch()):
            yield from self.groups[group]


def group_rows(keys: Sequence[Hashable]) -> list[list[int]]:
    """Row numbers by key, in the order of first appearance; a row whose key is None is a group of its own."""
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(keys):
        groups.setdefault(("alone", row) if key is None else ("key", key), []).append(row)
    return list(groups.values())


def shuffled(count: int, seed: int) -> list[int]:
    """The numbers below `count` in an order that depends on the seed alone."""
    return torch.randperm(count, generator=torch.Generator().manual_seed(seed)).tolist()
