"""Metrics of retrieval between two sides (text, image, document): recall, ranks, and zero-shot accuracy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...modeling.tasks.retrieval_encoding import use_eval_mode
from ..recipes.errors import check_choice
from .per_row import RowValues
from .retrieval_rows import QueryRanks, group_connected_rows, score_direction, score_mean_recall

DEPTHS = (1, 5, 10)
SIMILARITIES_PER_BLOCK = 2**23  # similarities at a time: 32 MiB in float32


class RetrievalItem(NamedTuple):
    """The record of one text, image or document of a row. side: "text", "image" or "document"; key: the same for the
    same content; row: the key of its row, the same for all items of the row; vector: (width,) float32."""

    side: str
    key: str
    row: str
    vector: np.ndarray


def compute_ranks(
    queries: Tensor, items: Tensor, relevant: Sequence[Sequence[int]], block: int = SIMILARITIES_PER_BLOCK
) -> np.ndarray:
    """Computes for each query the rank, from 1, of its most similar relevant item: 1 + the number of other items that
    are at least as similar. Its further relevant items do not count.

    queries: (queries, width) and items: (items, width), of unit length; relevant: for each query the numbers of its
    relevant items, at least one; block: similarities computed at a time, to bound the memory.
    """
    size = max(1, min(block // max(len(items), 1), len(queries)))
    # one buffer for all blocks: the allocator does not give back what many large blocks leave between small ones
    scores = queries.new_empty(size, len(items))
    similar = torch.empty_like(scores, dtype=torch.bool)
    ranks = np.zeros(len(queries), dtype=int)
    for start in range(0, len(queries), size):
        part = queries[start : start + size]
        block_ranks = rank_block(
            part, items, relevant[start : start + size], (scores[: len(part)], similar[: len(part)])
        )
        ranks[start : start + size] = block_ranks.cpu().numpy()
    return ranks


def rank_block(
    queries: Tensor, items: Tensor, relevant: Sequence[Sequence[int]], buffers: tuple[Tensor, Tensor]
) -> Tensor:
    """Computes the ranks, (queries,), of a block of queries (see `compute_ranks`). buffers: (queries, items) of the
    vectors' dtype and of booleans, which are overwritten."""
    scores, similar = buffers
    torch.mm(queries, items.T, out=scores)
    rows = torch.tensor([row for row, numbers in enumerate(relevant) for _ in numbers], device=scores.device)
    own = scores[rows, torch.tensor([number for numbers in relevant for number in numbers], device=scores.device)]
    best = scores.new_full((len(scores),), -torch.inf).scatter_reduce(0, rows, own, "amax")
    torch.ge(scores, best[:, None], out=similar)
    # with the relevant ones, which do not count; the sum of a boolean tensor is eight times as slow
    as_similar = similar.view(torch.uint8).sum(dim=1, dtype=torch.int32)
    return 1 + as_similar.index_add(0, rows, (own >= best[rows]).int(), alpha=-1)


def build_recall(depth: int) -> Callable[[np.ndarray], float]:
    """Builds the share, 0..1, of the queries whose rank is at most `depth`."""
    return lambda ranks: float((ranks <= depth).mean())


# of the queries' ranks, (queries,) from 1; MRR is the mean of 1 / rank
RANK_METRICS: dict[str, Callable[[np.ndarray], float]] = {
    **{f"recall@{depth}": build_recall(depth) for depth in DEPTHS},
    "median_rank": lambda ranks: float(np.median(ranks)),
    "mrr": lambda ranks: float((1 / ranks).mean()),
}


class RetrievalSide(NamedTuple):
    """The distinct items of one side. keys: of the items; vectors: (items, width); rows: for each item the keys of the
    rows that contain it."""

    keys: list[str]
    vectors: Tensor
    rows: list[set[str]]


