"""Deletion and insertion: what a score loses when the parts that an explanation names are removed, and gains when they
are put back (Petsiuk et al. 2018, https://arxiv.org/abs/1806.07421)."""

from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np

from ...data.media import Row
from .ranks import compute_area
from .removal import RemovableParts, order_parts

ScoreProbabilities = Callable[[Sequence[Row], Sequence[int]], np.ndarray]  # rows that stand for the numbered ones


class Ordering(NamedTuple):
    """An order of the parts of one input of a row: the row's number, the input, and the parts' values."""

    number: int
    name: str
    parts: RemovableParts


def measure_orderings(
    orderings: Sequence[Ordering], score: ScoreProbabilities, steps: int, batch_size: int
) -> np.ndarray:
    """Returns (orderings,) the area under the insertion curve minus that under the deletion curve, -1..1.

    Parts are put back, and removed, the largest value first, in at most `steps` steps.
    """
    rows: list[Row] = []
    numbers: list[int] = []
    lengths = []
    for number, _, parts in orderings:
        masks = order_parts(parts.values, steps)
        rows += [parts.build(mask) for mask in masks] + [parts.build(~mask) for mask in masks]
        numbers += [number] * (2 * len(masks))
        lengths.append(len(masks))
    scores = np.concatenate(
        [score(rows[at : at + batch_size], numbers[at : at + batch_size]) for at in range(0, len(rows), batch_size)]
        or [np.zeros(0)]
    )
    found, start = [], 0
    for length in lengths:
        inserted, deleted = scores[start : start + 2 * length].reshape(2, length)
        found.append(compute_area(inserted) - compute_area(deleted) if length > 1 else float("nan"))
        start += 2 * length
    return np.array(found)


def reorder(ordering: Ordering, values: np.ndarray) -> Ordering:
    """Returns the same parts with other values."""
    return ordering._replace(parts=ordering.parts._replace(values=values))


def draw_orders(orderings: Sequence[Ordering], count: int, seed: int) -> list[list[Ordering]]:
    """Returns each ordering `count` times with random values."""
    generator = np.random.default_rng(seed)
    return [
        [reorder(ordering, generator.random(len(ordering.parts.values))) for _ in range(count)]
        for ordering in orderings
    ]


def group_by_input(orderings: Sequence[Ordering], values: np.ndarray) -> Mapping[str, dict[int, float]]:
    """Returns {modality: {row: the mean over the row's inputs of this modality}}."""
    found: dict[str, dict[int, list[float]]] = {}
    for ordering, value in zip(orderings, values.tolist(), strict=True):
        found.setdefault(ordering.name.partition(".")[0], {}).setdefault(ordering.number, []).append(value)
    return {name: {row: float(np.mean(own)) for row, own in rows.items()} for name, rows in found.items()}
