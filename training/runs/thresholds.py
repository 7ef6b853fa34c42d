"""The thresholds of a run with several labels a row: chosen on its validation split, saved in its folder and used to
predict."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..storage.atomic import write_json

THRESHOLDS_FILE = "thresholds.json"


def save_thresholds(folder: Path, content: Mapping[str, Any]) -> None:
    """Writes the thresholds into a run folder."""
    write_json(folder / THRESHOLDS_FILE, content)


def read_thresholds(folder: Path) -> dict[str, Any] | None:
    """Returns what a run folder's file of thresholds says; None without one.

    Raises RecipeError for a damaged file.
    """
    file = folder / THRESHOLDS_FILE
    if not file.is_file():
        return None
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        return {**content, "thresholds": {str(name): float(value) for name, value in content["thresholds"].items()}}
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise RecipeError(
            f"{file} is damaged: `plait evaluate {folder} --tune-thresholds` writes it anew, or delete it"
        ) from error


def copy_thresholds(folder: Path, target: Path) -> None:
    """Writes the thresholds of a run folder into another one, if it has any."""
    content = read_thresholds(folder)
    if content is not None:
        save_thresholds(target, content)


def describe_thresholds(reference: str, recipe: Recipe) -> str:
    """Returns a sentence about the thresholds by which labels are predicted; nothing if all are 0.5."""
    given = recipe.settings.get("thresholds")
    if given is None:
        return ""
    saved = read_thresholds(Path(reference).expanduser()) or {}
    origin = f", chosen on {saved['split']}" if saved.get("thresholds") == given else ""
    shown = (
        given if not isinstance(given, Mapping) else ", ".join(f"{name} {value:.3g}" for name, value in given.items())
    )
    return f"labels are predicted above these thresholds{origin}: {shown}"


def format_thresholds(content: Mapping[str, Any]) -> str:
    """Returns a line for each label with its threshold and its F1, and where they are saved."""
    lines = [
        f"{name}: above {value:.4f}, F1 {content['f1'][name]:.4f} (at 0.5: {content['f1_at_0.5'][name]:.4f})"
        for name, value in content["thresholds"].items()
    ]
    return "\n".join([*lines, f"chosen on {content['rows']} rows of {content['split']}; predict uses them from now on"])
