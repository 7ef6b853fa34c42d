"""Rows whose pictures, sound or videos cannot be read: found before the first step, left out with a count or named."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tqdm.auto import tqdm
from transformers.utils import logging

from ...configuration.messages import to_one_line
from ...configuration.modalities import MEDIA
from ..recipes.errors import RecipeError
from .loading import DataSplits
from .media import Row, collect_items, find_columns
from .row_encoder import RowEncoder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

MAX_SHOWN = 5  # rows named in a message
READ_ERRORS = (OSError, TypeError, ValueError)


def select_readable_splits(data: DataSplits, collator: RowEncoder, on_error: str) -> DataSplits:
    """Every split without the rows that cannot be read; see `readable`."""
    splits = {split: select_readable(rows, split, collator, on_error) for split, rows in data.splits.items()}
    left_out = {split: len(data.splits[split]) - len(rows) for split, rows in splits.items()}
    return data._replace(splits=splits, left_out={split: count for split, count in left_out.items() if count})


class UnreadableRow(NamedTuple):
    """A row's number, and one line that says what is wrong with it."""

    row: int
    problem: str


def select_readable(data: "Dataset", split: str, collator: RowEncoder, on_error: str) -> "Dataset":
    """The rows of a split whose every input can be read: all of them, or the others left out.

    Args:
        how: "stop": nothing is read now, and training stops at the row that it cannot read. "check": every distinct
            input is read now; the rows that cannot be are an error that names them. "skip": they are left out, with a
            warning that counts them.

    Raises:
        RecipeError: unreadable rows with "check", or no other rows with "skip".
    """
    if on_error == "stop":
        return data
    found = list(find_unreadable(data, split, collator))
    if not found:
        return data
    said = f"{len(found)} of {len(data)} rows of {split!r} cannot be read: {format_unreadable(found)}"
    if on_error == "check":
        raise RecipeError(f"data: {said}; mend them, or leave them out with data.on_error: skip")
    if len(found) == len(data):
        raise RecipeError(f"data: {said}; there are no others")
    logger.warning(f"data: {said}; they are left out")
    bad = {item.row for item in found}
    return data.select([row for row in range(len(data)) if row not in bad])


def find_unreadable(data: "Dataset", split: str, collator: RowEncoder) -> Iterator[UnreadableRow]:
    """The rows with an input that the collator cannot make tensors of; each distinct input is read once."""
    names = [name for modality in MEDIA for name in find_columns(data.column_names, modality)]
    known: dict[tuple[str, str], str | None] = {}
    shown = data.select_columns(names) if names else []
    for number, row in enumerate(tqdm(shown, desc=f"reading {split}", unit="row")):
        problem = next(find_problems(cast("Row", row), collator, known), None)
        if problem is not None:
            yield UnreadableRow(number, problem)


def find_problems(row: Row, collator: RowEncoder, known: dict[tuple[str, str], str | None]) -> Iterator[str]:
    """What is wrong with a row's inputs; `known` are those that were read before."""
    for modality in MEDIA:
        try:
            found = collect_items(row, modality)
        except READ_ERRORS as error:
            yield to_one_line(error)
            continue
        for key, value in found:
            if (modality, key) not in known:
                known[modality, key] = find_problem(value, modality, collator)
            problem = known[modality, key]
            if problem is not None:
                yield problem


def find_problem(value: Any, modality: str, collator: RowEncoder) -> str | None:
    """Why this input cannot be read; None where it can."""
    try:
        collator.encode_inputs([{modality: value}])
    except READ_ERRORS as error:
        return to_one_line(error)
    return None


def format_unreadable(found: Sequence[UnreadableRow]) -> str:
    """The first of them, and how many more."""
    shown = "; ".join(f"row {item.row}: {item.problem}" for item in found[:MAX_SHOWN])
    return shown if len(found) <= MAX_SHOWN else f"{shown}; and {len(found) - MAX_SHOWN} more"
