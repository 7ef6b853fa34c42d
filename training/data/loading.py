"""Loads the splits of a recipe's data under one set of column names: text, image, label, target, ..."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ...configuration.modalities import MODALITY_TABLE
from ..recipes.errors import RecipeError
from ..recipes.schema import SPLITS, DataRecipe
from .columns import name_columns
from .files import SPLIT_ALIASES, load_source
from .groups import find_row_groups
from .label_columns import check_label_column, check_separator, read_none_labels, split_label_texts
from .label_vectors import has_label_vectors
from .labels import LabelSpec, encode_labels, find_labels
from .samplers import group_rows, shuffle_indices

if TYPE_CHECKING:
    from datasets import Dataset

DEFAULT_ROLES = (*(column for row in MODALITY_TABLE.values() for column in row.columns), "label")


class DataSplits(NamedTuple):
    """The splits of a data set by name, and what is known about them.

    labels: meaning of the labels (None: no labels); left_out: number of unreadable rows left out, by split; rows:
    number of rows from which a prepared split was made, by split.
    """

    splits: dict[str, "Dataset"]
    labels: LabelSpec | None
    left_out: dict[str, int] = {}
    rows: dict[str, int] = {}

    @property
    def train(self) -> "Dataset | None":
        """The training split, if there is one."""
        return self.splits.get("train")

    @property
    def validation(self) -> "Dataset | None":
        """The validation split, if there is one."""
        return self.splits.get("validation")

    @property
    def test(self) -> "Dataset | None":
        """The test split, if there is one."""
        return self.splits.get("test")


def load_data(
    recipe: DataRecipe,
    seed: int = 42,
    labels: LabelSpec | None = None,
    needs_labels: bool = True,
    label_order: Sequence[str] = (),
    roles: Sequence[str] = DEFAULT_ROLES,
    raw: "Mapping[str, Dataset] | None" = None,
) -> DataSplits:
    """Loads a recipe's data: renames columns, encodes labels, splits and limits. The collator decodes images later.

    Args:
        labels: meaning of the labels, known from a trained model; default: found in the training split.
        needs_labels: whether labels are needed, so that a missing label column is an error.
        label_order: class names of a pretrained model, whose order is kept if the data have the same names.
        roles: the columns to use, under their own names, if the recipe maps none.
        raw: the splits with the source's columns; default: the recipe's source is read.

    Raises:
        RecipeError: a missing file, split or column, an empty split, a label that does not occur in training; the
            message names what exists instead.
    """
    raw = load_source(recipe, needs_labels) if raw is None else raw
    chosen = choose_splits(raw, recipe)
    if recipe.leave_out and "train" in chosen:
        chosen["train"] = leave_out_rows(chosen["train"], recipe.leave_out, "train")
    splits = {split: name_columns(data, recipe, split, roles) for split, data in chosen.items()}
    if recipe.words_per_row is not None:
        splits = {split: regroup_words(data, recipe.words_per_row) for split, data in splits.items()}
    if needs_labels:
        splits, labels = _encode_labels(splits, recipe, labels, label_order)
    for split in ("test", "validation"):
        splits = _split_off(splits, split, getattr(recipe, f"{split}_fraction"), seed)
    return DataSplits({split: _limit(data, recipe, split, seed) for split, data in splits.items()}, labels)


def choose_splits(raw: Mapping[str, "Dataset"], recipe: DataRecipe) -> dict[str, "Dataset"]:
    """Returns the source's splits as train, validation and test; those that the recipe does not map, by alias."""
    chosen = {}
    for split in SPLITS:
        if split in recipe.splits:
            name = recipe.splits[split]
            if name is not None and name not in raw:
                raise RecipeError(f"data.splits.{split}: no split {name!r}; there are {', '.join(raw)}")
        else:
            name = next((alias for alias in SPLIT_ALIASES[split] if alias in raw), None)
        if name is not None:
            chosen[split] = raw[name]
    if not chosen:
        raise RecipeError(f"data: none of the splits {', '.join(raw)} is used; name them in data.splits")
    for split, data in chosen.items():
        if len(data) == 0:
            raise RecipeError(f"data: the split {split!r} is empty: map it to another split in data.splits, or to null")
    return chosen


