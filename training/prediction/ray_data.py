"""`plait.ray`: predictions in the pipelines of Ray Data, which calls a class on batches of columns."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..recipes.schema import Recipe
from ..runs.loading import load_model_recipe
from .answers import ERROR_COLUMN, flatten_answer, name_answer_columns
from .columns import ColumnSource, list_cells
from .run import Predictor
from .sources import select_read_columns

Columns = Mapping[str, Any]


class BatchPredictor:
    """Answers batches of columns as `plait predict` answers a table: with a batch of rows as {column: values} it
    returns all columns and the answers after them, in columns of their own. The model is loaded with the first batch.

    Args:
        reference: a run folder, a model folder or a Hub id.
        recipe: the recipe of the model.
        root: the folder to which paths in the rows are relative, unless the recipe has a `data.image_root`.
        batch_size: rows that the model answers at a time.
    """

    def __init__(self, reference: str, recipe: Recipe, root: Path, batch_size: int = 32) -> None:
        self.reference, self.recipe, self.root, self.batch_size = reference, recipe, root, batch_size
        self.predictor: Predictor | None = None

    def __call__(self, batch: Columns) -> dict[str, Any]:
        """Returns the columns with the answers. Raises TypeError for a batch that is no mapping, and RecipeError for
        what `plait predict` refuses."""
        if not isinstance(batch, Mapping):
            raise TypeError(
                f"a batch is a {type(batch).__name__}: expected columns, {{name: values}} (Ray's batch_format='numpy')"
            )
        source = ColumnSource({name: list_cells(values) for name, values in batch.items()}, self.recipe, self.root)
        if not len(source):
            return dict(batch)
        if self.predictor is None:
            self.predictor = Predictor(self.reference, source, self.recipe, self.batch_size)
        self.predictor.source = source
        answers = [flatten_answer(answer) for answer in self.predictor.answer(0, len(source), shown=False)]
        skips = self.recipe.data.on_error == "skip"
        return {**batch, **build_answer_columns(answers, list(batch), [ERROR_COLUMN] if skips else [])}


def build_answer_columns(
    answers: Sequence[Mapping[str, Any]], taken: Sequence[str], always: Sequence[str] = ()
) -> dict[str, np.ndarray]:
    """Returns the columns of answers, named beside those that are taken; `always`: columns that come last, and also if
    no answer has them."""
    found = dict.fromkeys(name for answer in answers for name in answer if name not in always)
    names = name_answer_columns([*found, *always], taken)
    return {column: build_array([answer.get(name) for answer in answers]) for name, column in names.items()}


def build_array(values: Sequence[Any]) -> np.ndarray:
    """Returns the values of a column as an array: of numbers or equally long lists of numbers by their type, of all
    else of objects."""
    if all(isinstance(value, (int, float)) for value in values) or is_matrix(values):
        return np.array(values)
    column = np.empty(len(values), dtype=object)
    column[:] = list(values)
    return column


def is_matrix(values: Sequence[Any]) -> bool:
    """Returns whether all values are lists of numbers of one length."""
    lists = all(isinstance(value, list) and value for value in values)
    return (
        lists
        and len({len(value) for value in values}) == 1
        and all(isinstance(item, (int, float)) for value in values for item in value)
    )


def predictor(
    reference: str | Path, overrides: Mapping[str, Any] | None = None, batch_size: int = 32
) -> type[BatchPredictor]:
    """Returns a class for `ray.data.Dataset.map_batches`, each actor of which loads the model once:
    `rows.map_batches(plait.ray.predictor("runs/mine"), batch_size=256, concurrency=4, num_gpus=1)`.

    It answers the columns that `plait predict` writes, beside those of the batch.

    Args:
        reference: a run folder, a model folder or a Hub id, which every machine can read.
        overrides: of the run's recipe, by dotted keys: {"data.on_error": "skip", "data.columns.text": "said"}.
        batch_size: rows that the model answers at a time.

    Raises:
        RecipeError: no such model, or overrides that its recipe does not know.
    """
    folder = Path(reference).expanduser()
    place = str(folder.absolute()) if folder.exists() else str(reference)
    recipe, root = select_read_columns(load_model_recipe(place, overrides or {})), Path.cwd()

    class FolderPredictor(BatchPredictor):
        def __init__(self) -> None:
            super().__init__(place, recipe, root, batch_size)

    return FolderPredictor
