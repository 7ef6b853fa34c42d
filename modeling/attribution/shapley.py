"""Shapley values and interactions of a game whose players are the modalities (or columns) of a row.

`values` are those of every coalition: (2 ** players, ...), where bit p of a coalition's number says whether player p
is in it, so that `values[0]` is the value without any player and `values[-1]` that of all players together.
"""

from math import factorial

import torch
from torch import Tensor


def list_coalitions(players: int) -> Tensor:
    """Returns (2 ** players, players) bool: which players are in each coalition, in the order of `values`."""
    numbers = torch.arange(2**players)
    return (numbers[:, None] >> torch.arange(players)) % 2 == 1


def count_players(values: Tensor) -> int:
    """Returns the number of players; raises ValueError if the number of coalitions is no power of two."""
    players = len(values).bit_length() - 1
    if len(values) != 2**players:
        raise ValueError(f"{len(values)} values of coalitions: expected one for each subset of the players, 2 ** n")
    return players


def compute_shapley_values(values: Tensor) -> Tensor:
    """Computes phi_i = sum over S without i of |S|! (n - |S| - 1)! / n! (v(S + i) - v(S)): (players, ...).

    They sum to v(all) - v(none). Source: Shapley 1953, A value for n-person games.
    """
    players = count_players(values)
    members = list_coalitions(players)
    weights = [factorial(size) * factorial(players - size - 1) / factorial(players) for size in range(players)]
    found = []
    for player in range(players):
        without = (~members[:, player]).nonzero()[:, 0]
        weight = values.new_tensor(weights)[members[without].sum(1)]
        found.append(torch.tensordot(weight, values[without + 2**player] - values[without], 1))
    return torch.stack(found)


def compute_interactions(values: Tensor) -> dict[tuple[int, int], Tensor]:
    """Computes the interaction index of every pair of players, {(i, j): (...)} with i < j:

    I_ij = sum over S without i, j of |S|! (n - |S| - 2)! / (n - 1)! (v(S + i + j) - v(S + i) - v(S + j) + v(S)).

    It is what the two give together beyond what each gives; for two players the whole rest. Source: Grabisch & Roubens
    1999, https://doi.org/10.1007/s001820050125, equation 3.
    """
    players = count_players(values)
    members = list_coalitions(players)
    weights = [factorial(size) * factorial(players - size - 2) / factorial(players - 1) for size in range(players - 1)]
    found = {}
    for one in range(players):
        for other in range(one + 1, players):
            without = (~members[:, one] & ~members[:, other]).nonzero()[:, 0]
            first, second = without + 2**one, without + 2**other
            gain = values[first + 2**other] - values[first] - values[second] + values[without]
            found[one, other] = torch.tensordot(values.new_tensor(weights)[members[without].sum(1)], gain, 1)
    return found


def compute_main_effects(shapley: Tensor, interactions: dict[tuple[int, int], Tensor]) -> Tensor:
    """Computes what each player gives alone, phi_i minus half of its interactions: (players, ...).

    With the interactions they sum to v(all) - v(none) (SHAP interaction values, Lundberg et al. 2020,
    https://doi.org/10.1038/s42256-019-0138-9, equation 5).
    """
    main = shapley.clone()
    for (one, other), value in interactions.items():
        main[one] = main[one] - value / 2
        main[other] = main[other] - value / 2
    return main


def sample_permutations(players: int, count: int, generator: torch.Generator) -> Tensor:
    """Returns (count, players) random orders of the players, each followed by its reverse (antithetic sampling,
    Mitchell et al. 2022, https://jmlr.org/papers/v23/21-0439.html)."""
    half = [torch.randperm(players, generator=generator) for _ in range((count + 1) // 2)]
    return torch.stack([order for forward in half for order in (forward, forward.flip(0))])[:count]


def estimate_shapley_values(orders: Tensor, values: dict[int, Tensor]) -> tuple[Tensor, Tensor]:
    """Estimates the Shapley values from random orders of the players: the mean gain of each player over those before
    it, with its standard error, both (players, ...).

    The estimates sum to v(all) - v(none) exactly. A pair of an order and its reverse counts as one draw.

    Args:
        orders: (count, players) of `sample_permutations`, in pairs.
        values: those of every coalition that is a beginning of an order, by the coalition's number.

    Source: Castro et al. 2009, https://doi.org/10.1016/j.cor.2008.04.004.
    """
    gains = []
    for order in orders.tolist():
        before, own = 0, {}
        for player in order:
            own[player] = values[before + 2**player] - values[before]
            before += 2**player
        gains.append(torch.stack([own[player] for player in range(len(order))]))
    pairs = torch.stack(gains).unflatten(0, (-1, 2)).mean(1)
    return pairs.mean(0), pairs.std(0) / len(pairs) ** 0.5
