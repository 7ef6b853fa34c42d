"""Two rules by which attention carries relevance from tokens to the tokens that they attend to."""

from typing import Protocol

import torch
from torch import Tensor


class RelevanceRule(Protocol):
    """How relevance passes attention. A relevance matrix R, (tokens, tokens), says how much of each token as it was at
    first is in each token now; `rows` are the tokens that attend, `columns` those that they attend to."""

    def average_heads(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Returns one matrix A for all heads, (queries, keys), of the weights (heads, queries, keys) and the gradient
        of the score by them."""
        ...

    def attend(self, relevance: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns the relevance of the rows, (rows, tokens), behind self-attention."""
        ...

    def cross(self, relevance: Tensor, before: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns the relevance of the rows, (rows, tokens), behind cross-attention to the columns as they were
        `before`."""
        ...


class RolloutRule:
    """Attention rollout (Abnar and Zuidema 2020, https://arxiv.org/abs/2005.00928, equation 1): R = (A + I) / 2 R, with
    A the mean over heads. The rows of R are distributions. Cross-attention is treated alike."""

    def average_heads(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Returns the mean over heads."""
        return weights.mean(dim=0)

    def attend(self, relevance: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns A R + R of the rows, each divided by the sum of its weights."""
        return self.cross(relevance, relevance, rows, columns, attention)

    def cross(self, relevance: Tensor, before: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns A R + R of the rows, each divided by the sum of its weights."""
        return (attention @ before[columns] + relevance[rows]) / (attention.sum(dim=1, keepdim=True) + 1)


class GradientRule:
    """Gradient-weighted relevance (Chefer et al. 2021, https://arxiv.org/abs/2103.15679): A is the mean over heads of
    the positive part of gradient * weights (equation 5); self-attention adds A R (equations 6 and 7), cross-attention
    adds the others' relevance with what is inside each kind of tokens normalized (equations 8 to 11)."""

    def average_heads(self, weights: Tensor, gradient: Tensor) -> Tensor:
        """Returns the mean over heads of (gradient * weights)^+."""
        return (gradient * weights).clamp(min=0).mean(dim=0)

    def attend(self, relevance: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns R + A R of the rows."""
        return relevance[rows] + attention @ relevance[columns]

    def cross(self, relevance: Tensor, before: Tensor, rows: Tensor, columns: Tensor, attention: Tensor) -> Tensor:
        """Returns R + A R of the rows; between the kinds of tokens, R_sq + N(R_ss)^T A N(R_qq)."""
        added = attention @ before[columns]
        own, other = normalize_rest(relevance[rows][:, rows]), normalize_rest(before[columns][:, columns])
        added[:, columns] = own.T @ attention @ other
        return relevance[rows] + added


def normalize_rest(relevance: Tensor) -> Tensor:
    """Returns R - I with rows that sum to one, plus I (equations 8 and 9); R: (tokens, tokens). A row of I stays."""
    identity = torch.eye(len(relevance), dtype=relevance.dtype, device=relevance.device)
    rest = relevance - identity
    total = rest.sum(dim=1, keepdim=True)
    return torch.where(total > 0, rest / total.clamp(min=1e-12), torch.zeros_like(rest)) + identity
