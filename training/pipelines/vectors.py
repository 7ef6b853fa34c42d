"""Vectors of inputs, and the candidates whose vectors are most similar."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ...modeling.tasks.retrieval_encoding import as_sequence, find_side
from ...modeling.tasks.single_items import is_single_item
from .inference import InferencePipeline


class FeaturePipeline(InferencePipeline):
    """A retrieval model that turns inputs of any of its sides into vectors, those of its `encode`.

    Options of a call: those of `encode` (`side`, `normalize`, `prompt`, `batch_size`, ...), and `return_tensors`.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns the vector of a single input as a list of numbers, of a list of inputs a list of vectors; with
        `return_tensors` a tensor, (width,) or (rows, width).

        Raises:
            TypeError, ValueError: an input that cannot be read, or a side that the model lacks.
        """
        given = self.collect_arguments(inputs, options)
        options = {**self.options, **options}
        as_tensor = bool(options.pop("return_tensors", False))
        if given.get("inputs") is None:
            raise TypeError("missing inputs: pass a text, an image, an audio clip or a video, or a list of these")
        found = self.encode(given["inputs"], **options)
        return found if as_tensor else found.tolist()

    def encode(self, rows: Any, side: str | None = None, **options: Any) -> Tensor:
        """Encodes inputs of a side, by default that of texts for strings, and of texts at most as many tokens as the
        run has read."""
        model: Any = self.model
        chosen = side or find_side(as_sequence(rows), model.config.sides)
        if self.run is not None and self.run.max_length is not None and model.config.sides.get(chosen) == "text":
            options = {"max_length": self.run.max_length, "truncation": True, "padding": True, **options}
        return model.encode(rows, self.processor, chosen, **{"show_progress": False, **options})


class RetrievalPipeline(FeaturePipeline):
    """A retrieval model that ranks candidates for a query.

    Options of a call: `candidates` (a list of texts, images, ... or a tensor of vectors, as of feature-extraction),
    `top_k` (default 10), `query_side` and `candidate_side` (default: by what the inputs are), `batch_size`.
    """

    def __call__(self, *inputs: Any, **options: Any) -> Any:
        """Returns for a query a list of {"index", "score", "candidate"}, the most similar first, of equal ones in their
        order; for a list of queries a list of lists. The score is a cosine; without `candidate` for vectors.

        Raises:
            TypeError: no candidates.
            ValueError: an input that cannot be read, or a side that the model lacks.
        """
        options = {**self.options, **options}
        first, *rest = inputs or (options.pop("queries", None),)
        candidates = rest[0] if rest else options.pop("candidates", None)
        if first is None or candidates is None:
            raise TypeError("missing queries or candidates: pass both")
        top_k, sides = options.pop("top_k", 10), (options.pop("query_side", None), options.pop("candidate_side", None))
        model: Any = self.model
        side = sides[0] or find_side(as_sequence(first), model.config.sides)
        single = is_single_item(as_sequence(first), model.config.sides.get(side, "text"))
        queries = self.encode([first] if single else first, side, **options)
        if isinstance(candidates, Tensor) and candidates.ndim == 2:
            vectors, items = torch.nn.functional.normalize(candidates.float(), dim=-1), None
        else:
            items = list(candidates)
            vectors = self.encode(items, sides[1], **options)
        found = [rank_vectors(query, vectors, items, top_k) for query in queries]
        return found[0] if single else found


def rank_vectors(query: Tensor, vectors: Tensor, items: Sequence[Any] | None, top_k: int) -> list[dict[str, Any]]:
    """Returns the `top_k` candidates that are most similar to a query, (width,); vectors: (candidates, width)."""
    if top_k < 1:
        raise ValueError(f"top_k is {top_k}: pass a whole number, 1 or more")
    scores = vectors @ query
    order = scores.argsort(descending=True, stable=True).tolist()[:top_k]
    named = {} if items is None else {number: {"candidate": items[number]} for number in order}
    return [{"index": number, "score": float(scores[number]), **named.get(number, {})} for number in order]
