"""Language models that only count: what a trained one must beat."""

from collections.abc import Sequence

import numpy as np


class BigramModel:
    """Tokens, and pairs of neighbours within a row, as they were counted in training.

    rows: of token ids below `size`.
    """

    def __init__(self, rows: Sequence[Sequence[int]], size: int) -> None:
        self.size = size
        given = [np.asarray(ids, dtype=np.int64) for ids in rows]
        self.counts = np.bincount(np.concatenate(given), minlength=size) + 1.0  # one more: none is impossible
        pairs = np.concatenate([self.number_pairs(ids) for ids in given])
        self.known, self.times = np.unique(pairs, return_counts=True)
        first = self.known // size
        self.kinds = np.bincount(first, minlength=size)
        self.after = np.bincount(first, weights=self.times, minlength=size)

    def number_pairs(self, ids: np.ndarray) -> np.ndarray:
        """A number for each token but the first, with the one before it."""
        return ids[:-1].astype(np.int64) * self.size + ids[1:]

    def unigram(self, ids: np.ndarray) -> np.ndarray:
        """(length - 1,) -log p(token) of all tokens but the first, by their share of training."""
        return -np.log(self.counts[ids[1:]] / self.counts.sum())

    def bigram(self, ids: np.ndarray) -> np.ndarray:
        """(length - 1,) -log p(token | token before), Witten-Bell smoothed:
        (c(before, token) + T(before) p(token)) / (c(before) + T(before)), with T(before) kinds of tokens seen after it
        (Witten and Bell 1991; Chen and Goodman 1996, section 2.4)."""
        asked, before = self.number_pairs(ids), ids[:-1]
        places = np.searchsorted(self.known, asked)
        known, counted = np.append(self.known, -1), np.append(self.times, 0)  # the place beyond the last is no pair's
        times = np.where(known[places] == asked, counted[places], 0)
        alone = np.exp(-self.unigram(ids))
        seen = self.after[before] + self.kinds[before]
        joint = (times + self.kinds[before] * alone) / np.maximum(seen, 1)
        return -np.log(np.where(seen > 0, joint, alone))
