"""Finds rows whose images, audio or videos cannot be read before training starts, to report them or leave them out."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple, cast

from tqdm.auto import tqdm
from transformers.utils import logging

from ...configuration import DOCUMENT
from ...configuration.modalities import MEDIA, MODALITIES
from ...processing.errors import describe_error, drop_row
from ..recipes.errors import RecipeError
from .loading import DataSplits
from .media import READ_ERRORS, TARGET_IMAGE, Row, collect_items, find_columns
from .row_encoder import RowEncoder

if TYPE_CHECKING:
    from datasets import Dataset

logger = logging.get_logger(__name__)

MAX_SHOWN = 5  # rows named in a message
EMPTY_ROW = "there is nothing to read in this row"


def select_readable_splits(data: DataSplits, collator: RowEncoder, on_error: str) -> DataSplits:
    """Applies `select_readable` to every split, and records how many rows are left out."""
    splits = {split: select_readable(rows, split, collator, on_error) for split, rows in data.splits.items()}
    left_out = {split: len(data.splits[split]) - len(rows) for split, rows in splits.items()}
    return data._replace(splits=splits, left_out={split: count for split, count in left_out.items() if count})


class UnreadableRow(NamedTuple):
    """The number of a row that cannot be read, and the problem in one line."""

    row: int
    problem: str


def select_readable(data: "Dataset", split: str, collator: RowEncoder, on_error: str) -> "Dataset":
    """Returns the rows of a split whose inputs can all be read.

    Args:
        on_error: "stop": nothing is read now, and training will stop at an unreadable row. "check": every distinct
            input is read now, and unreadable rows are an error that names them. "skip": unreadable rows are left out,
            with a warning that counts them.

    Raises:
        RecipeError: unreadable rows with "check", or no readable rows with "skip".
    """
    if on_error == "stop":
        return data
    found = list(find_unreadable(data, split, collator))
    if not found:
        return data
    summary = f"{len(found)} of {len(data)} rows of {split!r} cannot be read: {format_unreadable(found)}"
    if on_error == "check":
        raise RecipeError(f"data: {summary}; repair them, or leave them out with data.on_error: skip")
    if len(found) == len(data):
        raise RecipeError(f"data: {summary}; there are no others")
    logger.warning(f"data: {summary}; they are left out")
    bad = {item.row for item in found}
    return data.select([row for row in range(len(data)) if row not in bad])


def find_unreadable(data: "Dataset", split: str, collator: RowEncoder) -> Iterator[UnreadableRow]:
    """Yields the rows with an input that the collator cannot encode; reads each distinct input once."""
    names = [name for modality in MODALITIES for name in find_columns(data.column_names, modality)]
    names += [name for name in (DOCUMENT, TARGET_IMAGE) if name in data.column_names]
    known: dict[tuple[str, str], str | None] = {}
    columns = data.select_columns(names) if names else []
    for number, row in enumerate(tqdm(columns, desc=f"reading {split}", unit="row")):
        problem = next(find_problems(cast("Row", row), collator, known), None)
        if problem is not None:
            yield UnreadableRow(number, problem)


def find_problems(row: Row, collator: RowEncoder, known: dict[tuple[str, str], str | None]) -> Iterator[str]:
    """Yields the problems of a row's inputs; `known` caches the problem (or None) of each input by modality and key."""
    if is_empty_row(row):
        yield EMPTY_ROW
        return
    for modality in (*MEDIA, TARGET_IMAGE):
        try:
            found = collect_items(row, modality)
        except READ_ERRORS as error:
            yield summarize_error(error)
            continue
        for key, value in found:
            if (modality, key) not in known:
                known[modality, key] = find_problem(value, modality, collator)
            problem = known[modality, key]
            if problem is not None:
                yield problem


def is_empty_row(row: Row) -> bool:
    """Returns whether a row has columns of modalities, and nothing to read in any of them (as no model can answer);
    with a target image it may have none."""
    if TARGET_IMAGE in row:
        return False
    names = [name for modality in (*MODALITIES, DOCUMENT) for name in row if name.partition(".")[0] == modality]
    return bool(names) and all(row[name] is None or (isinstance(row[name], list) and not row[name]) for name in names)


def find_problem(value: Any, modality: str, collator: RowEncoder) -> str | None:
    """Returns why an input cannot be read; None if it can."""
    try:
        encode = collator.encode_target_images if modality == TARGET_IMAGE else collator.encode_inputs
        encode([{modality: value}])
    except READ_ERRORS as error:
        return summarize_error(error)
    return None


def summarize_error(error: BaseException) -> str:
    """Returns what an error says about an input, on one line and without the row's number in a batch."""
    return drop_row(" ".join(describe_error(error).split()))


def format_unreadable(found: Sequence[UnreadableRow]) -> str:
    """Returns a text with the first unreadable rows, their problems, and the number of further ones."""
    shown = "; ".join(f"row {item.row}: {item.problem}" for item in found[:MAX_SHOWN])
    return shown if len(found) <= MAX_SHOWN else f"{shown}; and {len(found) - MAX_SHOWN} more"