def choose_split(splits: Mapping[str, "Dataset"], name: str | None) -> "Dataset":
    """Returns the named split; without a name test, else validation, else train."""
    if name is None:
        name = next(split for split in ("test", "validation", "train") if split in splits)
    if name not in splits:
        raise RecipeError(f"there is no split {name!r}: choose one of {', '.join(splits)}")
    return splits[name]


def leave_out_rows(data: "Dataset", left_out: Mapping[str, Sequence[object]], split: str) -> "Dataset":
    """Returns the rows without those that have one of the values in a column: `{column: [value, ...]}`.

    Raises RecipeError for an unknown column, a value that no row has, or if no row is left.
    """
    for column, values in left_out.items():
        if column not in data.column_names:
            raise RecipeError(
                f"data.leave_out: {split!r} has no column {column!r}; it has {', '.join(data.column_names)}"
            )
        cells = data[column][:]
        absent = [value for value in values if value not in set(cells)]
        if absent:
            raise RecipeError(f"data.leave_out.{column}: no row of {split!r} has {absent[0]!r}: correct it")
        data = data.select([row for row, cell in enumerate(cells) if cell not in values])
    if not len(data):
        raise RecipeError(f"data.leave_out leaves no row of {split!r}: leave out less")
    return data


def regroup_words(data: "Dataset", words: int) -> "Dataset":
    """Regroups the text into rows of `words` words: joins short lines and cuts long ones."""
    from datasets import Dataset

    others = [name for name in data.column_names if name != "text"]
    if others:
        raise RecipeError(
            f"data.words_per_row regroups the texts into other rows, to which {', '.join(others)} cannot belong: leave "
            "words_per_row out, or map text alone"
        )
    flow = [word for line in data["text"] if line for word in line.split()]
    return Dataset.from_dict({"text": [" ".join(flow[at : at + words]) for at in range(0, len(flow), words)]})


def _encode_labels(
    splits: dict[str, "Dataset"], recipe: DataRecipe, labels: LabelSpec | None, order: Sequence[str]
) -> tuple[dict[str, "Dataset"], LabelSpec]:
    """Returns the splits with encoded labels, and their meaning, found in the training split if it is not given."""
    for data in splits.values():
        check_label_column(data)
    if recipe.label_separator is not None:
        if labels is None and "train" in splits:
            check_separator(splits["train"], recipe.label_separator)
        splits = {split: split_label_texts(data, recipe.label_separator) for split, data in splits.items()}
    if recipe.none_label is not None:
        splits = {split: read_none_labels(data, recipe.none_label, split) for split, data in splits.items()}
    vectors = has_label_vectors(splits.values())
    if labels is None:
        first = splits.get("train", next(iter(splits.values())))
        labels = find_labels(first, recipe.labels, recipe.regression, order, vectors)
    return {split: encode_labels(data, labels, split, vectors) for split, data in splits.items()}, labels


def _split_off(splits: dict[str, "Dataset"], split: str, fraction: float | None, seed: int) -> dict[str, "Dataset"]:
    """Splits a missing split off the training split, keeping rows together that share an image, a clip or a context."""
    if fraction is None:
        return splits
    if not 0 < fraction < 1:
        raise RecipeError(f"data.{split}_fraction is {fraction}: expected more than 0 and less than 1")
    if split in splits or "train" not in splits:
        return splits
    train = splits["train"]
    groups = group_rows(find_row_groups(train))
    order = shuffle_indices(len(groups), seed)
    cut = max(1, round(fraction * len(groups)))
    if cut == len(groups):
        raise RecipeError(
            f"data.{split}_fraction is {fraction}: of {cut} groups of rows none is left to train on; lower it"
        )
    held, kept = ([row for group in part for row in groups[group]] for part in (order[:cut], order[cut:]))
    return {**splits, "train": train.select(sorted(kept)), split: train.select(sorted(held))}


def _limit(data: "Dataset", recipe: DataRecipe, split: str, seed: int) -> "Dataset":
    rows = recipe.max_rows.get(split) if isinstance(recipe.max_rows, Mapping) else recipe.max_rows
    if rows is None or rows >= len(data):
        return data
    if rows < 1:
        raise RecipeError(f"data.max_rows is {rows}: expected at least 1")
    return data.select(sorted(shuffle_indices(len(data), seed)[:rows]))
