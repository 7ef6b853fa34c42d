"""The rules of relevance, by hand."""

import pytest
import torch

from plait.modeling.attribution.relevance_rules import GradientRule, RolloutRule, normalize_rest


def test_heads_are_averaged_by_their_positive_gradients() -> None:
    weights = torch.tensor([[[0.5, 0.5], [0.25, 0.75]], [[1.0, 0.0], [0.5, 0.5]]])
    gradient = torch.tensor([[[2.0, -1.0], [4.0, 0.0]], [[1.0, 5.0], [-2.0, 2.0]]])
    assert GradientRule().average_heads(weights, gradient).tolist() == [[1.0, 0.0], [0.5, 0.5]]
    assert RolloutRule().average_heads(weights, gradient).tolist() == [[0.75, 0.25], [0.375, 0.625]]


def test_two_layers_of_self_attention() -> None:
    """R = (I + A2)(I + A1) of Chefer et al. 2021, and (I + A2)/2 (I + A1)/2 of Abnar and Zuidema 2020."""
    first, second = torch.tensor([[0.5, 0.5], [1.0, 0.0]]), torch.tensor([[0.25, 0.75], [0.5, 0.5]])
    every = torch.arange(2)
    found = []
    for rule in (GradientRule(), RolloutRule()):
        matrix = torch.eye(2)
        for attention in (first, second):
            matrix = rule.attend(matrix, every, every, attention)
        found.append(matrix)
    assert found[0].tolist() == [[2.625, 1.375], [2.25, 1.75]]
    assert found[1].tolist() == [[0.65625, 0.34375], [0.5625, 0.4375]]


def test_two_layers_of_cross_attention() -> None:
    """One query token s and two context tokens q. Before: R_ss = [1], R_qq = [[1, 1], [0, 1]], of which N is the same.
    Twice A = [0.5, 0.25]: R_sq = N(R_ss)^T A N(R_qq) = [0.5, 0.75] each time, added up (equations 8 to 11)."""
    matrix = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]])
    rows, columns, attention = torch.tensor([0]), torch.tensor([1, 2]), torch.tensor([[0.5, 0.25]])
    for _ in range(2):
        matrix[rows] = GradientRule().cross(matrix, matrix, rows, columns, attention)
    assert matrix.tolist() == [[1.0, 1.0, 1.5], [0.0, 1.0, 1.0], [0.0, 0.0, 1.0]]


def test_what_the_context_holds_of_the_query_comes_back() -> None:
    """R_ss + A R_qs (equation 11): the context token is made of half the query."""
    matrix = torch.tensor([[1.0, 0.0], [0.5, 1.0]])
    rows, columns, attention = torch.tensor([0]), torch.tensor([1]), torch.tensor([[0.5]])
    assert GradientRule().cross(matrix, matrix, rows, columns, attention).tolist() == [[1.25, 0.5]]


def test_rollout_keeps_distributions() -> None:
    torch.manual_seed(0)
    matrix, rows, columns = torch.rand(5, 5).softmax(dim=1), torch.arange(2), torch.arange(2, 5)
    crossed = RolloutRule().cross(matrix, matrix, rows, columns, torch.rand(2, 3).softmax(dim=1))
    assert crossed.sum(dim=1).tolist() == pytest.approx([1, 1])


def test_normalization_keeps_the_identity() -> None:
    matrix = torch.tensor([[2.0, 3.0], [0.0, 1.0]])
    assert normalize_rest(matrix).tolist() == [[1.25, 0.75], [0.0, 1.0]]
