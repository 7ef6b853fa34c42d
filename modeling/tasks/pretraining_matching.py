"""Image-text matching: pairs of a batch, and hard negatives for them."""

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from ..losses.contrastive import find_same_groups
from ..outputs import TowerOutput


class MatchedRows(NamedTuple):
    """The rows of a batch that have both modalities.

    names: the modalities; numbers: (pairs,), the indices of the rows; same: (pairs, pairs) bool, True for two rows with
    the same text or the same image: each matches the other's partner as well as its own.
    """

    names: tuple[str, str]
    numbers: Tensor
    same: Tensor

    @property
    def alike(self) -> bool:
        """Whether the batch has no negatives: fewer than two pairs, or only pairs that match each other."""
        return bool(self.same.all())


class NegativePairs(NamedTuple):
    """Indices of rows and of the partner that each is paired with; both (negatives,)."""

    rows: Tensor
    partners: Tensor


def sample_hard_negatives(similarity: Tensor, same: Tensor, training: bool) -> NegativePairs:
    """Samples for each row i one partner j that does not match it, with a higher probability for more similar ones
    (ALBEF, Li et al. 2021, https://arxiv.org/abs/2107.07651, section 3.2, "Image-Text Matching"):

        p(j | i) = exp(s_ij) / sum over k that do not match i of exp(s_ik)

    Outside training it takes the most similar one, the next row first among equals: an evaluation is deterministic.

    similarity: (rows, rows), scaled by the temperature; same: (rows, rows) bool, True if j matches i as well as i's own
    partner does. A row that all partners match has no negative.
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
    """Finds the pairs of a batch; groups: (batch, kinds), rows with an equal id of a kind match (-1: no id)."""
    nothing = groups.new_zeros(len(groups), dtype=torch.bool)
    first, second = (rows[name].mask.any(dim=1) if name in rows else nothing for name in names)
    numbers = (first & second).nonzero().flatten()
    own = groups[numbers]
    return MatchedRows(names, numbers, find_same_groups(own, own).fill_diagonal_(True))


def select_matching_rows(pairs: MatchedRows, similarity: Tensor, training: bool) -> dict[str, Tensor]:
    """Returns the rows that the fusion reads together, by modality, (pairs + negatives,) each: the pairs, then each
    item of the second modality with a wrong partner, then each item of the first with a wrong one (ALBEF, section 3.2).

    similarity: (pairs, pairs), of each first item with each second item.
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
