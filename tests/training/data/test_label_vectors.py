"""Vectors of 0 and 1 as labels: what is guessed of their form, coded and built, value by value."""

import math
from typing import Any

import numpy as np
import pytest
from datasets import ClassLabel, Dataset, Features, List, Value

from plait.training.data.label_vectors import build_vectors, code_vector, guess_vectors, has_label_vectors, is_unknown
from plait.training.recipes.errors import RecipeError


@pytest.mark.parametrize(
    ("value", "unknown"),
    [(None, True), ("", True), ("-100", True), (-100, True), (-100.0, True), (math.nan, True),
     (np.float64("nan"), True),
     ("0", False), (0, False), (-1, False), (-99.0, False), (1.5, False), ([], False), ([None], False),
     (np.array([-100]), False), (False, False)],
)  # fmt: skip
def test_what_is_no_label(value: Any, unknown: bool) -> None:
    assert bool(is_unknown(value)) is unknown


@pytest.mark.parametrize(("value", "unknown"), [(-1, True), (-7, True), (0, False), (2, False), ("-1", False)])
def test_of_a_feature_with_names_every_negative_number_is_no_label(value: Any, unknown: bool) -> None:
    assert is_unknown(value, ["a", "b"]) is unknown
    assert is_unknown(value) is False


INTEGERS = List(Value("int64"))


@pytest.mark.parametrize(
    ("values", "feature", "guess"),
    [
        ([[0, 1], [1, 0]], INTEGERS, True),
        ([[0, 1], [1, 1]], INTEGERS, True),  # a number twice
        ([[0, 1], [1]], INTEGERS, False),
        ([[0, 1], [0, 2]], INTEGERS, False),
        ([[1, 2], [2, 1]], INTEGERS, False),
        ([[0, 1], [0, 1]], INTEGERS, None),
        ([[1, 0], [1, 0]], INTEGERS, True),
        ([[0, 1, 2], [1, 0, 2]], INTEGERS, False),
        ([[0, -100], [1, 2]], INTEGERS, True),  # an item that is not known
        ([[0, None], [1, 2]], INTEGERS, True),
        ([[0], [1]], INTEGERS, False),
        ([None, [0, 1]], INTEGERS, None),
        ([None], INTEGERS, False),
        ([], INTEGERS, False),
        ([[0, 1], [1, 0]], List(Value("uint8")), True),
        ([[0, 2], [1, 0]], List(Value("uint8")), False),
        ([[0.0, 1.0]], List(Value("float32")), True),
        ([[True]], List(Value("bool")), True),
        ([["0", "1"]], List(Value("string")), False),
        ([0, 1], Value("int64"), False),
        ([[0, 1]], List(ClassLabel(names=["a", "b"])), False),
    ],
)
def test_vectors_are_guessed_from_their_values_and_type(values: Any, feature: Any, guess: bool | None) -> None:
    assert guess_vectors(values, feature) is guess


def make_split(*values: list[int]) -> Dataset:
    return Dataset.from_dict({"label": list(values)}, features=Features({"label": INTEGERS}))


def test_one_split_that_is_sure_decides_for_all() -> None:
    unsure, vectors, classes = make_split([0, 1]), make_split([1, 1]), make_split([2])
    assert has_label_vectors([unsure, vectors]) is has_label_vectors([vectors]) is True
    assert has_label_vectors([unsure, classes]) is has_label_vectors([classes]) is False
    with pytest.raises(RecipeError, match=r"every label is \[0, 1\]"):
        has_label_vectors([unsure, unsure])


def test_vectors_are_coded_by_the_classes_that_apply_or_are_not_known() -> None:
    assert code_vector([0, 1, 1], 3, 0, "train") == [1, 2]
    assert code_vector([True, False, None], 3, 0, "train") == [0, -3]
    assert code_vector([math.nan, 0.0, -100], 3, 0, "train") == [-1, -3]
    assert code_vector(None, 2, 0, "train") == [-1, -2]
    assert code_vector([0, 0], 2, 0, "train") == []
    with pytest.raises(RecipeError, match="label of row 4 of 'test' has 2 numbers, but there are 3 classes"):
        code_vector([0, 1], 3, 4, "test")
    with pytest.raises(RecipeError, match="label of row 5 of 'train' has 2, neither 0 nor 1"):
        code_vector([0, 2], 2, 5, "train")
    assert build_vectors([[1, 2], [0, -3], []], 3).tolist() == [[0, 1, 1], [1, 0, -100], [0, 0, 0]]
