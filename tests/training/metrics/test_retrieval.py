"""Ranks and recalls against brute force over every pair, and what is kept of rows."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from plait.training.metrics.retrieval import (
    RetrievalItem,
    RetrievalMetrics,
    compute_ranks,
    compute_retrieval_scores,
    zero_shot_accuracy,
)
from plait.training.recipes.errors import RecipeError
from plait.training.tasks.retrieval import compute_chance

PAIR = ("text", "image")


def vectors(count: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return F.normalize(torch.randint(-2, 3, (count, 3), generator=generator).float() + 0.1, dim=-1)


def made(images: int = 13) -> list[RetrievalItem]:
    """Pictures with one to four captions; some captions are of several pictures, one picture has none, another stands
    in two rows."""
    items = []
    pictures, words = vectors(images, 0), vectors(3 * images, 1)
    for row in range(images):
        name = f"row {row}"
        items.append(
            RetrievalItem("image", f"picture {row % (images - 1)}", name, pictures[row % (images - 1)].numpy())
        )
        for number in range(0 if row == 4 else 1 + row % 4):
            caption = (2 * row + number) % (3 * images)
            items.append(RetrievalItem("text", f"caption {caption}", name, words[caption].numpy()))
    return items


def brute_force(items: list[RetrievalItem], first: str, second: str) -> list[int]:
    """The rank of each distinct query, pair by pair."""
    queries = {item.key: item.vector for item in items if item.side == first}
    others = {item.key: item.vector for item in items if item.side == second}
    rows = {side: {} for side in (first, second)}
    for item in items:
        rows[item.side].setdefault(item.key, set()).add(item.row)
    found = []
    for key, query in queries.items():
        own = {other for other in others if rows[first][key] & rows[second][other]}
        if own:
            best = max(float(np.float32(query @ others[other])) for other in own)
            better = [other for other in others if other not in own and float(query @ others[other]) >= best - 1e-7]
            found.append(1 + len(better))
    return found


def test_recalls_and_ranks_are_those_of_brute_force() -> None:
    items = made()
    scores = compute_retrieval_scores(items, PAIR)
    recalls = []
    for first, second in (PAIR, PAIR[::-1]):
        found = brute_force(items, first, second)
        assert len(set(found)) > 3
        for depth in (1, 5, 10):
            expected = sum(rank <= depth for rank in found) / len(found)
            assert scores[f"{first}_to_{second}_recall@{depth}"] == pytest.approx(expected)
            recalls.append(expected)
        assert scores[f"{first}_to_{second}_median_rank"] == np.median(found)
        assert scores[f"{first}_to_{second}_mrr"] == pytest.approx(np.mean([1 / rank for rank in found]))
    assert scores["mean_recall"] == pytest.approx(np.mean(recalls))


def test_blocks_change_nothing_and_the_whole_table_never_stands() -> None:
    generator = torch.Generator().manual_seed(2)
    queries, items = (F.normalize(torch.randn(count, 3, generator=generator), dim=-1) for count in (40, 30))
    relevant = [[row % 30, (row * 7) % 30] for row in range(40)]
    whole = compute_ranks(queries, items, relevant)
    for block in (1, 31, 95, 10_000):
        assert np.array_equal(compute_ranks(queries, items, relevant, block), whole)


def test_a_space_in_which_all_are_alike_finds_nothing() -> None:
    same = torch.ones(6, 2) / math.sqrt(2)
    assert compute_ranks(same, same, [[row] for row in range(6)]).tolist() == [6] * 6


def test_rows_of_several_batches_come_together() -> None:
    metrics = RetrievalMetrics(["text_to_image_recall@1", "mean_recall"], PAIR)
    items = made()
    metrics.reset()
    metrics.update([items[:5], items[5:9]])
    metrics.update([items[9:]])
    scores = compute_retrieval_scores(items, PAIR)
    assert metrics.compute() == {name: scores[name] for name in metrics.names}
    metrics.reset()
    with pytest.raises(ValueError, match="no row has a text"):
        metrics.compute()
    with pytest.raises(RecipeError, match="text_to_image_recall@1"):
        RetrievalMetrics(["text_to_image_recal@1"], PAIR)


def test_chance_is_what_random_orders_give() -> None:
    """Of 12 items three are one's own: measured over many random orders."""
    generator = np.random.default_rng(0)
    found: Any = np.array([min(generator.permutation(12)[:3]) + 1 for _ in range(20_000)])
    expected = compute_chance("a_to_b", 12, 3)
    for depth in (1, 5, 10):
        assert expected[f"a_to_b_recall@{depth}"] == pytest.approx((found <= depth).mean(), abs=0.012)


def test_zero_shot_accuracy_counts_the_likeliest() -> None:
    probabilities = torch.tensor([[0.7, 0.2, 0.1], [0.1, 0.5, 0.4], [0.3, 0.4, 0.3]])
    assert zero_shot_accuracy(probabilities, [0, 2, 1]) == pytest.approx(2 / 3)
    assert zero_shot_accuracy(probabilities, [0, 2, 1], depth=2) == 1
