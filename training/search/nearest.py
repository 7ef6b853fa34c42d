"""The most similar of many vectors: by faiss where it is installed, else by blocks of exact products; the answers are
the same."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import numpy as np

EXACT, FAISS = "exact", "faiss"
VECTORS_PER_BLOCK = 2**16  # vectors that are compared at a time
ROUNDING = 1e-5  # by which two products of the same vectors may differ
DECIMALS = 6  # of a similarity


def choose_library() -> str:
    """Returns "faiss" if it is installed, else "exact"."""
    return FAISS if find_spec("faiss") is not None else EXACT


class NearestVectors:
    """Vectors that are searched any number of times; an index of faiss is built by the first search.

    Args:
        vectors: (vectors, width), float32 of unit length, so that a product is a cosine.
        library: "faiss" (its exact index IndexFlatIP) or "exact"; None: see `choose_library`.
    """

    def __init__(self, vectors: np.ndarray, library: str | None = None) -> None:
        self.vectors, self.library = vectors, library or choose_library()
        self.faiss_index: Any = None

    def find(self, queries: np.ndarray, count: int) -> list[list[tuple[float, int]]]:
        """Finds for each query, (queries, width) of unit length, the `count` vectors with the largest products, as
        (product, number) with the largest first; of equal ones those with the smaller numbers.

        Raises ValueError for widths that differ, a count below 1, or another library.
        """
        vectors = self.vectors
        if self.library not in (EXACT, FAISS) or count < 1 or vectors.shape[1] != queries.shape[1]:
            raise ValueError(
                f"{count} of vectors of width {vectors.shape[1]} for queries of width {queries.shape[1]}, by "
                f"{self.library!r}: give at least 1, equal widths, and {EXACT} or {FAISS}"
            )
        if not len(vectors):
            return [[] for _ in queries]
        most = min(count, len(vectors))
        found = self.find_by_faiss(queries, most) if self.library == FAISS else find_by_blocks(vectors, queries, most)
        return [rank_candidates(vectors, query, numbers, count) for query, numbers in zip(queries, found, strict=True)]

    def find_by_faiss(self, queries: np.ndarray, count: int) -> Iterator[np.ndarray]:
        """Yields for each query the numbers of the vectors that may be among the nearest."""
        import faiss

        if self.faiss_index is None:
            self.faiss_index = faiss.IndexFlatIP(self.vectors.shape[1])
            self.faiss_index.add(np.ascontiguousarray(self.vectors, dtype=np.float32))
        queries = np.ascontiguousarray(queries, dtype=np.float32)
        best, _ = self.faiss_index.search(queries, count)
        for query, scores in zip(queries, best, strict=True):
            _, _, numbers = self.faiss_index.range_search(query[None], float(scores[-1]) - ROUNDING)
            yield numbers


def find_nearest(
    vectors: np.ndarray, queries: np.ndarray, count: int, library: str | None = None
) -> list[list[tuple[float, int]]]:
    """Finds the nearest vectors of queries once (see `NearestVectors`)."""
    return NearestVectors(vectors, library).find(queries, count)


def find_by_blocks(vectors: np.ndarray, queries: np.ndarray, count: int) -> Iterator[np.ndarray]:
    """Yields the same as `NearestVectors.find_by_faiss`."""
    for query in queries.astype(np.float32):
        starts = range(0, len(vectors), VECTORS_PER_BLOCK)
        scores = np.concatenate([vectors[start : start + VECTORS_PER_BLOCK] @ query for start in starts])
        least = np.partition(scores, len(scores) - count)[len(scores) - count]
        yield np.flatnonzero(scores >= least - ROUNDING)


def rank_candidates(vectors: np.ndarray, query: np.ndarray, numbers: np.ndarray, count: int) -> list[tuple[float, int]]:
    """Returns the nearest of the candidates, by products that do not depend on what else is compared."""
    order = np.sort(numbers)
    scores = (vectors[order].astype(np.float64) * query.astype(np.float64)).sum(axis=1).round(DECIMALS)
    best = np.lexsort((order, -scores))[:count]
    return [(float(scores[place]), int(order[place])) for place in best]
