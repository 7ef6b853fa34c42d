"""Rows in which modalities are absent, by each of three meanings of absence."""

from collections.abc import Mapping, Sequence
from typing import Literal, get_args

import numpy as np

from ...configuration.modalities import MODALITY_TABLE
from ..data.media import Row, find_columns, list_column_names
from ..recipes.errors import RecipeError, check_choice
from ..tasks.base import Task
from ..trainer.modality_patterns import has_content
from .blanks import build_blank_columns

Absence = Literal["shuffled", "blank", "absent"]
ABSENCES = get_args(Absence)
Grouping = Literal["modality", "column"]
ANSWER_COLUMNS = ("label", "group", "negative")  # of training data, read by no tower


def is_helper_column(name: str) -> bool:
    """Returns whether a column says something about an input and is none: an id, or the rate of samples."""
    return name.endswith("_id") or name == "sampling_rate"


def find_players(rows: Sequence[Row], task: Task, grouping: Grouping = "modality") -> dict[str, list[str]]:
    """Returns what is absent or present as a whole, with its columns: each modality, and each further column that the
    task reads (question, context, document).

    grouping: "column" makes several columns of one modality, such as image.0 and image.1, players of their own.

    Raises RecipeError if the rows have no column that the task reads.
    """
    check_choice("by", grouping, get_args(Grouping))
    names = list_column_names(rows)
    left_out = {*task.target_columns, *ANSWER_COLUMNS}
    read = [name for name in names if name.partition(".")[0] in task.roles and name.partition(".")[0] not in left_out]
    found = {modality: find_columns(read, modality) for modality in MODALITY_TABLE}
    known = {name for columns in found.values() for name in columns}
    found |= {name: [name] for name in read if name not in known}
    found = {name: columns for name, columns in found.items() if not all(map(is_helper_column, columns))}
    if not found:
        raise RecipeError(
            f"data.columns: the task {task.name} reads none of {', '.join(names)}: map columns to its own"
        )
    return found if grouping == "modality" else split_players(found)


def split_players(players: Mapping[str, Sequence[str]]) -> dict[str, list[str]]:
    """Returns a player for each column, with the helper columns of a modality that has one column."""
    found: dict[str, list[str]] = {}
    for name, columns in players.items():
        inputs = [column for column in columns if not is_helper_column(column)]
        found |= {name: list(columns)} if len(inputs) == 1 else {column: [column] for column in inputs}
    return found


def find_present(row: Row, players: Mapping[str, Sequence[str]]) -> tuple[str, ...]:
    """Returns the players that a row has."""
    return tuple(
        name
        for name, columns in players.items()
        if any(has_content(row.get(column)) for column in columns if not is_helper_column(column))
    )


class AbsentRows:
    """Builds rows in which some players are absent.

    Args:
        rows: the rows that are explained.
        players: the columns of each player (`find_players`).
        absence: "shuffled": a player that is absent has its value in another row, a random one for each of `draws`
            (of all absent players the same one, if it has them); "blank": an input without content: an empty text, a
            grey image, silence; "absent": none, as the model is told of a missing modality. Without any player
            "absent" is "shuffled": a model reads at least one modality.
        background: the other rows; None: `rows`, each row's own excepted.
        draws: rows for each coalition with "shuffled".
        seed: of the random choices.
        blank_text: the blank text; "" if the tokenizer has tokens for it.

    Raises:
        RecipeError: an unknown absence, fewer than one draw, a row without any player, or no other row to take values
            from.
    """

    def __init__(
        self,
        rows: Sequence[Row],
        players: Mapping[str, Sequence[str]],
        absence: Absence = "shuffled",
        background: Sequence[Row] | None = None,
        draws: int = 4,
        seed: int = 0,
        blank_text: str = "",
    ) -> None:
        check_choice("absence", absence, ABSENCES)
        if draws < 1:
            raise RecipeError(f"draws is {draws}: expected at least 1 other row for each absent modality")
        self.rows, self.players, self.absence, self.draws, self.seed = rows, players, absence, draws, seed
        self.blank_text = blank_text
        self.background = rows if background is None else background
        self.present = [find_present(row, players) for row in rows]
        for number in (number for number, present in enumerate(self.present) if not present):
            raise RecipeError(f"row {number} has none of {', '.join(players)}: leave it out")
        self.donors = self._list_donors()

    def _list_donors(self) -> dict[str, np.ndarray]:
        """Returns for each player the numbers of the background rows that have it."""
        found = [find_present(row, self.players) for row in self.background]
        donors = {name: np.array([n for n, has in enumerate(found) if name in has]) for name in self.players}
        needed = 1 if self.background is not self.rows else 2
        wanted = [name for name in self.players if any(name in has for has in self.present)]
        for name in wanted if self.absence != "blank" else ():
            if len(donors[name]) < needed:
                raise RecipeError(
                    f"absence={self.absence!r} takes {name} from other rows, and there is none: give more rows, rows "
                    "as background, or absence='blank'"
                )
        return donors

    def build(self, number: int, kept: Sequence[str]) -> list[Row]:
        """Returns the rows that stand for row `number` with these players alone: one, or `draws` of them."""
        row = self.rows[number]
        lost = [name for name in self.present[number] if name not in kept]
        if not lost:
            return [row]
        if self.absence == "blank":
            return [{**row, **{k: v for name in lost for k, v in self._build_blank(row, name).items()}}]
        if self.absence == "absent" and kept:
            return [{**row, **dict.fromkeys(column for name in lost for column in self._list_inputs(name))}]
        return [{**row, **self._take_from_others(number, lost, draw)} for draw in range(self.draws)]

    def _list_inputs(self, player: str) -> list[str]:
        return [column for column in self.players[player] if column != "sampling_rate"]

    def _build_blank(self, row: Row, player: str) -> Row:
        modality = player.partition(".")[0].partition("_")[0]
        columns = [column for column in self.players[player] if column in row]
        blank = build_blank_columns(row, columns, modality if modality in MODALITY_TABLE else "text")
        return {name: self.blank_text if value == "" else value for name, value in blank.items()}

    def _take_from_others(self, number: int, lost: Sequence[str], draw: int) -> Row:
        """Returns the lost players' columns of other rows. The order of the donors is that of one permutation for each
        row, so that all coalitions of a row have the same ones."""
        order = np.random.default_rng([self.seed, number]).permutation(len(self.background))
        if self.background is self.rows:
            order = order[order != number]
        taken = {}
        for name in lost:
            donors = order[np.isin(order, self.donors[name])]
            donor = self.background[int(donors[draw % len(donors)])]
            taken |= {column: donor.get(column) for column in self.players[name]}
        return taken