def group_sides(items: Sequence[RetrievalItem]) -> dict[str, RetrievalSide]:
    """Groups items by side and merges equal ones: the same caption or image in several rows is one item."""
    found: dict[str, dict[str, tuple[np.ndarray, set[str]]]] = {}
    for item in items:
        vector, rows = found.setdefault(item.side, {}).setdefault(item.key, (item.vector, set()))
        rows.add(item.row)
    return {
        side: RetrievalSide(
            list(kept), torch.from_numpy(np.stack([v for v, _ in kept.values()])), [r for _, r in kept.values()]
        )
        for side, kept in found.items()
    }


def find_relevant_items(queries: RetrievalSide, items: RetrievalSide) -> list[list[int]]:
    """Finds for each query the numbers of the items that share a row with it."""
    holders: dict[str, list[int]] = {}
    for number, rows in enumerate(items.rows):
        for row in rows:
            holders.setdefault(row, []).append(number)
    return [sorted({number for row in rows for number in holders.get(row, ())}) for rows in queries.rows]


def compute_query_ranks(queries: RetrievalSide, items: RetrievalSide) -> np.ndarray:
    """Computes the ranks of the queries that have a relevant item; the others are left out."""
    return rank_queries(queries, items, {}).ranks


def rank_queries(queries: RetrievalSide, items: RetrievalSide, order: Mapping[str, int]) -> QueryRanks:
    """Computes the ranks of the queries that have a relevant item, with the first row of each, by the rows' numbers in
    `order`."""
    relevant = find_relevant_items(queries, items)
    used = [number for number, numbers in enumerate(relevant) if numbers]
    ranks = compute_ranks(queries.vectors[used], items.vectors, [relevant[number] for number in used])
    return QueryRanks(ranks, [min(order[row] for row in queries.rows[number]) for number in used] if order else [],
                      len(order))  # fmt: skip


class RetrievalMetrics:
    """Recall@1/5/10, median rank and MRR of retrieval in both directions over all rows of a split, and the loss of the
    split as one batch.

    For PlaitTrainer's `compute_metrics`. Names are `text_to_image_recall@1` and so on; `mean_recall` is the mean of all
    recalls. An image without a caption is a wrong candidate of every text, and no query.

    Raises:
        RecipeError: an unknown name.
    """

    def __init__(self, names: Sequence[str], pair: tuple[str, str]) -> None:
        self.pair = pair
        directions = [f"{first}_to_{second}" for first, second in (pair, pair[::-1])]
        known = ["mean_recall", *(f"{direction}_{name}" for direction in directions for name in RANK_METRICS)]
        for name in names:
            check_choice("metrics", name, known)
        self.metric_names = list(names) or known
        self.reset()

    @property
    def names(self) -> list[str]:
        """The keys of `compute`, without "loss"."""
        return self.metric_names

    def reset(self) -> None:
        """Forgets all rows."""
        self.items: list[RetrievalItem] = []
        self.model: Any = None

    def measure_batch(self, model: Any, batch: Mapping[str, Any]) -> list[list[RetrievalItem]]:
        """Returns the items of each row, with their vectors."""
        self.model = model
        rows: list[list[RetrievalItem]] = [[] for _ in batch["rows"]]
        for side, part in batch["sides"].items():
            vectors = encode_side(model, side, part["inputs"])
            for row, key, vector in zip(part["rows"], part["keys"], vectors, strict=True):
                rows[row].append(RetrievalItem(side, key, batch["rows"][row], vector))
        return rows

    def update(self, records: Sequence[list[RetrievalItem]]) -> None:
        """Adds the items of a batch, gathered over all processes."""
        self.items += [item for row in records for item in row]

    def compute(self) -> dict[str, float]:
        """Returns `{name: value}` over all rows since `reset`, with "loss" if a batch was measured."""
        scores = compute_retrieval_scores(self.items, self.pair)
        loss = {} if self.model is None else {"loss": compute_split_loss(self.model, self.items, self.pair)}
        return {**loss, **{name: scores[name] for name in self.metric_names}}

    def compute_per_row(self) -> RowValues:
        """Returns what each metric is computed from, for intervals: a row for each different row of the data, with the
        ranks of its queries (of a query that several rows share the first of them)."""
        sides, rows = group_sides(self.items), dict.fromkeys(item.row for item in self.items)
        order = {row: number for number, row in enumerate(rows)}
        scores: dict[str, Any] = {}
        for first, second in (self.pair, self.pair[::-1]):
            ranks = rank_queries(sides[first], sides[second], order)
            scores |= {f"{first}_to_{second}_{name}": score for name, score in score_direction(ranks, DEPTHS).items()}
        scores["mean_recall"] = score_mean_recall([score for name, score in scores.items() if "recall@" in name])
        return {name: scores[name] for name in self.metric_names}

    def collect_groups(self) -> list[int]:
        """Returns the group of each row of `compute_per_row`: rows that share an item belong together."""
        return group_connected_rows([(item.row, item.side, item.key) for item in self.items])

    def select_predictions(self, records: Sequence[list[RetrievalItem]]) -> list[Any]:
        """Returns `{side: vector}` for each row, for the Trainer's `predict`."""
        return [{item.side: item.vector for item in row} for row in records]


