"""Shapley values, interactions and their estimates, on games whose values are known."""

import pytest
import torch

from plait.modeling.attribution.shapley import (
    compute_interactions,
    compute_main_effects,
    compute_shapley_values,
    estimate_shapley_values,
    list_coalitions,
    sample_permutations,
)


def random_game(players: int, rows: int = 3) -> torch.Tensor:
    return torch.randn(2**players, rows, generator=torch.Generator().manual_seed(players), dtype=torch.float64)


@pytest.mark.parametrize("players", [1, 2, 3, 5])
def test_values_sum_to_all_minus_none(players: int) -> None:
    game = random_game(players)
    values = compute_shapley_values(game)
    assert torch.allclose(values.sum(0), game[-1] - game[0], atol=1e-12)
    interactions = compute_interactions(game)
    assert len(interactions) == players * (players - 1) // 2
    main = compute_main_effects(values, interactions)
    whole = main.sum(0) + sum(interactions.values(), torch.zeros(3, dtype=torch.float64))
    assert torch.allclose(whole, game[-1] - game[0], atol=1e-12)


def test_an_additive_game_gives_each_player_its_own() -> None:
    own = torch.tensor([0.5, -2.0, 0.0, 3.0], dtype=torch.float64)
    game = list_coalitions(4).double() @ own
    assert torch.allclose(compute_shapley_values(game), own)
    assert all(abs(value) < 1e-12 for value in compute_interactions(game).values())


def test_what_two_give_only_together_is_their_interaction() -> None:
    members = list_coalitions(3)
    game = (members[:, 0] & members[:, 2]).double() * 4  # players 0 and 2 together, player 1 never
    values, interactions = compute_shapley_values(game), compute_interactions(game)
    assert values.tolist() == pytest.approx([2, 0, 2])
    assert {pair: float(value) for pair, value in interactions.items()} == pytest.approx(
        {(0, 1): 0, (0, 2): 4, (1, 2): 0}
    )
    assert compute_main_effects(values, interactions).tolist() == pytest.approx([0, 0, 0])


def test_values_agree_with_the_mean_over_all_orders() -> None:
    from itertools import permutations

    game = random_game(4)
    gains = torch.zeros(4, 3, dtype=torch.float64)
    orders = list(permutations(range(4)))
    for order in orders:
        before = 0
        for player in order:
            gains[player] += game[before + 2**player] - game[before]
            before += 2**player
    assert torch.allclose(compute_shapley_values(game), gains / len(orders))


def test_sampled_orders_estimate_the_values_with_their_error() -> None:
    players = 7
    game, generator = random_game(players, rows=40), torch.Generator().manual_seed(0)
    orders = sample_permutations(players, 200, generator)
    assert all(sorted(order) == list(range(players)) for order in orders.tolist())
    assert torch.equal(orders[1::2], orders[::2].flip(1))
    values, errors = estimate_shapley_values(orders, dict(enumerate(game)))
    assert torch.allclose(values.sum(0), game[-1] - game[0], atol=1e-12)
    misses = (values - compute_shapley_values(game)).abs() / errors
    assert 0.85 < float((misses < 2).double().mean()) <= 1  # 0.95 within two standard errors


def test_a_number_of_values_that_is_no_power_of_two_is_an_error() -> None:
    with pytest.raises(ValueError, match="6 values of coalitions"):
        compute_shapley_values(torch.zeros(6))
