"""The cases of growth.py of a search's index, and of several processes."""

import csv
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from growth import Case, Work
from growth_cases import THOUSANDS, VECTOR, configure_text, make_processor, make_sentence, save_classifier
from transformers import set_seed

from plait import PlaitForRetrieval
from plait.configuration import PlaitVisionConfig
from plait.training.search import IndexItem, Searcher, VectorIndex
from plait.training.search.items import build_item

QUERIES = 10


def make_vectors(size: int) -> np.ndarray:
    """Makes vectors of unit length."""
    vectors = np.random.default_rng(0).standard_normal((size, VECTOR), dtype=np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def iterate_texts(size: int) -> Iterator[IndexItem]:
    """Yields texts as the rows of a table."""
    return (build_item({"row": row, "text": make_sentence(row)}, make_sentence(row), "text") for row in range(size))


def make_index(size: int) -> VectorIndex:
    """Makes an index of texts whose vectors are given."""
    vectors, done = make_vectors(size), 0

    def take(values: Any) -> np.ndarray:
        nonlocal done
        done += len(values)
        return vectors[done - len(values) : done]

    index = VectorIndex("a model", "text")
    index.update(iterate_texts(size), take)
    return index


def build_index(size: int, folder: Path) -> Work:
    """Prepares an index of texts by a model."""
    set_seed(0)
    processor = make_processor()
    towers: Any = {"text": configure_text(processor), "image": PlaitVisionConfig(hidden_size=32, num_hidden_layers=1,
                   num_attention_heads=2, image_size=16, patch_size=8)}  # fmt: skip
    model = PlaitForRetrieval.compose(**towers, verbose=False).eval()
    return lambda: Searcher(model, processor, VectorIndex("a model", "text")).update(iterate_texts(size))


def update_index(size: int, folder: Path) -> Work:
    """Prepares what an index is made of besides its vectors, and its update by the same texts."""

    def work() -> None:
        index = make_index(size)
        assert not index.update(iterate_texts(size), np.asarray).moved

    return work


def save_index(size: int, folder: Path) -> Work:
    """Prepares an index's way to its folder and back."""
    index = make_index(size)

    def work() -> None:
        index.save(folder / "index")
        VectorIndex.load(folder / "index")

    return work


def search_index(size: int, folder: Path) -> Work:
    """Prepares ten searches, one query each."""
    index, queries = make_index(size), make_vectors(QUERIES)
    return lambda: [index.search(query[None], 10, "exact") for query in queries]


def predict_in_processes(size: int, folder: Path) -> Work:
    """Prepares `plait predict` for 4,000 rows by several processes."""
    model, file = save_classifier(folder), folder / "rows.csv"
    with file.open("w", newline="") as stream:
        csv.writer(stream).writerows([["text"], *([make_sentence(row)] for row in range(4000))])
    command = [sys.executable, "-m", "plait", "predict", str(model), "--data", str(file), "--task", "classification"]
    several = ["--launch", "ddp", "--processes", str(size)] if size > 1 else []
    options = ["--output", str(folder / "answers.jsonl"), "--overwrite", *several]

    def work() -> None:
        subprocess.run(
            [*command, *options], check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
        )

    return work


INDEXED, MILLION = (1_000, 10_000, 100_000), (1_000_000,)
GROWS = "texts in an index"
CASES: dict[str, Case] = {
    "index": Case(GROWS, "build it, by a model", THOUSANDS[:4], build_index, (1, 1), (100_000,)),
    "index-update": Case(GROWS, "its items, without the model", INDEXED, update_index, (1, 1), (1_000_000,)),
    "index-save": Case(GROWS, "save and load", INDEXED, save_index, (1, 1), MILLION),
    "search": Case(GROWS, "ten searches", INDEXED, search_index, (1, 1), MILLION),
    "processes": Case(
        "processes", "`plait predict`, 4,000 rows, starting included", (1, 2), predict_in_processes, of_children=True
    ),
}
