"""Rows with several targets: an example of each, or one of them at random."""

from typing import Any

import pytest
from datasets import Dataset

from plait.training.recipes.schema import parse_recipe
from plait.training.tasks.registry import find_task

ROWS = {"text": ["one", "two"], "target": [["a", "b", "c"], ["d"]]}


@pytest.mark.parametrize(
    ("references", "split", "targets"),
    [
        ("each", "train", ["a", "b", "c", "d"]),
        ("each", "validation", ROWS["target"]),
        ("drawn", "train", ROWS["target"]),
    ],
)
def test_each_reference_is_a_row_of_training_alone(references: str, split: str, targets: list[Any]) -> None:
    recipe = parse_recipe({"task": "generation", "settings": {"references": references}})
    task: Any = find_task("generation")
    prepared = task.prepare(Dataset.from_dict(ROWS), split, None, recipe)
    assert list(prepared["target"]) == targets
    assert len(prepared["text"]) == len(targets)
