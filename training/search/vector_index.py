"""An index of vectors in a folder: the vectors in a safetensors file, everything else in a JSON file."""

import gc
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file
from torch import nn
from tqdm.auto import tqdm

from ...processing import PlaitProcessor
from ..data.media import READ_ERRORS
from ..data.tower_digest import collect_processing_settings, compute_weights_digest, drop_volatile
from ..data.unreadable_rows import summarize_error
from ..recipes.errors import RecipeError
from ..storage.atomic import replace_file, write_text
from .items import IndexItem
from .nearest import NearestVectors, choose_library

INDEX_FILE, VECTORS = "index.json", "vectors"
FORMAT = 1
Encode = Callable[[Sequence[Any]], np.ndarray]  # values of items to (items, width) float32 of unit length


class Match(NamedTuple):
    """An item that was found. score: a cosine, -1..1; place: its file, or its row with the columns of the table."""

    score: float
    place: Mapping[str, Any]


class IndexChange(NamedTuple):
    """What an update has changed. added, removed: different contents; moved: whether items of known contents have come,
    gone or changed places; problems: items that cannot be read."""

    added: int
    removed: int
    moved: bool
    problems: list[tuple[Mapping[str, Any], str]]


class ItemReader:
    """Collects the places of items by their key, and the vectors of keys that are not known, in batches."""

    def __init__(self, known: Mapping[str, int], encode: Encode, batch_size: int) -> None:
        self.known, self.encode, self.batch_size = known, encode, batch_size
        self.places: dict[str, list[Mapping[str, Any]]] = {}
        self.vectors: dict[str, np.ndarray] = {}
        self.problems: list[tuple[Mapping[str, Any], str]] = []
        self.waiting: list[IndexItem] = []

    def add(self, item: IndexItem) -> None:
        """Adds an item, which is encoded with others if its content is new."""
        if item.problem:
            self.problems.append((item.place, item.problem))
            return
        if item.key not in self.known and item.key not in self.places:
            self.waiting.append(item)
        self.places.setdefault(item.key, []).append(item.place)
        if len(self.waiting) == self.batch_size:
            self.encode_waiting()

    def encode_waiting(self) -> None:
        """Encodes the items that wait; those that cannot be encoded become problems."""
        for item, vector, problem in encode_items_alone(self.waiting, self.encode):
            if vector is None:
                self.problems += [(place, problem) for place in self.places.pop(item.key)]
            else:
                self.vectors[item.key] = vector
        self.waiting.clear()


