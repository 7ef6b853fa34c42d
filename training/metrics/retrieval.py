"""How well one side of a space finds the other: recall, ranks, and zero-shot accuracy."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from ...modeling.tasks.retrieval import PlaitForRetrieval
from ...modeling.tasks.retrieval_encoding import use_eval_mode
from ..recipes.errors import check_choice

DEPTHS = (1, 5, 10)
SIMILARITIES_PER_BLOCK = 2**23  # similarities at a time: 32 MiB in float32


class RetrievalItem(NamedTuple):
    """What is kept of one text, picture or document of a row. side: "text", "image", "document"; key: equal for equal
    content; row: the number of the row among all, which other items belong to it; vector: (width,) float32."""

    side: str
    key: str
    row: str
    vector: np.ndarray


def compute_ranks(
    queries: Tensor, items: Tensor, relevant: Sequence[Sequence[int]], block: int = SIMILARITIES_PER_BLOCK
) -> np.ndarray:
    """For each query how many items are at least as similar as the best of its own, itself included: 1 where one of its
    own is the most similar of all. Its other own items do not count; others as similar do.

    queries: (queries, width) and items: (items, width), of unit length; relevant: for each query the numbers of its own
    items, at least one. `block` similarities at a time.
    """
    size = max(1, block // max(len(items), 1))
    found = []
    for start in range(0, len(queries), size):
        scores = queries[start : start + size] @ items.T
        own = torch.zeros_like(scores, dtype=torch.bool)
        for row, numbers in enumerate(relevant[start : start + size]):
            own[row, list(numbers)] = True
        best = scores.masked_fill(~own, -torch.inf).amax(dim=1, keepdim=True)
        found.append(1 + ((scores >= best) & ~own).sum(dim=1))
    return torch.cat(found).cpu().numpy() if found else np.zeros(0, dtype=int)


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
    """keys: of the distinct items; vectors: (items, width); rows: for each item the rows that it stands in."""

    keys: list[str]
    vectors: Tensor
    rows: list[set[str]]


def group_sides(items: Sequence[RetrievalItem]) -> dict[str, RetrievalSide]:
    """The distinct items of each side: equal captions, or the same picture in several rows, are one."""
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
    """For each query the numbers of the items that stand in a row with it."""
    holders: dict[str, list[int]] = {}
    for number, rows in enumerate(items.rows):
        for row in rows:
            holders.setdefault(row, []).append(number)
    return [sorted({number for row in rows for number in holders.get(row, ())}) for rows in queries.rows]


def compute_query_ranks(queries: RetrievalSide, items: RetrievalSide) -> np.ndarray:
    """The ranks of the queries that have an item of their own; the others ask nothing."""
    relevant = find_relevant_items(queries, items)
    asked = [number for number, numbers in enumerate(relevant) if numbers]
    return compute_ranks(queries.vectors[asked], items.vectors, [relevant[number] for number in asked])


class RetrievalMetrics:
    """Recall@1/5/10, median rank and MRR of each side asking the other, over all rows of a split; and the loss of the
    split as one batch.

    For PlaitTrainer's `compute_metrics`. Names are `text_to_image_recall@1` and so on; `mean_recall` is the mean of all
    recalls. A picture without a caption is there to be found wrongly, and asks nothing.

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
        return self.metric_names

    def reset(self) -> None:
        self.items: list[RetrievalItem] = []
        self.model: Any = None

    def measure_batch(self, model: Any, batch: Mapping[str, Any]) -> list[list[RetrievalItem]]:
        """The items of each row, with their vectors."""
        self.model = model
        rows: list[list[RetrievalItem]] = [[] for _ in batch["rows"]]
        for side, part in batch["sides"].items():
            vectors = encode_side(model, side, part["inputs"])
            for row, key, vector in zip(part["rows"], part["keys"], vectors, strict=True):
                rows[row].append(RetrievalItem(side, key, batch["rows"][row], vector))
        return rows

    def update(self, records: Sequence[list[RetrievalItem]]) -> None:
        self.items += [item for row in records for item in row]

    def compute(self) -> dict[str, float]:
        scores = compute_retrieval_scores(self.items, self.pair)
        loss = {} if self.model is None else {"loss": compute_split_loss(self.model, self.items, self.pair)}
        return {**loss, **{name: scores[name] for name in self.metric_names}}

    def select_predictions(self, records: Sequence[list[RetrievalItem]]) -> list[Any]:
        return [{item.side: item.vector for item in row} for row in records]


def compute_retrieval_scores(items: Sequence[RetrievalItem], pair: tuple[str, str]) -> dict[str, float]:
    """All metrics of both directions.

    Raises ValueError where a side has no item.
    """
    sides = group_sides(items)
    missing = [side for side in pair if side not in sides]
    if missing:
        raise ValueError(f"no row has a {missing[0]}: there is nothing to find, or nothing to ask")
    scores: dict[str, float] = {}
    for first, second in (pair, pair[::-1]):
        ranks = compute_query_ranks(sides[first], sides[second])
        scores |= {f"{first}_to_{second}_{name}": measure(ranks) for name, measure in RANK_METRICS.items()}
    scores["mean_recall"] = float(np.mean([value for name, value in scores.items() if "recall@" in name]))
    return scores


def compute_split_loss(model: PlaitForRetrieval, items: Sequence[RetrievalItem], pair: tuple[str, str]) -> float:
    """The contrastive loss of all pairs as one batch, equal texts and pictures being no negatives of each other."""
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
    """(rows, width) float32, of unit length."""
    with use_eval_mode(model):
        return model.embed(inputs)[side].vectors.float().cpu().numpy()


def zero_shot_accuracy(probabilities: Tensor, truth: Sequence[int], depth: int = 1) -> float:
    """The share of pictures whose label is among the `depth` likeliest; probabilities: (images, labels), as of
    `PlaitForRetrieval.classify_zero_shot`."""
    best = probabilities.topk(depth, dim=1).indices
    return float((best == torch.as_tensor(list(truth))[:, None]).any(dim=1).float().mean())
