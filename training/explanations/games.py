"""The value of every coalition of a row's modalities, and the Shapley values of these games."""

from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from ...modeling.attribution.shapley import (
    compute_interactions,
    compute_main_effects,
    compute_shapley_values,
    estimate_shapley_values,
    sample_permutations,
)
from ..data.media import Row
from .coalitions import AbsentRows
from .modality_report import PlayerValues

EFFICIENCY_TOLERANCE = 1e-5
ScoreRows = Callable[
    [Sequence[Row], Sequence[int]], np.ndarray
]  # rows that stand for the numbered ones -> (rows, units)


class Job(NamedTuple):
    """A row to be scored: the number of the row that it stands for, the coalition (of the row's own players, as a bit
    field), and the row."""

    number: int
    coalition: int
    row: Row


class RowGames:
    """The games of rows, each of the players that the row has.

    Args:
        absent: builds rows without some of their players.
        exact_players: at most this many players have all their coalitions computed, 2 ** players; more are estimated
            from `permutations` random orders.
        permutations: number of random orders, even.
    """

    def __init__(self, absent: AbsentRows, exact_players: int = 6, permutations: int = 64) -> None:
        self.absent = absent
        self.exact = max(map(len, absent.present), default=0) <= exact_players
        generator = torch.Generator().manual_seed(absent.seed)
        self.orders = {
            size: sample_permutations(size, permutations + permutations % 2, generator)
            for size in ({len(present) for present in absent.present} if not self.exact else set())
        }
        self.values: list[dict[int, Any]] = []

    def list_coalitions(self, players: int) -> list[int]:
        """Returns the coalitions whose values are needed."""
        if self.exact:
            return list(range(2**players))
        steps = (2 ** self.orders[players]).cumsum(1)
        return sorted({0, *steps.flatten().tolist()})

    def iterate_jobs(self) -> Iterator[Job]:
        """Yields all rows to score; those that lack the same players come after one another."""
        patterns = sorted(set(self.absent.present))
        for present in patterns:
            rows = [number for number, own in enumerate(self.absent.present) if own == present]
            for coalition in self.list_coalitions(len(present)):
                kept = [name for bit, name in enumerate(present) if coalition >> bit & 1]
                for number in rows:
                    yield from (Job(number, coalition, row) for row in self.absent.build(number, kept))

    def play(self, score_rows: ScoreRows, batch_size: int) -> None:
        """Computes the value of every coalition, in batches; several rows for one coalition are averaged."""
        jobs = list(self.iterate_jobs())
        found: list[dict[int, list[np.ndarray]]] = [{} for _ in self.absent.rows]
        starts = range(0, len(jobs), batch_size)
        for start in tqdm(starts, desc="modalities", unit="batch", disable=len(starts) < 20):
            batch = jobs[start : start + batch_size]
            scores = score_rows([job.row for job in batch], [job.number for job in batch])
            for job, values in zip(batch, scores, strict=True):
                found[job.number].setdefault(job.coalition, []).append(values)
        self.values = [
            {coalition: np.mean(values, axis=0, dtype=np.float64) for coalition, values in row.items()} for row in found
        ]

    def compute(self, unit: str, number: int, check: bool = True) -> PlayerValues:
        """Computes the players' values in one of the units that `play` has scored, the `number`-th.

        check: raise ArithmeticError for scores that are not finite (see `check_efficiency`)."""
        players = list(self.absent.players)
        rows, names = len(self.values), [f"{a} + {b}" for i, a in enumerate(players) for b in players[i + 1 :]]
        grids = {name: np.full((rows, len(players)), np.nan) for name in ("shapley", "main", "errors", "removed")}
        pairs = {name: np.full(rows, np.nan) for name in names} if self.exact else {}
        ends = np.full((2, rows), np.nan)
        order = sorted(range(rows), key=lambda row: self.absent.present[row])
        for present, group in groupby(order, key=lambda row: self.absent.present[row]):
            own = list(group)
            places = np.ix_(own, [players.index(name) for name in present])
            game = {c: self._collect(own, c, number) for c in self.list_coalitions(len(present))}
            ends[:, own] = np.stack([game[2 ** len(present) - 1].numpy(), game[0].numpy()])
            found, together = self._solve(present, game)
            for name, values in found.items():
                grids[name][places] = values.numpy().T
            for pair, values in together.items():
                pairs[pair][own] = values.numpy()
        if check:
            check_efficiency(grids["shapley"], *ends)
        return PlayerValues(unit, **grids, interactions=pairs, whole=ends[0], empty=ends[1])

    def _collect(self, rows: Sequence[int], coalition: int, number: int) -> Tensor:
        return torch.tensor([self.values[row][coalition][number] for row in rows], dtype=torch.float64)

    def _solve(self, present: Sequence[str], game: dict[int, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Returns the values of the players by kind, (players, rows), and of their pairs, (rows,)."""
        size = len(present)
        whole = game[2**size - 1]
        without = [game.get(2**size - 1 - 2**bit, torch.full_like(whole, torch.nan)) for bit in range(size)]
        removed = whole - torch.stack(without) if size else whole.new_zeros(0, len(whole))
        if not self.exact:
            values, errors = estimate_shapley_values(self.orders[size], game)
            return {"shapley": values, "main": values * torch.nan, "errors": errors, "removed": removed}, {}
        values = compute_shapley_values(torch.stack([game[coalition] for coalition in range(2**size)]))
        pairs = compute_interactions(torch.stack([game[coalition] for coalition in range(2**size)]))
        main = compute_main_effects(values, pairs)
        named = {f"{present[one]} + {present[other]}": value for (one, other), value in pairs.items()}
        return {"shapley": values, "main": main, "errors": torch.zeros_like(values), "removed": removed}, named


def check_efficiency(shapley: np.ndarray, whole: np.ndarray, empty: np.ndarray) -> None:
    """Raises ArithmeticError if the values of a row do not sum to `whole` - `empty`, to 1e-5 of its size: scores that
    are not finite."""
    gap = np.abs(np.nansum(shapley, axis=1) - (whole - empty))
    close = gap <= EFFICIENCY_TOLERANCE * np.maximum(1, np.abs(whole - empty))
    wrong = np.flatnonzero(~(close & np.isfinite(gap)))
    if len(wrong):
        row = int(wrong[0])
        raise ArithmeticError(
            f"row {row}: the values of its modalities sum to {np.nansum(shapley[row])}, and its score with all of them "
            f"minus that with none is {whole[row] - empty[row]}: the model's scores are not finite numbers"
        )
