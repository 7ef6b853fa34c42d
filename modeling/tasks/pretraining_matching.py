"""Image-text matching: does this text belong to that picture?"""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.contrastive import find_same_groups
from ..outputs import TowerOutput


class MatchedRows(NamedTuple):
    """The rows of a batch that have both modalities.

    names: the modalities; numbers: (pairs,) of the rows; same: (pairs, pairs) bool, True where two rows have the same
    text or the same picture: each belongs to the other's partner as well as to its own.
    """

    names: tuple[str, str]
    numbers: Tensor
    same: Tensor

    @property
    def alike(self) -> bool:
        """Whether there is nothing to tell apart: fewer than two pairs, or all of them belong together."""
        return bool(self.same.all())


class NegativePairs(NamedTuple):
    """Numbers of rows: `rows` and what stands beside each, `partners`; both (negatives,)."""

    rows: Tensor
    partners: Tensor


def sample_hard_negatives(similarity: Tensor, same: Tensor, training: bool) -> NegativePairs:
    """For each row one partner that is none of its own, the likelier the more similar it is (ALBEF, Li et al. 2021,
    https://arxiv.org/abs/2107.07651, section 3.2, "Image-Text Matching"): in training drawn by

        p(j | i) = exp(s_ij) / sum over k that are not i's own of exp(s_ik)

    else the likeliest of them; of several the next one, so that an evaluation repeats itself.

    similarity: (rows, rows), scaled by the temperature; same: (rows, rows) bool, True where j belongs to i as well as
    its own partner does. A row to which all belong has no negative.
    """
    scores = similarity.detach().float().masked_fill(same, float("-inf"))
    rows = (~same).any(dim=1).nonzero().flatten()
    if not len(rows):
        return NegativePairs(rows, rows)
    scores = scores[rows]
    if training:
        return NegativePairs(rows, torch.multinomial(scores.softmax(dim=1), 1)[:, 0])
    numbers = torch.arange(len(similarity), device=scores.device)
    order = (rows[:, None] + 1 + numbers) % len(similarity)  # the next row first: argmax takes the first of equals
    return NegativePairs(rows, order.gather(1, scores.gather(1, order).argmax(dim=1, keepdim=True))[:, 0])


def match_rows(rows: Mapping[str, TowerOutput], names: tuple[str, str], groups: Tensor) -> MatchedRows:
    """The pairs of a batch; groups: (batch, kinds), rows with an equal number of one kind are alike (-1: like none)."""
    nothing = groups.new_zeros(len(groups), dtype=torch.bool)
    first, second = (rows[name].mask.any(dim=1) if name in rows else nothing for name in names)
    numbers = (first & second).nonzero().flatten()
    own = groups[numbers]
    return MatchedRows(names, numbers, find_same_groups(own, own).fill_diagonal_(True))


def select_matching_rows(pairs: MatchedRows, similarity: Tensor, training: bool) -> dict[str, Tensor]:
    """Rows to be read together, by modality: the pairs themselves, each second with a text that is not its own, each
    first with a picture that is not (ALBEF, section 3.2): (pairs + negatives,).

    similarity: (pairs, pairs), of each first with each second.
    """
    first, second = pairs.names
    for_second, for_first = (
        sample_hard_negatives(scores, pairs.same, training) for scores in (similarity.T, similarity)
    )
    own = torch.arange(len(pairs.numbers), device=similarity.device)
    return {
        first: pairs.numbers[torch.cat((own, for_second.partners, for_first.rows))],
        second: pairs.numbers[torch.cat((own, for_second.rows, for_first.partners))],
    }
