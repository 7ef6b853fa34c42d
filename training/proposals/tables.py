"""Tells a table, for which a recipe is proposed, from a recipe."""

from pathlib import Path

from ..data.files import FILE_READERS
from ..recipes.errors import RecipeError
from ..recipes.keys import list_shipped_recipes


def is_table(source: str, target: str | None, inputs: str | None) -> bool:
    """Returns whether a recipe is to be proposed for a table: its target or inputs are named, or it is a folder or a
    file of rows.

    Raises RecipeError for a recipe with what is said of tables.
    """
    path, is_named = Path(source).expanduser(), target is not None or inputs is not None
    is_recipe = path.suffix in (".yaml", ".yml") or (source in list_shipped_recipes() and not path.is_file())
    if is_recipe and is_named:
        raise RecipeError(
            f"--target and --inputs are of a table, but {source} is a recipe: give the table in its place, or "
            "map its columns with --data.columns.label NAME and so on"
        )
    return not is_recipe and (is_named or path.is_dir() or path.suffix in FILE_READERS)
