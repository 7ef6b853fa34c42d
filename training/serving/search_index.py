"""What a page searches: the vectors of pictures and texts, by exact comparison."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from PIL import Image
from torch import Tensor

from ...configuration import DOCUMENT
from ..data.media import Row, name_data_rows
from ..recipes.errors import RecipeError
from ..tasks.retrieval import move_sides_to_device
from .fields import InputField, build_row
from .served_model import ServedModel


class SearchHit(NamedTuple):
    """A picture (its path) or a text that was found, its name, and the similarity to the query, a cosine."""

    side: str
    item: str
    name: str
    score: float


class SearchIndex:
    """Pictures and texts with their vectors, and what is searched in one request alone.

    Args:
        served: a retrieval model.

    Attributes:
        query_fields: the fields of a query, one for each side of the model but documents.
        reads_pictures, reads_texts: whether there can be such candidates.
    """

    def __init__(self, served: ServedModel) -> None:
        self.served = served
        sides = getattr(served.model.config, "sides", {})
        self.text_side = DOCUMENT if DOCUMENT in sides else "text"
        self.reads_pictures, self.reads_texts = "image" in sides, self.text_side in sides
        modalities = [name for name in ("text", "image") if name in sides]
        self.query_fields = [InputField(f"query_{name}", name, name, f"search for: {name}") for name in modalities]
        self.items: dict[str, list[str]] = {}
        self.vectors: dict[str, Tensor] = {}
        self.place = ""

    @property
    def size(self) -> int:
        """The number of all items of the index."""
        return sum(map(len, self.items.values()))

    def describe(self) -> str:
        """Returns what the index holds: "1,000 pictures of flickr"."""
        kinds = {"image": "pictures", self.text_side: "texts"}
        return ", ".join(f"{len(items):,} {kinds[side]} of {self.place}" for side, items in self.items.items())

    def add_all(self, place: str) -> None:
        """Adds the pictures of a folder, or the lines of a text file.

        Raises RecipeError for a folder without pictures, or a model that reads no such thing.
        """
        path = Path(place).expanduser()
        side = "image" if path.is_dir() else self.text_side
        reads = self.reads_pictures if path.is_dir() else self.reads_texts
        if not path.exists() or not reads:
            what = "does not exist" if not path.exists() else f"is for {side}, which this model does not search"
            raise RecipeError(f"--index {place} {what}: give a folder of pictures, or a file with a text a line")
        items = list_pictures(path) if path.is_dir() else read_lines(path)
        if not items:
            raise RecipeError(f"--index {place} holds no {'picture' if path.is_dir() else 'line'}: give another")
        self.place, self.items[side] = path.name, items
        self.vectors[side] = self.embed(side, items)

    def embed(self, side: str, items: Sequence[str]) -> Tensor:
        """Returns the vectors of pictures or texts, (items, width), in batches."""
        size = self.served.settings.batch_size
        batches = [items[start : start + size] for start in range(0, len(items), size)]
        return torch.cat([self.embed_batch([{side: item} for item in batch], side) for batch in batches])

    @torch.no_grad()
    def embed_batch(self, rows: Sequence[Row], side: str) -> Tensor:
        """Returns the vectors of rows with one side, while no other batch is computed."""
        served, retrieval = self.served, self.served.model
        with served.batcher.working, name_data_rows(rows):
            batch = served.task.build_evaluation_batch(served.collator, rows)
            (part,) = move_sides_to_device(batch, served.model).values()
            model: Any = retrieval
            return model.embed(part["inputs"])[side].vectors.float().cpu()

    def search(
        self, values: Mapping[str, Any], pictures: Sequence[str], lines: Sequence[str], count: int
    ) -> list[SearchHit]:
        """Returns the `count` items that are most similar to a query; of a query of text and picture, to their mean.

        Raises ValueError for an empty query, or nothing to search.
        """
        query = self.embed_query(values)
        hits: list[SearchHit] = []
        for side, given in (("image", pictures), (self.text_side, lines)):
            items, found = [*self.items.get(side, ())], [self.vectors[side]] if side in self.vectors else []
            if given:
                items, found = [*items, *given], [*found, self.embed(side, given)]
            if items:
                scores = torch.cat(found) @ query
                best = scores.topk(min(count, len(items)))
                hits += [
                    SearchHit(side, items[place], shorten(side, items[place]), score)
                    for score, place in zip(best.values.tolist(), best.indices.tolist(), strict=True)
                ]
        if not hits:
            raise ValueError("there is nothing to search: upload pictures, or write texts, one a line")
        return sorted(hits, key=lambda hit: -hit.score)[:count]

    def embed_query(self, values: Mapping[str, Any]) -> Tensor:
        """Returns the vector of a query, (width,), of length 1."""
        row = build_row(self.query_fields, values, self.served.recipe.data, self.served.settings)
        found = [self.embed_batch([{name: value}], name)[0] for name, value in row.items() if value is not None]
        return torch.nn.functional.normalize(torch.stack(found).mean(0), dim=0)


def shorten(side: str, item: str) -> str:
    """Returns the name of a hit: of a picture its file's, of a text the text."""
    return Path(item).name if side == "image" else item


def list_pictures(folder: Path) -> list[str]:
    """Returns the pictures below a folder, by their suffix, in the order of their paths."""
    suffixes = Image.registered_extensions()
    return [str(path) for path in sorted(folder.rglob("*")) if path.suffix.lower() in suffixes and path.is_file()]


def read_lines(file: Path) -> list[str]:
    """Returns the lines of a text file that are not blank."""
    return [line.strip() for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
