"""Unigram and bigram language models from counts: the baselines of a trained language model."""

from collections.abc import Sequence

import numpy as np


class BigramModel:
    """Counts of tokens, and of pairs of neighbouring tokens within a row, in the training data.

    Args:
        rows: token ids of each training row, below `size`.
        size: of the vocabulary.
    """

    def __init__(self, rows: Sequence[Sequence[int]], size: int) -> None:
        self.size = size
        given = [np.asarray(ids, dtype=np.int64) for ids in rows]
        self.counts = np.bincount(np.concatenate(given), minlength=size) + 1.0  # add one: no token is impossible
        pairs = np.concatenate([self.number_pairs(ids) for ids in given])
        self.known, self.times = np.unique(pairs, return_counts=True)
        first = self.known // size
        self.kinds = np.bincount(first, minlength=size)
        self.after = np.bincount(first, weights=self.times, minlength=size)

    def number_pairs(self, ids: np.ndarray) -> np.ndarray:
        """Numbers each pair of a token and the token before it: (length - 1,)."""
        return ids[:-1].astype(np.int64) * self.size + ids[1:]

    def unigram(self, ids: np.ndarray) -> np.ndarray:
        """Returns -log p(token) of all tokens but the first, (length - 1,), from their share of the training tokens."""
        return -np.log(self.counts[ids[1:]] / self.counts.sum())

    def bigram(self, ids: np.ndarray) -> np.ndarray:
        """Returns -log p(token | token before) of all tokens but the first, (length - 1,), Witten-Bell smoothed:
        (c(before, token) + T(before) p(token)) / (c(before) + T(before)), T(before) being the number of distinct tokens
        seen after `before` (Witten and Bell 1991; Chen and Goodman 1996, section 2.4)."""
        pairs, before = self.number_pairs(ids), ids[:-1]
        places = np.searchsorted(self.known, pairs)
        known, counted = np.append(self.known, -1), np.append(self.times, 0)  # searchsorted may point past the last
        times = np.where(known[places] == pairs, counted[places], 0)
        alone = np.exp(-self.unigram(ids))
        seen = self.after[before] + self.kinds[before]
        joint = (times + self.kinds[before] * alone) / np.maximum(seen, 1)
        return -np.log(np.where(seen > 0, joint, alone))
