"""Says what can be done with a table whose target is not named."""

from collections.abc import Mapping

from ...configuration.modalities import MEDIA
from .columns import ColumnFacts
from .table import SourceTable

MAX_CANDIDATES = 6


def describe_possibilities(table: SourceTable, columns: Mapping[str, ColumnFacts]) -> str:
    """Returns the error of a table without a target: the columns that may be one, and what is possible without."""
    candidates = list_candidates(columns)
    shown = "; ".join(f"--target {quote(name)} ({what})" for name, what in candidates[:MAX_CANDIDATES])
    ways = list_ways(table, columns)
    parts = [f"possible are {shown}" if shown else "no column looks like one", *ways]
    return (
        f"which column is to be predicted? Name it with --target: {'; or without a target: '.join(parts[:2])}"
        + "".join(f"; or {way}" for way in parts[2:])
    )


def quote(name: str) -> str:
    """Returns a name as it is typed in a shell."""
    return f"'{name}'" if any(letter in name for letter in " '()&;") else name


def list_candidates(columns: Mapping[str, ColumnFacts]) -> list[tuple[str, str]]:
    """Returns the columns that may be a target, classes and numbers first."""
    meanings = {"category": "a class", "number": "a number", "texts": "texts to write", "text": "a text to write"}
    order = list(meanings)
    found = [(name, facts) for name, facts in columns.items() if facts.kind in meanings]
    found.sort(key=lambda item: order.index(item[1].kind))
    return [
        (name, f"{facts.distinct} classes" if facts.kind == "category" else meanings[facts.kind])
        for name, facts in found
    ]


def list_ways(table: SourceTable, columns: Mapping[str, ColumnFacts]) -> list[str]:
    """Returns what is possible without a target."""
    special = {"messages": "dialogue", "answers": "question_answering"}
    for column, recipe in special.items():
        if column in columns:
            return [f"plait train {recipe} --data.source {table.data.source} (as the column {column} suggests)"]
    kinds = [facts.kind for facts in columns.values()]
    texts = [name for name, facts in columns.items() if facts.kind in ("text", "texts")]
    images = [name for name, facts in columns.items() if facts.kind == "image"]
    source, ways = table.data.source, []
    if len(columns) == 1 and kinds[0] in MEDIA:
        ways.append("put the files into a folder for each class, or name them in a table with a column of answers")
    if texts and images:
        ways.append("--task retrieval (search images by text and texts by image)")
        ways.append(
            f"plait train pretraining --data.source {source} --data.columns '{{text: {texts[0]}, image: {images[0]}}}'"
        )
    elif kinds.count("text") + kinds.count("texts") >= 2:
        ways.append("--task retrieval (search one text by another)")
    elif texts:
        ways.append(
            f"plait train causal_lm --data.source {source} --data.columns.text {quote(texts[0])} (to write such texts)"
        )
    return ways
