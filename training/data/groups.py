"""Finds the rows that belong together because they share a value, such as the content of an image."""

from collections.abc import Hashable, Iterable
from typing import Any

from ...configuration.modalities import MEDIA
from .media import TARGET_IMAGE, find_columns, iterate_columns, iterate_keys, iterate_target_keys, list_column_names

Values = Iterable[Iterable[Hashable]]


def join_rows(count: int, columns: Iterable[Values]) -> list[int]:
    """Returns for each row the number of a row that represents its group: rows with an equal value in one of the
    columns, directly or by way of other rows, are in one group. Each of the columns has several values for a row."""
    parents = list(range(count))
    for column in columns:
        first: dict[Hashable, int] = {}
        for row, values in enumerate(column):
            for value in values:
                union_groups(parents, first.setdefault(value, row), row)
    return [find_root(parents, row) for row in range(count)]


def union_groups(parents: list[int], one: int, other: int) -> None:
    """Merges the groups of two rows."""
    parents[find_root(parents, other)] = find_root(parents, one)


def find_root(parents: list[int], row: int) -> int:
    """Returns the row that represents the group of this row, and shortens the path to it."""
    while parents[row] != row:
        parents[row] = parents[parents[row]]
        row = parents[row]
    return row


def collect_media_values(data: Any, modality: str) -> list[Values]:
    """Returns what identifies the images, clips or videos of each row: their content, and the ids that the data give
    them. (An id is only a hint, but rows with one id may show the same thing.)"""
    columns = list_column_names(data)
    if not find_columns(columns, modality):
        return []
    name = f"{modality}_id"
    ids = iterate_columns(data, [name]) if name in columns else []
    return [iterate_keys(data, modality), ([str(row[name])] if row[name] is not None else [] for row in ids)]


def collect_values(data: Any, name: str) -> Values:
    """Returns the value of each row in a column; nothing for None."""
    return ([row[name]] if row[name] is not None else [] for row in iterate_columns(data, [name]))


def find_row_groups(data: Any) -> list[int]:
    """Returns for each row the number of a row of its group: rows that share an image (also as a target), an audio
    clip, a video, an id of these, a context, or a value of the column `group`."""
    shared = [values for modality in MEDIA for values in collect_media_values(data, modality)]
    shared += [iterate_target_keys(data)] if TARGET_IMAGE in list_column_names(data) else []
    shared += [collect_values(data, name) for name in ("context", "group") if name in list_column_names(data)]
    return join_rows(len(data), shared)
