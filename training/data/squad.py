"""Reads files in SQuAD's nested JSON form as rows (Rajpurkar et al. 2016, 2018)."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..recipes.errors import RecipeError

# matches SQuAD's nested objects, but not a table with a column "data"
NESTED_JSON = re.compile(r'\s*\{.*?"data"\s*:\s*\[.*?"paragraphs"\s*:', re.DOTALL)
HEAD_CHARACTERS = 4096  # characters within which a SQuAD file names its first paragraphs


def is_squad(path: Path) -> bool:
    """Returns whether a file is one object `{data: [{title, paragraphs: [{context, qas: [...]}]}]}`, not a table."""
    if path.suffix != ".json":
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return NESTED_JSON.match(file.read(HEAD_CHARACTERS)) is not None


def read_squad_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """Yields one row per question: id, title, context, question, and answers as `{text: [...], answer_start: [...]}`,
    empty if the context has none.

    Raises:
        RecipeError: invalid JSON, or a key of SQuAD's form is missing.
    """
    for path in paths:
        try:
            articles = json.loads(path.read_text(encoding="utf-8"))["data"]
            yield from (row for article in articles for row in flatten_article(article))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"data.source: {path} is not in SQuAD's form: {type(error).__name__} {error}") from error


def flatten_article(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields one row per question of an article."""
    for paragraph in article["paragraphs"]:
        for entry in paragraph["qas"]:
            answers = entry.get("answers", [])
            yield {
                "id": str(entry["id"]),
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": entry["question"],
                "answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")},
            }
