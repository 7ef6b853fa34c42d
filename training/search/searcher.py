"""Search by a retrieval model in the files of a folder or the rows of a table, whose index is kept in files."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.nn import Module

from ...configuration.messages import to_one_line
from ...modeling.tasks.retrieval import PlaitForRetrieval
from ..data.files import FILE_READERS
from ..data.media import READ_ERRORS
from ..prediction.folders import holds_tables
from ..prediction.sources import open_data
from ..recipes.errors import RecipeError
from ..recipes.schema import Recipe
from ..runs.folder import RUN_FOLDER
from ..runs.loading import load_model, load_model_recipe
from ..tasks.registry import find_task
from .items import IndexItem, find_folder_side, find_text_side, iterate_folder, iterate_rows
from .nearest import choose_library
from .vector_index import INDEX_FILE, IndexChange, Match, VectorIndex, identify_model

INDEX_FOLDER = ".plait-index"


class Searcher:
    """A retrieval model with an index: `searcher("a red square")`, `searcher(image="query.png")`.

    Args:
        model, processor: of the retrieval model.
        index: of vectors that this model has made.
        max_length: tokens of a text at most.

    Raises:
        RecipeError: an index of another model.
    """

    def __init__(self, model: Any, processor: Any, index: VectorIndex, max_length: int | None = None) -> None:
        self.model, self.processor, self.index, self.max_length = model, processor, index, max_length
        self.change = IndexChange(0, 0, False, [])
        self.library = choose_library()

    def __call__(self, text: str | None = None, top_k: int = 10, **query: Any) -> list[Match]:
        """Returns the `top_k` most similar items, the best first.

        Args:
            text: a text to search by; or one other side by its name, `image=`, `audio=`, `video=` (a path, or what the
                processor reads) or `document=`. Of several sides the mean of their vectors is searched.

        Raises:
            ValueError: no query, a side that the model lacks, or an input that cannot be read.
        """
        given = {"text": text, **query}
        sides = {side: value for side, value in given.items() if value is not None}
        if not sides:
            raise ValueError(f"there is no query: give one of {', '.join(self.model.config.sides)}")
        vectors = [self.encode(side, [value])[0] for side, value in sides.items()]
        mean = np.mean(vectors, axis=0)
        return self.index.search(
            (mean / max(np.linalg.norm(mean), 1e-12))[None].astype(np.float32), top_k, self.library
        )[0]

    def encode(self, side: str, values: Sequence[Any]) -> np.ndarray:
        """Encodes the items of one side: (items, width) float32, of unit length."""
        options = {} if self.max_length is None or self.model.config.sides.get(side) != "text" else {
            "max_length": self.max_length, "truncation": True, "padding": True
        }  # fmt: skip
        found = self.model.encode(
            list(values), self.processor, side, batch_size=max(1, len(values)), show_progress=False, **options
        )
        return found.numpy()

    def update(self, items: Iterator[IndexItem], batch_size: int = 64) -> IndexChange:
        """Brings the index up to date with the items; see `VectorIndex.update`."""
        self.change = self.index.update(items, lambda values: self.encode(self.index.side, values), batch_size)
        return self.change


def open_search(
    model: str,
    source: str | Path,
    side: str | None = None,
    *,
    index_folder: str | Path | None = None,
    update: bool = True,
    rebuild: bool = False,
    batch_size: int = 64,
    recipe: Recipe | None = None,
) -> Searcher:
    """Opens a search in a folder or a table, and writes its index, or brings it up to date.

    Args:
        model: a run folder, a model folder or a Hub id of a retrieval model.
        source: a folder of images, audio clips, videos or .txt files; or a table (csv, tsv, jsonl, parquet, ...), of
            which the columns of the model's run are read, or those that `recipe` maps.
        side: the side of the model that encodes the items; None: the first with files, of a table the images if it has
            any.
        index_folder: where the index lies; None: `.plait-index` in the folder, or `NAME.plait-index` at the table.
        update: look for new and changed content; False: search the index as it is.
        rebuild: make the index anew.

    Raises:
        RecipeError: a model that is no retrieval model, a source that cannot be read, or an index of another model.
    """
    path = Path(source).expanduser()
    recipe = load_search_recipe(model, {"data.source": str(path)}) if recipe is None else recipe
    if recipe.task != "retrieval":
        raise RecipeError(
            f"{model} is a model for {recipe.task}: search needs a retrieval model (`plait train retrieval`)"
        )
    loaded, processor = load_model(model, recipe, find_task("retrieval"))
    Module.to(loaded, torch.device("cuda" if torch.cuda.is_available() else "cpu")).eval()
    retrieval: PlaitForRetrieval = loaded  # pyright: ignore[reportAssignmentType] - the class of its task
    side, items = find_items(path, side, retrieval.config.sides, recipe)
    folder = find_index_folder(path) if index_folder is None else Path(index_folder).expanduser()
    index = load_own_index(folder, identify_model(retrieval, processor), side, rebuild)
    searcher = Searcher(retrieval, processor, index, recipe.max_length)
    if update or not len(index):
        searcher.update(items, batch_size)
        if searcher.change.moved or not (folder / INDEX_FILE).is_file():
            index.save(folder)
    return searcher


def load_search_recipe(model: str, changes: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of a run, changed; of any other model that of retrieval."""
    task = {} if RUN_FOLDER.marks(Path(model).expanduser()) else {"task": "retrieval"}
    return load_model_recipe(model, {**task, **changes})


