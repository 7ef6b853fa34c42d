"""Fingerprints of data, by which a resumed run knows that they are those it started with."""

import math
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ...configuration.modalities import MEDIA
from ..data.media import TARGET_IMAGE, find_columns

if TYPE_CHECKING:
    from datasets import Dataset

MAX_ROWS = 10_000  # rows that are read, spread evenly over the data
MAX_BYTES = 256 << 20  # of them
BATCH_ROWS = 256


def compute_fingerprint(data: "Dataset") -> dict[str, Any]:
    """Returns the number of rows of a data set, its columns, and a digest of the rows in their order.

    Of at most `MAX_ROWS` rows the cells are read; of a media file the name and the size count, not its folder.
    """
    table = data.data
    limit = min(MAX_ROWS, max(MAX_BYTES * max(table.num_rows, 1) // max(table.nbytes, 1), 1))
    rows = list(range(0, len(data), max(math.ceil(len(data) / limit), 1)))
    media = {name for modality in MEDIA for name in find_columns(data.column_names, modality)} | {TARGET_IMAGE}
    digest, arrow = blake2b(digest_size=16), data.with_format("arrow")
    for start in range(0, len(rows), BATCH_ROWS):
        batch: Any = arrow[rows[start : start + BATCH_ROWS]]
        for name in sorted(data.column_names):
            for value in batch.column(name).to_pylist():
                digest.update(repr(describe_cell(value, name in media)).encode("utf-8", "surrogatepass"))
    return {"rows": len(data), "columns": sorted(data.column_names), "digest": digest.hexdigest()}


def describe_cell(value: Any, is_media: bool) -> Any:
    """Returns a cell as it counts: bytes by their digest, the path of a media file by its name and size in bytes."""
    if isinstance(value, bytes):
        return blake2b(value, digest_size=16).hexdigest()
    if is_media and isinstance(value, str):
        path = Path(value)
        return (path.name, path.stat().st_size if path.is_file() else None)
    if isinstance(value, Mapping):
        return {key: describe_cell(item, is_media) for key, item in sorted(value.items())}
    if isinstance(value, list):
        return [describe_cell(item, is_media) for item in value]
    return value


def find_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """Returns a text for each split whose fingerprints differ."""
    found = []
    for split in sorted({*old, *new}):
        before, after = old.get(split), new.get(split)
        if before is None or after is None:
            found.append(f"{split} is {'new' if before is None else 'gone'}")
        elif before["rows"] != after["rows"]:
            found.append(f"{split} has {after['rows']} rows, not {before['rows']}")
        elif before["columns"] != after["columns"]:
            found.append(f"{split} has the columns {', '.join(after['columns'])}, not {', '.join(before['columns'])}")
        elif before != after:
            found.append(f"{split} has other values or another order")
    return found
