"""Reads the labels of training rows, whatever holds the rows."""

from collections.abc import Mapping, Sequence
from typing import Any

LABEL_COLUMNS = ("label", "labels")


def collect_labels(data: Any) -> list[Any] | None:
    """Returns the labels of all rows, from the column `label` or `labels` of a data set or of a sequence of mappings;
    None if there are none to read: no rows, rows of another kind, or a stream, which has no end before training."""
    names = getattr(data, "column_names", None)
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__") or not len(data):
        return None
    if names is not None:
        name = next((name for name in LABEL_COLUMNS if name in names), None)
        return None if name is None else list(data[name])
    if not isinstance(data[0], Mapping):
        return None
    name = next((name for name in LABEL_COLUMNS if name in data[0]), None)
    rows: Sequence[Mapping[str, Any]] = data
    return None if name is None else [rows[number].get(name) for number in range(len(rows))]
