"""Predicts for all rows of a source, by one process or several, and writes them beside their own columns."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from tqdm.auto import tqdm

from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing.errors import find_row_error
from ..data.media import NumberedRows, Row
from ..data.unreadable_rows import (
    EMPTY_ROW,
    MAX_SHOWN,
    UnreadableRow,
    find_problems,
    format_unreadable,
    is_empty_row,
)
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.predict import load_predictor, predict_batch
from ..runs.processes import join_processes
from ..storage.atomic import replace_file
from ..tasks.collator import PlaitDataCollator
from .answers import ERROR_COLUMN, format_json, name_answer_columns
from .sources import RowSource
from .spool import Spool, list_answer_names, read_answers
from .writers import AnsweredPart, join_row, write_answers

SKIP_HINT = "leave such rows without an answer with --data.on_error skip"


class Predictions(NamedTuple):
    """What was written. count: the rows; unreadable: those without an answer, the first of them by number."""

    count: int
    failed: int
    unreadable: list[UnreadableRow]

    def describe_failures(self) -> str:
        """Returns a sentence about the rows without an answer; nothing if there are none."""
        if not self.failed:
            return ""
        rest = self.failed - len(self.unreadable)
        more = f"; and {rest} more" if rest else ""
        return (
            f"{self.failed} of {self.count} rows cannot be read: {format_unreadable(self.unreadable)}{more}; they have "
            f"no answer, and the column {ERROR_COLUMN!r} says why"
        )


class Predictor:
    """A model with its rows, read and answered part by part.

    Raises:
        RecipeError: a model that cannot be loaded or does not read these rows; with `data.on_error: check` rows that
            cannot be read.
    """

    def __init__(self, reference: str, source: RowSource, recipe: Recipe, batch_size: int = 32) -> None:
        self.source, self.recipe, self.batch_size = source, recipe, batch_size
        first = next(source.read_parts(0, 1)).rows
        self.model, self.collator = load_predictor(reference, first, recipe)
        if recipe.data.on_error == "check":
            check_readable_rows(source, self.collator)

    def answer(self, first: int, last: int, shown: bool = True) -> Iterator[dict[str, Any]]:
        """Yields the answers of the rows from `first` up to `last`, with a progress bar.

        With `data.on_error: skip` the answer of a row that cannot be read is `{"error": ...}`; otherwise RecipeError
        names it.
        """
        total = last - first
        with tqdm(total=total, desc="predict", unit="row", disable=not shown or total <= self.batch_size) as bar:
            for batch in iterate_batches(self.source, first, last, self.batch_size):
                answers = answer_batch(self.model, self.collator, batch, self.recipe.data.on_error == "skip")
                bar.update(len(answers))
                yield from answers


def predict_lines(predictor: Predictor, summary: list[UnreadableRow]) -> Iterator[str]:
    """Yields the rows with their answers as lines of JSON, as soon as they are known; `summary` collects the rows that
    cannot be read."""
    source, columns = predictor.source, {}
    answers = predictor.answer(0, len(source))
    for part in source.read_parts(rows=False):
        for number, row in enumerate(part.given, start=part.start):
            answer = next(answers)
            columns = columns | name_answer_columns([name for name in answer if name not in columns], source.names)
            if ERROR_COLUMN in answer:
                summary.append(UnreadableRow(number, answer[ERROR_COLUMN]))
            yield format_json(join_row(row, answer, columns))


def predict_file(predictor: Predictor, output: Path, separator: str = ";") -> Predictions:
    """Writes the rows in their order, with all their columns and the answers beside them; the file appears when all is
    written. Every process of several answers a share of the rows, and the first writes.

    Raises:
        RecipeError: a row that cannot be read, if it is not skipped, or no row that can.
    """
    state, count = join_processes(), len(predictor.source)
    spools = [Spool(output, rank) for rank in range(state.num_processes)]
    cuts = [count * rank // state.num_processes for rank in range(state.num_processes + 1)]
    rank = state.process_index
    try:
        spools[rank].write(predictor.answer(cuts[rank], cuts[rank + 1], state.is_main_process))
        state.wait_for_everyone()
        found = collect_failures(spools, count) if state.is_main_process else Predictions(count, 0, [])
        if state.is_main_process:
            write_spooled(predictor.source, spools, output, separator)
        state.wait_for_everyone()
    finally:
        spools[rank].remove()
    return found


def write_spooled(source: RowSource, spools: list[Spool], output: Path, separator: str) -> None:
    """Writes the rows of a source with the answers of all processes."""

    def read() -> Iterator[AnsweredPart]:
        answers = read_answers(spools)
        for part in source.read_parts(rows=False):
            yield AnsweredPart(part.given, list(islice(answers, len(part.given))), part.table)

    names = sorted(list_answer_names(spools), key=lambda name: name == ERROR_COLUMN)  # it comes last
    with replace_file(output) as unfinished:
        write_answers(unfinished, read, source.names, names, separator)


def collect_failures(spools: list[Spool], count: int) -> Predictions:
    """Collects the rows without an answer. Raises RecipeError if no row has one."""
    failed, shown = 0, []
    for number, answer in enumerate(read_answers(spools)):
        if ERROR_COLUMN in answer:
            failed += 1
            shown += [UnreadableRow(number, answer[ERROR_COLUMN])] if failed <= MAX_SHOWN else []
    if failed == count:
        raise RecipeError(f"none of the {count} rows can be read: {format_unreadable(shown)}")
    return Predictions(count, failed, shown)


def iterate_batches(source: RowSource, first: int, last: int, size: int) -> Iterator[NumberedRows]:
    """Yields batches of rows, across the borders of parts, with their numbers in the data."""
    kept: list[tuple[int, Row]] = []
    for part in source.read_parts(first, last):
        kept += enumerate(part.rows, start=part.start)
        while len(kept) >= size:
            yield number_batch(kept[:size])
            del kept[:size]
    if kept:
        yield number_batch(kept)


def number_batch(rows: list[tuple[int, Row]]) -> NumberedRows:
    """Returns rows that know their numbers in the data."""
    return NumberedRows([row for _, row in rows], [number for number, _ in rows])


def answer_batch(
    model: PlaitPreTrainedModel, collator: PlaitDataCollator, rows: NumberedRows, skips: bool
) -> list[dict[str, Any]]:
    """Returns an answer for each row; with `skips` `{"error": ...}` for one that cannot be read, whose batch is then
    answered row by row."""
    try:
        return predict_batch(model, collator, rows)
    except RecipeError as error:
        empty = [number for row, number in zip(rows, rows.numbers, strict=True) if is_empty_row(row)]
        said = f"row {empty[0]} of the data: {EMPTY_ROW}" if empty else str(error)
        if not skips:
            hint = f"; repair the row, or {SKIP_HINT}" if find_row_error(said) else ""
            raise RecipeError(f"{said}{hint}") from error
        if len(rows) == 1:
            return [{ERROR_COLUMN: strip_row(said)}]
    single = (NumberedRows([row], [number]) for row, number in zip(rows, rows.numbers, strict=True))
    return [answer for one in single for answer in answer_batch(model, collator, one, skips)]


def strip_row(message: str) -> str:
    """Returns an error without the row that it names, for a place beside that row."""
    start, _, rest = message.partition(" of the data: ")
    return rest if rest and f" {start}".rpartition(" row ")[1] else message


def check_readable_rows(source: RowSource, collator: PlaitDataCollator) -> None:
    """Reads the images, clips and videos of all rows. Raises RecipeError, which names those that cannot be read."""
    found: list[UnreadableRow] = []
    for part in source.read_parts():
        known: dict[tuple[str, str], str | None] = {}
        for number, row in enumerate(part.rows, start=part.start):
            problem = next(find_problems(row, collator, known), None)
            found += [] if problem is None else [UnreadableRow(number, problem)]
    if found:
        raise RecipeError(
            f"data: {len(found)} rows cannot be read: {format_unreadable(found)}; repair them, or {SKIP_HINT}"
        )


__all__ = ["Predictions", "Predictor", "predict_file", "predict_lines"]
