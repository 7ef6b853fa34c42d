"""The stream of a recipe's training rows (`data.stream`): its first block, from which all is built, and the rest."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..data.files import load_source, resolve_paths
from ..data.labels import LabelSpec, find_labels
from ..data.loading import DataSplits, load_data
from ..recipes.errors import RecipeError
from ..recipes.schema import DataRecipe
from .opening import find_stream_files, open_stream
from .rows import RowStream

if TYPE_CHECKING:
    from datasets import Dataset

# keys that need all rows beforehand
UNSTREAMED = ("validation_fraction", "test_fraction", "max_rows", "leave_out", "splits", "name", "revision")


def load_first_block(recipe: DataRecipe, seed: int, needs_labels: bool, roles: Sequence[str]) -> DataSplits:
    """Loads the first block of the training rows as the training split, and the other splits whole.

    Raises RecipeError for a key that needs all training rows, labels that are not named, or what `load_data` refuses.
    """
    check_stream_keys(recipe)
    source, others = split_source(recipe)
    raw = {"train": resolve_paths(read_block(source, int(recipe.stream or 0)), recipe, find_file_root(source))}
    if others:
        raw |= load_source(replace(recipe, source=others), needs_labels)
    if needs_labels and recipe.labels is None and not recipe.regression:
        names = ", ".join(find_labels(load_block(raw["train"], recipe, seed, roles)).names)
        raise RecipeError(
            f"data.labels is missing: the labels of a stream cannot be counted beforehand; its first {recipe.stream} "
            f"rows have {names}: name all of them"
        )
    return load_data(recipe, seed, needs_labels=needs_labels, roles=roles, raw=raw)


def load_block(block: "Dataset", recipe: DataRecipe, seed: int, roles: Sequence[str]) -> "Dataset":
    """Returns a block with the columns' roles as names, and labels as they are."""
    return load_data(recipe, seed, needs_labels=False, roles=roles, raw={"train": block}).splits["train"]


def build_stream(
    recipe: DataRecipe,
    seed: int,
    labels: LabelSpec | None,
    roles: Sequence[str],
    prepare: "Callable[[Dataset], Dataset]",
) -> RowStream:
    """Builds the stream of all training rows. prepare: what a task does with the rows that `load_data` returns."""
    source, _ = split_source(recipe)
    root = find_file_root(source)

    def prepare_block(block: "Dataset") -> "Dataset":
        raw = {"train": resolve_paths(block, recipe, root)}
        return prepare(load_data(recipe, seed, labels, labels is not None, roles=roles, raw=raw).splits["train"])

    return RowStream(partial(open_stream, source, seed), 1, int(recipe.stream or 0), seed, prepare_block)


def check_stream_keys(recipe: DataRecipe) -> None:
    """Raises RecipeError for keys that do not fit a stream."""
    if recipe.stream is not None and recipe.stream < 1:
        raise RecipeError(f"data.stream is {recipe.stream}: expected a buffer of at least 1 row")
    given = [key for key in UNSTREAMED if getattr(recipe, key)]
    if given:
        raise RecipeError(
            f"data.{given[0]} needs all rows beforehand, but data.stream reads them one after the other: leave it out "
            "(other splits are files: data.source {train: shards/*.parquet, validation: FILE})"
        )


def split_source(recipe: DataRecipe) -> tuple[str, dict[str, str]]:
    """Returns the source of the training rows, and the files of other splits. Raises RecipeError without the first."""
    source: Any = recipe.source
    if isinstance(source, Mapping):
        if "train" not in source:
            raise RecipeError(f"data.source has {', '.join(source)}: data.stream needs the files of train")
        return source["train"], {split: file for split, file in source.items() if split != "train"}
    if source is None:
        raise RecipeError("data.source is missing: data.stream reads a file, a pattern of files, or a folder")
    return source, {}


def read_block(source: str, rows: int) -> "Dataset":
    """Reads the first rows of a stream. Raises RecipeError if there are none."""
    from datasets import Dataset

    block = list(islice(iter(open_stream(source)), rows))
    if not block:
        raise RecipeError(f"data.source: {source} has no rows")
    return Dataset.from_list(block)


def find_file_root(source: str) -> Path:
    """Returns the folder to which the paths in a stream's rows are relative: that of its files."""
    return find_stream_files(source)[0].parent
