"""Finds out what each column of a table holds, by a sample of its cells."""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, Any, NamedTuple

from ..data.cells import is_text, parse_float
from .media_columns import URL, MediaFacts, find_cell_modality, find_named_modality, measure_media
from .table import (
    SAMPLE_FILES,
    SAMPLE_ROWS,
    SourceTable,
    count_distinct,
    count_missing,
    sample_cells,
)

if TYPE_CHECKING:
    from datasets import Dataset

ID_NAME = re.compile(
    r"(^|[_\s.-])(id|ids|guid|uuid|key|hash|index|idx|row|nr|no|sr no)\.?$|[a-z](ID|Id)$", re.IGNORECASE
)
TEXT_NAME = re.compile(
    r"^(text|texts|question|caption|sentence|title|description|review|utterance|prompt|query|comment|body|content|message|"
    r"tweet|post|headline|abstract|document|dialogue|summary|answer|name)s?([_.\s-]?\w{0,4})?$",
    re.IGNORECASE,
)
TIME = re.compile(
    r"\d{1,4}[-/.:]\d{1,2}([-/.:]\d{1,4})?([T\s]\d{1,2}:\d{2}.*|[,.]\d+)?|\d{1,2}:\d{2}(:\d{2}([,.]\d+)?)?"
)
CATEGORY_WORDS = 3  # a value with more words is a text, also where it recurs
CATEGORY_SHARE = 0.3  # of different values among the rows, at most
LIST_KINDS = {"string": "texts", "large_string": "texts"}


class ColumnFacts(NamedTuple):
    """What a column of the training rows holds.

    kind: image, audio, video, text, texts (lists), category, number, vector (lists of numbers), id, time, constant,
    empty, url or other. rows, missing, distinct (None: not counted): over all rows; words: of a text on average;
    media: facts of images, audio and videos; note: what the table says beside.
    """

    name: str
    kind: str
    rows: int
    missing: int = 0
    distinct: int | None = None
    words: float = 0.0
    media: MediaFacts | None = None
    note: str = ""

    def describe(self) -> str:
        """Returns what the table says of the column."""
        shown = self.media.describe() if self.media is not None else self.kind
        if self.kind in ("text", "texts"):
            shown = f"{'lists of texts' if self.kind == 'texts' else 'text'}, {self.words:.0f} words"
        elif self.kind == "category" or (self.kind == "number" and (self.distinct or 99) <= 20):
            shown = f"{self.kind}, {self.distinct} values"
        missing = f"; {self.missing} missing" if self.missing else ""
        return f"{shown}{missing}{f'; {self.note}' if self.note else ''}"


def describe_columns(table: SourceTable) -> dict[str, ColumnFacts]:
    """Returns the facts of every column, by name."""
    return {name: describe_column(table.rows, name, table.root) for name in table.rows.column_names}


def describe_column(data: "Dataset", name: str, root: Path) -> ColumnFacts:
    """Returns the facts of one column."""
    feature: Any = data.features[name]
    missing, rows = count_missing(data, name), len(data)
    if missing == rows:
        return ColumnFacts(name, "empty", rows, missing)
    if is_media_type(feature) or is_text(getattr(feature, "feature", feature)):
        facts = describe_files(name, sample_cells(data, name, SAMPLE_FILES), root, feature)
        if facts is not None:
            return facts._replace(rows=rows, missing=missing)
    facts = describe_plain_column(data, name, feature)
    return facts._replace(rows=rows, missing=missing)


def is_media_type(feature: Any) -> bool:
    """Returns whether a column of this type may hold files: bytes, a mapping of them, or what `datasets` calls Image,
    Audio or Video, or lists of these."""
    inner = getattr(feature, "feature", feature)
    return (
        isinstance(inner, Mapping)
        or type(inner).__name__ in ("Image", "Audio", "Video")
        or getattr(inner, "dtype", None) in ("binary", "large_binary")
    )


