"""Rows whose pictures, sound or videos cannot be read: found before the first step, left out with a count or named."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tqdm.auto import tqdm
from transformers.utils import logging

from ..recipes.errors import RecipeError
from .loading import Data
from .media import MEDIA, Row, columns_of, items_of
from .row_encoder import RowEncoder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

SHOWN = 5  # rows named in a message
PROBLEMS = (OSError, TypeError, ValueError)


def only_readable(data: Data, collator: RowEncoder, how: str) -> Data:
    """Every split without the rows that cannot be read; see `readable`."""
    splits = {split: readable(rows, split, collator, how) for split, rows in data.splits.items()}
    left_out = {split: len(data.splits[split]) - len(rows) for split, rows in splits.items()}
    return data._replace(splits=splits, left_out={split: count for split, count in left_out.items() if count})


class Unreadable(NamedTuple):
    """A row's number, and one line that says what is wrong with it."""

    row: int
    problem: str


def readable(data: "Dataset", split: str, collator: RowEncoder, how: str) -> "Dataset":
    """The rows of a split whose every input can be read: all of them, or the others left out.

    Args:
        how: "stop": nothing is read now, and training stops at the row that it cannot read. "check": every distinct
            input is read now; the rows that cannot be are an error that names them. "skip": they are left out, with a
            warning that counts them.

    Raises:
        RecipeError: unreadable rows with "check", or no other rows with "skip".
    """
    if how == "stop":
        return data
    found = list(unreadable(data, split, collator))
    if not found:
        return data
    said = f"{len(found)} of {len(data)} rows of {split!r} cannot be read: {listed(found)}"
    if how == "check":
        raise RecipeError(f"data: {said}; mend them, or leave them out with data.on_error: skip")
    if len(found) == len(data):
        raise RecipeError(f"data: {said}; there are no others")
    logger.warning(f"data: {said}; they are left out")
    bad = {item.row for item in found}
    return data.select([row for row in range(len(data)) if row not in bad])


def unreadable(data: "Dataset", split: str, collator: RowEncoder) -> Iterator[Unreadable]:
    """The rows with an input that the collator cannot make tensors of; each distinct input is read once."""
    names = [name for modality in MEDIA for name in columns_of(data.column_names, modality)]
    known: dict[tuple[str, str], str | None] = {}
    shown = data.select_columns(names) if names else []
    for number, row in enumerate(tqdm(shown, desc=f"reading {split}", unit="row")):
        problem = next(problems(cast("Row", row), collator, known), None)
        if problem is not None:
            yield Unreadable(number, problem)


def problems(row: Row, collator: RowEncoder, known: dict[tuple[str, str], str | None]) -> Iterator[str]:
    """What is wrong with a row's inputs; `known` are those that were read before."""
    for modality in MEDIA:
        try:
            found = items_of(row, modality)
        except PROBLEMS as error:
            yield one_line(error)
            continue
        for key, value in found:
            if (modality, key) not in known:
                known[modality, key] = problem_of(value, modality, collator)
            problem = known[modality, key]
            if problem is not None:
                yield problem


def problem_of(value: Any, modality: str, collator: RowEncoder) -> str | None:
    """Why this input cannot be read; None where it can."""
    try:
        collator.inputs([{modality: value}])
    except PROBLEMS as error:
        return one_line(error)
    return None


def one_line(error: Exception) -> str:
    return " ".join(str(error).split())


def listed(found: Sequence[Unreadable]) -> str:
    """The first of them, and how many more."""
    shown = "; ".join(f"row {item.row}: {item.problem}" for item in found[:SHOWN])
    return shown if len(found) <= SHOWN else f"{shown}; and {len(found) - SHOWN} more"