def find_index_folder(source: Path) -> Path:
    """Returns the usual place of the index of a folder or a table."""
    return source / INDEX_FOLDER if source.is_dir() else source.with_name(f"{source.name}{INDEX_FOLDER}")


def load_own_index(folder: Path, model: str, side: str, rebuild: bool) -> VectorIndex:
    """Loads the index in a folder, or begins a new one.

    Raises RecipeError for an index of another model or another side.
    """
    if rebuild or not (folder / INDEX_FILE).is_file():
        return VectorIndex(model, side)
    index = VectorIndex.load(folder)
    if index.model != model or index.side != side:
        other = "of another model" if index.model != model else f"of the side {index.side}, not {side}"
        raise RecipeError(
            f"{folder} is an index {other}: --rebuild makes it anew, --index-folder names a place for another"
        )
    return index


def find_items(
    path: Path, side: str | None, sides: Mapping[str, str], recipe: Recipe
) -> tuple[str, Iterator[IndexItem]]:
    """Returns the side of the items of a folder or a table, and the items, which are read as they are needed.

    Raises RecipeError for a path that does not exist, or without an item of a side of the model.
    """
    if side is not None and side not in sides:
        raise RecipeError(f"--side {side}: the model has {', '.join(sides)}")
    if not path.exists():
        raise RecipeError(f"--index {path}: there is no such folder or file")
    if path.is_dir() and not holds_tables(path):
        side = side or find_folder_side(path, sides)
        return side, iterate_folder(path, sides[side])
    if path.is_file() and path.suffix not in FILE_READERS:
        raise RecipeError(f"--index {path}: give a folder, or a table ({', '.join(FILE_READERS)})")
    source = open_data(recipe)
    held = {name.partition(".")[0] for name in next(source.read_parts(0, 1)).rows[0]}
    if side is None:
        order = [*(name for name, modality in sides.items() if modality != "text"), find_text_side(sides), *sides]
        side = next((name for name in order if name in held), None)
    if side is None or side not in held:
        raise RecipeError(
            f"--index {path}: no column holds {side or ' or '.join(sides)}: name it, as by --data.columns.image COLUMN"
        )
    return side, iterate_rows(source, side, sides[side])


def describe_search(searcher: Searcher, source: str) -> str:
    """Returns a sentence about the index: its items, what has changed, what searches it, and what cannot be read."""
    index, change = searcher.index, searcher.change
    by = "faiss (its exact index)" if searcher.library == "faiss" else "exact products (faiss is not installed)"
    said = f"{len(index)} items of {source} by their {index.side}: {change.added} new, {change.removed} gone; by {by}"
    if not change.problems:
        return said
    shown = "; ".join(f"{next(iter(place.values()))}: {problem}" for place, problem in change.problems[:5])
    rest = f"; and {len(change.problems) - 5} more" if len(change.problems) > 5 else ""
    return f"{said}\n{len(change.problems)} cannot be read and are left out: {shown}{rest}"


def search_all(searcher: Searcher, queries: Sequence[Mapping[str, Any]], top_k: int) -> list[list[Match]]:
    """Returns the matches of each query, `{side: value}`.

    Raises RecipeError for a query that cannot be read.
    """
    try:
        return [searcher(top_k=top_k, **query) for query in queries]
    except READ_ERRORS as error:
        raise RecipeError(f"query: {to_one_line(error)}") from error