def describe_files(name: str, cells: Sequence[Any], root: Path, feature: Any) -> ColumnFacts | None:
    """Returns the facts of a column of images, audio or videos, or of names of files that are not there; None if its
    cells are something else."""
    inner = getattr(feature, "feature", feature)
    declared = type(inner).__name__.lower() if type(inner).__name__ in ("Image", "Audio", "Video") else None
    found = [kind for kind in (find_cell_modality(cell, root) for cell in cells) if kind is not None]
    kind = declared or (max(set(found), key=found.count) if found else None)
    if kind is not None and (declared or len(found) >= 0.3 * len(cells)):
        frames = kind == "image" and hasattr(feature, "feature") and "video" in name.lower()
        kind = "video" if frames else kind
        return ColumnFacts(name, kind, len(cells), media=measure_media(cells, kind, root))
    if cells and all(isinstance(cell, str) and URL.fullmatch(cell) for cell in cells):
        return ColumnFacts(name, "url", len(cells), note="download the files: addresses are not fetched")
    named = find_named_modality(cells)
    if named is not None:
        return ColumnFacts(
            name, "id", len(cells), note=f"names of {named} files, none of them in {root}: see --data.image_root FOLDER"
        )
    return None


def describe_plain_column(data: "Dataset", name: str, feature: Any) -> ColumnFacts:
    """Returns the facts of a column of texts, numbers, classes or lists of them."""
    cells = sample_cells(data, name, SAMPLE_ROWS)
    inner, rows = getattr(feature, "feature", feature), len(data)
    if hasattr(feature, "feature"):
        if hasattr(inner, "feature") or isinstance(inner, Mapping):
            return ColumnFacts(name, "other", rows)
        words = mean(count_words(item) for cell in cells for item in cell) if is_text(inner) else 0.0
        return ColumnFacts(name, LIST_KINDS.get(inner.dtype, "vector"), rows, words=words)
    if isinstance(feature, Mapping):
        return ColumnFacts(name, "other", rows)
    distinct = count_distinct(data, name)
    if distinct == 1 and rows > 1:
        return ColumnFacts(name, "constant", rows, distinct=distinct, note=f"always {str(cells[0])[:30]!r}")
    facts = ColumnFacts(name, "category", rows, distinct=distinct)
    dtype = getattr(feature, "dtype", "")
    if dtype.startswith(("time", "date")):
        return facts._replace(kind="time")
    if hasattr(feature, "int2str") or dtype == "bool":
        return facts
    if is_text(feature):
        return describe_texts(facts, cells)
    return facts._replace(kind="id" if is_numbered(facts, cells) else "number")


def describe_texts(facts: ColumnFacts, cells: Sequence[str]) -> ColumnFacts:
    """Returns the facts of a column of texts: numbers or times written as text, ids, categories, or texts."""
    numbers = [parse_float(cell) for cell in cells]
    if sum(number is not None for number in numbers) >= 0.95 * len(cells):
        return facts._replace(
            kind="id" if is_numbered(facts, [number for number in numbers if number is not None]) else "number"
        )
    if all(TIME.fullmatch(cell.strip()) for cell in cells):
        return facts._replace(kind="time")
    words, distinct = mean(map(count_words, cells)), facts.distinct or 0
    facts = facts._replace(words=words)
    known = facts.rows - facts.missing
    if words <= CATEGORY_WORDS and distinct <= max(2, CATEGORY_SHARE * known) and not TEXT_NAME.match(facts.name):
        return facts._replace(kind="category")
    is_code = mean(any(map(str.isdigit, cell)) or not any(map(str.isalpha, cell)) for cell in cells) > 0.5
    if words <= 1.1 and (is_code or (ID_NAME.search(facts.name) and distinct >= 0.9 * known)):
        return facts._replace(kind="id")
    return facts._replace(kind="text")


def is_numbered(facts: ColumnFacts, numbers: Sequence[float]) -> bool:
    """Returns whether numbers are an id: whole numbers that are called so, or count the rows."""
    if not all(float(number).is_integer() for number in numbers):
        return False
    counts = facts.distinct == facts.rows and len(numbers) > 2 and abs(numbers[-1] - numbers[0]) <= 2 * facts.rows
    ordered = all(one < other for one, other in zip(numbers, numbers[1:], strict=False))
    return ID_NAME.search(facts.name) is not None or (counts and ordered)


def count_words(text: Any) -> int:
    """Counts the words of a text; in a script without spaces every second letter begins one."""
    parts = str(text).split()
    return sum(1 if part.isascii() or len(part) <= 12 else len(part) // 2 for part in parts)
