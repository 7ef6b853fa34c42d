"""The nearest vectors are those of a full comparison, whatever finds them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.training.search import VectorIndex, nearest
from plait.training.search.nearest import EXACT, FAISS, find_nearest


def make_vectors(seed: int, count: int, levels: int) -> np.ndarray:
    """Unit vectors of few different values, so that many are equal."""
    values = np.random.default_rng(seed).integers(-levels, levels + 1, (count, 8)).astype(np.float32)
    values[:, 0] += 0.5
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 99), count=st.integers(1, 60), levels=st.sampled_from([1, 9]), top=st.integers(1, 70))
def test_the_nearest_are_those_of_a_full_comparison(seed: int, count: int, levels: int, top: int) -> None:
    vectors, queries = make_vectors(seed, count, levels), make_vectors(seed + 1, 3, levels)
    scores = (vectors[None].astype(np.float64) * queries[:, None].astype(np.float64)).sum(-1).round(6)
    expected = [[(row[n], n) for n in sorted(range(count), key=lambda n: (-row[n], n))[:top]] for row in scores]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nearest, "VECTORS_PER_BLOCK", 7)
        assert find_nearest(vectors, queries, top, EXACT) == expected
    pytest.importorskip("faiss")
    assert find_nearest(vectors, queries, top, FAISS) == expected


@pytest.mark.parametrize("library", [EXACT, FAISS])
def test_a_second_search_finds_the_same_in_the_vectors_as_they_are(library: str) -> None:
    if library == FAISS:
        pytest.importorskip("faiss")
    index = VectorIndex("model", "text")
    for count in (9, 30):
        index.vectors, index.keys = make_vectors(0, count, 9), [str(n) for n in range(count)]
        index.places = [[{"row": number}] for number in range(count)]
        for seed in (1, 2):
            queries = make_vectors(seed, 2, 9)
            expected = [[n for _, n in found] for found in find_nearest(index.vectors, queries, 4, EXACT)]
            assert [[m.place["row"] for m in found] for found in index.search(queries, 4, library)] == expected


def test_mistakes_and_an_empty_index() -> None:
    vectors = make_vectors(0, 3, 9)
    assert find_nearest(vectors[:0], vectors, 2) == [[], [], []]
    for count, queries, library in ((0, vectors, EXACT), (1, vectors[:, :4], EXACT), (1, vectors, "annoy")):
        with pytest.raises(ValueError, match="give at least 1, equal widths"):
            find_nearest(vectors, queries, count, library)
