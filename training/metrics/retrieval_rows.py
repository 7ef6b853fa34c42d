"""The metrics of retrieval by row of the data, for their intervals over the rows."""

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np

from .per_row import RowAnswers, RowScore


class QueryRanks(NamedTuple):
    """Queries of one side. ranks: (queries,) from 1; owners: the number of the row of each; rows: their count."""

    ranks: np.ndarray
    owners: list[int]
    rows: int


def score_direction(found: QueryRanks, depths: Sequence[int]) -> dict[str, RowScore | RowAnswers]:
    """Returns what recalls, MRR and the median rank of one direction are computed from, row by row."""
    owners = np.asarray(found.owners, dtype=int)
    weights = np.bincount(owners, minlength=found.rows).astype(float)
    scores: dict[str, RowScore | RowAnswers] = {
        f"recall@{depth}": RowScore(np.bincount(owners, found.ranks <= depth, found.rows), weights) for depth in depths
    }
    held = np.empty(found.rows, dtype=object)
    order = np.argsort(owners, kind="stable")
    held[:] = np.split(found.ranks[order], np.searchsorted(owners[order], np.arange(1, found.rows)))
    scores["median_rank"] = RowAnswers(weights, held, compute_median)
    return {**scores, "mrr": RowScore(np.bincount(owners, 1 / found.ranks, found.rows), weights)}


def score_mean_recall(scores: Sequence[RowScore]) -> RowAnswers:
    """Returns what the mean of several recalls is computed from, row by row."""
    weights, totals = (np.stack([getattr(score, name) for score in scores], axis=1) for name in ("weights", "totals"))
    return RowAnswers(weights, totals, compute_mean_ratio)


def compute_mean_ratio(weights: np.ndarray, totals: np.ndarray) -> float:
    """Computes the mean over columns of the sum of totals over that of weights, both (rows, columns)."""
    return float((totals.sum(axis=0) / weights.sum(axis=0)).mean())


def compute_median(weights: np.ndarray, ranks: np.ndarray) -> float:
    """Computes the median rank of the queries of all rows; ranks: (rows,) of arrays."""
    return float(np.median(np.concatenate(list(ranks))))


def group_connected_rows(items: Sequence[tuple[str, Hashable, Hashable]]) -> list[int]:
    """Returns the number of the group of each row, in the order of the rows: rows that have an item in common, also by
    way of others, are a group. items: the row, the side and the key of each."""
    parents: dict[Hashable, Hashable] = {}

    def find(node: Hashable) -> Hashable:
        while parents.setdefault(node, node) != node:
            parents[node] = node = parents[parents[node]]
        return node

    for row, side, key in items:
        parents[find(row)] = find((side, key))
    numbers: dict[Hashable, int] = {}
    return [numbers.setdefault(find(row), len(numbers)) for row in dict.fromkeys(row for row, _, _ in items)]
