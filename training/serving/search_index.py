"""What a page searches: an index in files (`plait search`), and what one request alone brings."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from ..recipes.errors import RecipeError
from ..search.items import find_text_side
from ..search.results import describe_place, read_match
from ..search.searcher import Searcher, describe_search, find_index_folder, find_items, load_own_index
from ..search.vector_index import INDEX_FILE, Match, VectorIndex, identify_model
from .fields import InputField, build_row
from .served_model import ServedModel

THUMBNAIL = 384  # pixels of a found picture's longer side


class SearchHit(NamedTuple):
    """An item that was found. side: of the model; name: its file, its row or the text; score: the similarity to the
    query, a cosine; draw: reads its picture, None for an item that is no picture."""

    side: str
    name: str
    score: float
    draw: Callable[[], Image.Image] | None = None


class SearchIndex:
    """Pictures, texts, clips and videos with their vectors, and what is searched in one request alone.

    Args:
        served: a retrieval model.

    Attributes:
        query_fields: the fields of a query, one for each side of the model but documents.
        reads_pictures, reads_texts: whether a request can bring such candidates.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        sides: Mapping[str, str] = served.model.config.sides
        self.text_side = find_text_side(sides)
        self.reads_pictures, self.reads_texts = "image" in sides, self.text_side in sides
        self.query_fields = [
            InputField(f"query_{side}", side, modality, f"search for: {side}")
            for side, modality in sides.items()
            if side == modality
        ]
        self.searcher = Searcher(served.model, served.processor, VectorIndex("", ""), served.recipe.max_length)
        self.source: Path | None = None

    @property
    def size(self) -> int:
        """The number of the items of the index."""
        return len(self.searcher.index)

    def describe(self) -> str:
        """Returns what the index holds, and how much of its source cannot be read: "360 items of pictures, by their
        image"."""
        lost = len(self.searcher.change.problems)
        left_out = f"; {lost} that cannot be read are left out" if lost else ""
        name = self.source.name if self.source else "nothing"
        return f"{self.size:,} items of {name}, by their {self.searcher.index.side}{left_out}"

    def open(self, place: str, folder: str | None = None) -> None:
        """Opens the index of a folder or a table, and brings it up to date; it is kept in files (`open_search`).

        Raises RecipeError for a place without an item that the model reads, or an index of another model.
        """
        served, path = self.served, Path(place).expanduser()
        recipe = replace(served.recipe, data=replace(served.recipe.data, source=str(path), splits={}, max_rows=None))
        model: Any = served.model
        side, items = find_items(path, None, model.config.sides, recipe)
        kept = find_index_folder(path) if folder is None else Path(folder).expanduser()
        index = load_own_index(kept, identify_model(model, served.processor), side, rebuild=False)
        self.searcher = Searcher(model, served.processor, index, served.recipe.max_length)
        self.searcher.update(items)
        if not self.size:
            raise RecipeError(f"--index {place}: {describe_search(self.searcher, place)}")
        if self.searcher.change.moved or not (kept / INDEX_FILE).is_file():
            index.save(kept)
        self.source = path

    def search(
        self, values: Mapping[str, Any], pictures: Sequence[str], lines: Sequence[str], count: int
    ) -> list[SearchHit]:
        """Returns the `count` items that are most similar to a query; to a query of several sides' mean.

        Raises ValueError for an empty query, nothing to search, or an input that cannot be read.
        """
        row = build_row(self.query_fields, values, self.served.recipe.data, self.served.settings)
        if not (self.size or pictures or lines):
            raise ValueError("there is nothing to search: upload pictures, or write texts, one a line")
        with self.served.batcher.working:
            query = self.encode_query(row)
            hits = [self.build_hit(match) for match in self.searcher.index.search(query[None], count)[0]]
            hits += self.search_given("image", pictures, query) if pictures else []
            hits += self.search_given(self.text_side, lines, query) if lines else []
        return sorted(hits, key=lambda hit: -hit.score)[:count]

    def encode_query(self, row: Mapping[str, Any]) -> np.ndarray:
        """Returns the vector of a query, (width,), of unit length."""
        vectors = [self.searcher.encode(side, [value])[0] for side, value in row.items() if value is not None]
        mean = np.mean(vectors, axis=0)
        return (mean / max(np.linalg.norm(mean), 1e-12)).astype(np.float32)

    def search_given(self, side: str, items: Sequence[str], query: np.ndarray) -> list[SearchHit]:
        """Returns all items that a request brings, with their scores."""
        size = self.served.settings.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        scores = np.concatenate([self.searcher.encode(side, batch) for batch in batches]) @ query
        draws = [partial(load_thumbnail, item) if side == "image" else None for item in items]
        names = [Path(item).name if side == "image" else item for item in items]
        return [SearchHit(side, *hit) for hit in zip(names, scores.tolist(), draws, strict=True)]

    def build_hit(self, match: Match) -> SearchHit:
        """Returns a match of the index as a hit."""
        side, source = self.searcher.index.side, self.source
        draw = partial(read_match, match, source) if side == "image" and source is not None else None
        return SearchHit(side, describe_place(match.place), float(match.score), draw)


def load_thumbnail(path: str) -> Image.Image:
    """Returns a picture made small."""
    with Image.open(path) as image:
        small = ImageOps.exif_transpose(image).convert("RGB")
    small.thumbnail((THUMBNAIL, THUMBNAIL))
    return small
