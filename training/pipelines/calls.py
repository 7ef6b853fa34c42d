"""The arguments of a pipeline's call as rows."""

from collections.abc import Mapping, Sequence
from reprlib import repr as short
from typing import Any

from ...configuration.modalities import MEDIA
from ...modeling.tasks.single_items import is_single_item
from .specs import PipelineSpec


def build_call_rows(spec: PipelineSpec, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of a call.

    Raises TypeError for a missing argument, or a text that is not a string; ValueError for lists of different lengths,
    or a row that is None.
    """
    first: Any = next(iter(given.values()), None)
    if is_record(spec, first) or (is_list(first) and len(first) and is_record(spec, first[0])):
        records = [first] if isinstance(first, Mapping) else first
        columns = {**spec.columns, **spec.optional}
        rows = [{column: record.get(name) for name, column in columns.items() if name in record} for record in records]
    elif is_chat(first):
        return [{"messages": first}]
    elif is_list(first) and len(first) and is_chat(first[0]):
        return [{"messages": messages} for messages in first]
    else:
        rows = combine_columns(spec, given)
    check_call_rows(spec, rows)
    return rows


def combine_columns(spec: PipelineSpec, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Returns the rows of arguments that are lists or single items; a single item goes with all rows."""
    missing = [name for name in spec.columns if given.get(name) is None]
    if missing:
        raise TypeError(f"missing {', '.join(missing)}: pass {', '.join(spec.columns)}")
    columns = {**spec.columns, **spec.optional}
    values = {
        columns[name]: [value] if is_single_argument(spec, name, value) else list(value)
        for name, value in given.items()
    }
    count = max(map(len, values.values()))
    if any(len(value) not in (1, count) for value in values.values()):
        raise ValueError(
            f"lists of different lengths: { ({name: len(value) for name, value in values.items()}) }: give one length"
        )
    filled = {name: value * (count // len(value)) for name, value in values.items()} if count else {}
    return [{name: value[row] for name, value in filled.items()} for row in range(count)]


def check_call_rows(spec: PipelineSpec, rows: Sequence[Mapping[str, Any]]) -> None:
    """Checks that each row has something to read.

    Raises TypeError for a text that is not a string, ValueError for a value that is None.
    """
    for number, row in enumerate(rows):
        for name, column in {**spec.columns, **spec.optional}.items():
            if column not in row:
                continue
            value = row[column]
            if value is None:
                raise ValueError(f"{name}, row {number}: it is None: leave this row out")
            if column not in MEDIA and not isinstance(value, str):
                raise TypeError(f"{name}, row {number}: {short(value)} ({type(value).__name__}) is not a string")


def has_list(spec: PipelineSpec, given: Mapping[str, Any]) -> bool:
    """Returns whether a call has a list of inputs; a conversation or a record is a single input."""
    return any(
        not (is_chat(value) or is_record(spec, value) or is_single_argument(spec, name, value))
        for name, value in given.items()
    )


def is_single_argument(spec: PipelineSpec, name: str, value: Any) -> bool:
    """Returns whether an argument of a call is one text, image or audio clip, not a list."""
    column = {**spec.columns, **spec.optional}[name]
    return is_single_item(value, column if column in MEDIA else "text")


def is_list(value: Any) -> bool:
    """Returns whether a value is a list of inputs, as a column of a data set is, and not a single text or image."""
    return isinstance(value, Sequence) and not isinstance(value, (str, bytes))


def is_record(spec: PipelineSpec, value: Any) -> bool:
    """Returns whether a value is a dict with all arguments of the pipeline."""
    return isinstance(value, Mapping) and set(spec.columns) <= value.keys()


def is_chat(value: Any) -> bool:
    """Returns whether a value is a conversation: a list of messages with a role."""
    return isinstance(value, list) and bool(value) and isinstance(value[0], Mapping) and "role" in value[0]
