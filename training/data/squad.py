"""Files in the nested form in which SQuAD is published, as rows (Rajpurkar et al. 2016, 2018)."""

import json
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from ..recipes.errors import RecipeError

NESTED_JSON = re.compile(r'\s*\{.*?"data"\s*:\s*\[.*?"paragraphs"\s*:', re.DOTALL)  # not a table with such a column
HEAD_CHARACTERS = 4096  # characters, within which such a file has named its first paragraphs


def is_squad(path: Path) -> bool:
    """Whether this is one object `{data: [{title, paragraphs: [{context, qas: [...]}]}]}`, and no table."""
    if path.suffix != ".json":
        return False
    with path.open(encoding="utf-8", errors="replace") as file:
        return NESTED_JSON.match(file.read(HEAD_CHARACTERS)) is not None


def read_squad_rows(paths: Sequence[Path]) -> Iterator[dict[str, Any]]:
    """A row a question: id, title, context, question, and answers as `{text: [...], answer_start: [...]}`, empty where
    the context has none.

    Raises:
        RecipeError: not JSON, or a part of the form is missing.
    """
    for path in paths:
        try:
            articles = json.loads(path.read_text(encoding="utf-8"))["data"]
            yield from (row for article in articles for row in flatten_article(article))
        except (KeyError, TypeError, ValueError) as error:
            raise RecipeError(f"data.source: {path} is not in SQuAD's form: {type(error).__name__} {error}") from error


def flatten_article(article: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """The questions of one article."""
    for paragraph in article["paragraphs"]:
        for asked in paragraph["qas"]:
            answers = asked.get("answers", [])
            yield {
                "id": str(asked["id"]),
                "title": article.get("title", ""),
                "context": paragraph["context"],
                "question": asked["question"],
                "answers": {name: [answer[name] for answer in answers] for name in ("text", "answer_start")},
            }