class VectorIndex:
    """The vectors of items by the key of their content: items of equal content share one.

    Args:
        model: the digest of the model and its processor (`identify_model`), without which vectors mean nothing.
        side: of the model, which encodes the items.
    """

    def __init__(self, model: str, side: str) -> None:
        self.model, self.side = model, side
        self.keys: list[str] = []
        self.vectors = np.zeros((0, 0), dtype=np.float32)
        self.places: list[list[Mapping[str, Any]]] = []  # of each key, the items that have it
        self.nearest: NearestVectors | None = None  # of the vectors when they were last searched

    def __len__(self) -> int:
        return sum(map(len, self.places))

    def update(self, items: Iterable[IndexItem], encode: Encode, batch_size: int = 64) -> IndexChange:
        """Replaces the items: only contents that the index does not hold yet are encoded, and those that no item has
        any longer are removed."""
        known = {key: number for number, key in enumerate(self.keys)}
        reading = ItemReader(known, encode, batch_size)
        for item in tqdm(items, desc="index", unit="item", disable=None):
            reading.add(item)
        reading.encode_waiting()
        places, new = reading.places, reading.vectors
        removed = sum(key not in places for key in self.keys)
        vectors = [new[key] if key in new else self.vectors[known[key]] for key in places]
        moved = [list(places), list(places.values())] != [self.keys, self.places]
        self.keys, self.places = list(places), list(places.values())
        self.vectors = np.stack(vectors) if vectors else np.zeros((0, 0), dtype=np.float32)
        return IndexChange(len(new), removed, moved, reading.problems)

    def search(self, queries: np.ndarray, count: int, library: str | None = None) -> list[list[Match]]:
        """Returns for each query, (queries, width) of unit length, the `count` most similar items, the best first; of
        equal ones those that come first in the folder or table."""
        if not self.keys:
            return [[] for _ in queries]
        wanted = library or choose_library()
        if self.nearest is None or self.nearest.vectors is not self.vectors or self.nearest.library != wanted:
            self.nearest = NearestVectors(self.vectors, wanted)
        nearest = self.nearest.find(queries, count)
        matches = [[Match(score, place) for score, key in found for place in self.places[key]] for found in nearest]
        return [found[:count] for found in matches]

    def save(self, folder: Path) -> None:
        """Writes the index into a folder; a reader finds the old index or the new one.

        Raises RecipeError for a folder that cannot be written.
        """
        content = {"format": FORMAT, "model": self.model, "side": self.side, "keys": self.keys, "places": self.places}
        digest = sha256("".join([self.model, *self.keys]).encode()).hexdigest()[:16]
        name = f"{VECTORS}-{digest}.safetensors"
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replace_file(folder / name) as unfinished:
                save_file({VECTORS: np.ascontiguousarray(self.vectors)}, unfinished)
            write_text(folder / INDEX_FILE, json.dumps({**content, VECTORS: name}, ensure_ascii=False))
            for old in folder.glob(f"{VECTORS}-*.safetensors"):
                if old.name != name:
                    old.unlink()
        except OSError as error:
            raise RecipeError(
                f"the index cannot be written to {folder} ({error.strerror or error}): name another place with "
                "--index-folder"
            ) from error

    @classmethod
    def load(cls, folder: Path) -> "VectorIndex":
        """Reads an index from its folder. Raises RecipeError for a damaged one, or one of another format."""
        try:
            with pause_collector():
                content = json.loads((folder / INDEX_FILE).read_text(encoding="utf-8"))
            if content["format"] != FORMAT:
                raise RecipeError(f"{folder} is an index of the format {content['format']}: --rebuild makes it anew")
            index = cls(content["model"], content["side"])
            index.keys, index.places = content["keys"], content["places"]
            with safe_open(folder / Path(content[VECTORS]).name, framework="numpy") as file:
                index.vectors = file.get_tensor(VECTORS)
            if len(index.vectors) != len(index.keys) or len(index.places) != len(index.keys):
                raise ValueError(f"it has {len(index.vectors)} vectors for {len(index.keys)} items")
        except RecipeError:
            raise
        except (AttributeError, KeyError, TypeError, ValueError, OSError, SafetensorError) as error:
            raise RecipeError(
                f"{folder} is a damaged index ({summarize_error(error)}): --rebuild makes it anew"
            ) from error
        return index


@contextmanager
def pause_collector() -> Iterator[None]:
    """Holds Python's search for cycles back inside this context: it would go again and again through millions of
    objects that cannot have any."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


def encode_items_alone(items: Sequence[IndexItem], encode: Encode) -> Iterator[tuple[IndexItem, Any, str]]:
    """Yields each item with its vector; one that cannot be encoded with its problem in place of a vector, so that the
    others of its batch have theirs."""
    if not items:
        return
    try:
        yield from zip(items, encode([item.value for item in items]), [""] * len(items), strict=True)
    except READ_ERRORS as error:
        if len(items) == 1:
            yield items[0], None, summarize_error(error)
            return
        for item in items:
            yield from encode_items_alone([item], encode)


def identify_model(model: nn.Module, processor: PlaitProcessor) -> str:
    """Computes a digest of everything that the vectors depend on, except their items: the weights, the config and the
    settings of the processor. Versions of libraries do not belong to it."""
    config: Any = model.config
    modalities = sorted(set(config.sides.values()))
    settings = {name: collect_processing_settings(processor, name) for name in modalities}
    described = json.dumps([drop_nested(config.to_dict()), settings], sort_keys=True, default=str)
    return sha256(f"{described} {compute_weights_digest(model)}".encode()).hexdigest()


def drop_nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """Returns settings and those within them without what changes no output."""
    kept = drop_volatile(settings)
    return {key: drop_nested(value) if isinstance(value, Mapping) else value for key, value in kept.items()}
