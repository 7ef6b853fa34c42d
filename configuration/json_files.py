"""Reads the JSON files of saved folders; an error names the file and says what to do."""

import json
from os import PathLike
from typing import Any


def read_json_file(path: str | PathLike[str]) -> Any:
    """Returns the content of a JSON file.

    Raises OSError for a file that cannot be opened, and ValueError, with its path, for invalid or too deeply nested
    content.
    """
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}): restore it, or save the folder again") from error


def read_json_mapping(path: str | PathLike[str]) -> dict[str, Any]:
    """Returns the content of a JSON file as `read_json_file`; raises ValueError unless it is an object with keys."""
    content = read_json_file(path)
    if not isinstance(content, dict) or not content:
        held = "no keys" if content == {} else f"a {type(content).__name__}"
        raise ValueError(f"{path} holds {held}, not an object with keys: restore it, or save the folder again")
    return content