def compute_retrieval_scores(items: Sequence[RetrievalItem], pair: tuple[str, str]) -> dict[str, float]:
    """Computes all metrics of both directions.

    Raises ValueError if a side has no item.
    """
    sides = group_sides(items)
    missing = [side for side in pair if side not in sides]
    if missing:
        raise ValueError(f"no row has a {missing[0]}: retrieval needs rows with items of both sides")
    scores: dict[str, float] = {}
    for first, second in (pair, pair[::-1]):
        ranks = compute_query_ranks(sides[first], sides[second])
        scores |= {f"{first}_to_{second}_{name}": measure(ranks) for name, measure in RANK_METRICS.items()}
    scores["mean_recall"] = float(np.mean([value for name, value in scores.items() if "recall@" in name]))
    return scores


def compute_split_loss(model: PlaitForRetrieval, items: Sequence[RetrievalItem], pair: tuple[str, str]) -> float:
    """Computes the contrastive loss of all pairs as one batch; equal texts or images are no negatives of each other."""
    rows: dict[str, dict[str, list[RetrievalItem]]] = {}
    for item in items:
        rows.setdefault(item.row, {}).setdefault(item.side, []).append(item)
    pairs = [(a, b) for row in rows.values() for a in row.get(pair[0], ()) for b in row.get(pair[1], ())]
    numbers = {(item.side, item.key): number for number, item in enumerate(items)}
    groups = torch.tensor([[numbers[item.side, item.key] for item in two] for two in pairs]).view(-1, 2)
    width = len(items[0].vector)
    first, second = (
        torch.from_numpy(np.stack([two[side].vector for two in pairs])) if pairs else torch.zeros(0, width)
        for side in (0, 1)
    )
    loss, device = replace(model.loss, gather=False), model.device
    with torch.no_grad():
        return float(loss(first.to(device), second.to(device), model.similarity, groups.to(device)))


def encode_side(model: PlaitForRetrieval, side: str, inputs: Mapping[str, Any]) -> np.ndarray:
    """Encodes the inputs of one side: (rows, width) float32, of unit length."""
    with use_eval_mode(model):
        return model.embed(inputs)[side].vectors.float().cpu().numpy()


def zero_shot_accuracy(probabilities: Tensor, truth: Sequence[int], depth: int = 1) -> float:
    """Computes the share, 0..1, of the images whose label is among the `depth` likeliest.

    probabilities: (images, labels), as of `PlaitForRetrieval.classify_zero_shot`; truth: the right label's number of
    each image.
    """
    best = probabilities.topk(depth, dim=1).indices
    return float((best == torch.as_tensor(list(truth))[:, None]).any(dim=1).float().mean())
