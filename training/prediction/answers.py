"""What stands in the columns of an answer: their names beside the user's own, and nested answers as flat ones."""

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

ERROR_COLUMN = "error"  # why a row has no answer
ANSWER_PREFIX = "predicted_"  # of an answer's column whose name the data have already
PROBABILITIES, TOP_K = "probabilities", "top_k"


def name_answer_columns(answers: Iterable[str], taken: Sequence[str]) -> dict[str, str]:
    """Returns the column of each part of an answer: its own name, or where the data have a column of this name with
    "predicted_" before it, as often as needed, so that no column of the data is overwritten."""
    names: dict[str, str] = {}
    for answer in answers:
        name = answer
        while name in taken or name in names.values():
            name = f"{ANSWER_PREFIX}{name}"
        names[answer] = name
    return names


def flatten_answer(answer: Mapping[str, Any]) -> dict[str, Any]:
    """Returns an answer as the cells of a table: `probabilities` as a column for each class, `probability_NAME`; of
    `top_k` the columns `label_1`, `score_1`, `label_2`, ...; all else unchanged."""
    cells: dict[str, Any] = {}
    for name, value in answer.items():
        if name == PROBABILITIES and isinstance(value, Mapping):
            cells |= {f"probability_{label}": score for label, score in value.items()}
        elif name == TOP_K:
            for place, found in enumerate(value, start=1):
                cells |= {f"{part}_{place}": found[part] for part in ("label", "score")}
        else:
            cells[name] = value
    return cells


def format_text_cell(value: Any, separator: str = ";") -> str:
    """Returns a value as a cell of text: nothing for None, names joined by the separator, all else nested as JSON."""
    if value is None:
        return ""
    if isinstance(value, str):
        return value
    if isinstance(value, list) and all(isinstance(item, str) and separator not in item for item in value):
        return separator.join(value)
    return format_json(value) if isinstance(value, (list, dict, bool)) else str(value)


def format_json(value: Any) -> str:
    """Returns a value as JSON on one line."""
    return json.dumps(make_plain(value), ensure_ascii=False)


def make_plain(value: Any) -> Any:
    """Returns a value as JSON has it: of a file in a column its path, of its bytes alone None, of a time its text."""
    if isinstance(value, Mapping):
        if {*value} == {"bytes", "path"}:
            return value["path"]
        return {str(name): make_plain(item) for name, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [make_plain(item) for item in value]
    if value is None or isinstance(value, (str, bool, int, float)):
        return value
    return None if isinstance(value, bytes) else make_plain(value.tolist()) if hasattr(value, "tolist") else str(value)
