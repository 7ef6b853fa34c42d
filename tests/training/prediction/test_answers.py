"""The columns of answers: none of the user's is overwritten, and nothing is lost."""

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from plait.training.prediction.answers import flatten_answer, format_text_cell, name_answer_columns
from plait.training.prediction.writers import fill_column, merge_types

NAMES = st.lists(st.sampled_from(["label", "score", "predicted_label", "predicted_predicted_label", "id"]), unique=True)


@given(answers=NAMES, taken=NAMES)
def test_every_column_has_a_name_of_its_own(answers: list[str], taken: list[str]) -> None:
    names = name_answer_columns(answers, taken)
    assert list(names) == answers and len({*names.values(), *taken}) == len(answers) + len(taken)
    for answer, name in names.items():
        assert name.endswith(answer) and (name == answer or answer in [*taken, *names.values()])


def test_nested_answers_become_columns() -> None:
    answer = {"label": "a", "probabilities": {"a": 0.75, "b": 0.25}}
    assert flatten_answer(answer) == {"label": "a", "probability_a": 0.75, "probability_b": 0.25}
    best = {"label": "a", "top_k": [{"label": "a", "score": 0.75}, {"label": "b", "score": 0.25}]}
    assert flatten_answer(best) == {"label": "a", "label_1": "a", "score_1": 0.75, "label_2": "b", "score_2": 0.25}


@pytest.mark.parametrize(
    ("value", "cell"),
    [
        (None, ""), ("a,b", "a,b"), (["red", "warm"], "red;warm"), (["a;b", "c"], '["a;b", "c"]'), ([], ""), (3, "3"),
        (0.5, "0.5"), ([0.5, 1.0], "[0.5, 1.0]"), ({"a": [1]}, '{"a": [1]}'), (True, "true"),
    ],
)  # fmt: skip
def test_cells_of_text(value: Any, cell: str) -> None:
    assert format_text_cell(value) == cell


VALUES = st.lists(st.none() | st.integers(-9, 9) | st.floats(-9, 9) | st.text(max_size=3) | st.lists(st.integers(0, 9)))


@settings(max_examples=60, deadline=None)
@given(parts=st.lists(VALUES, min_size=1, max_size=3))
def test_a_column_of_parquet_holds_the_values_of_every_part(parts: list[list[Any]]) -> None:
    kind = None
    for part in parts:
        kind = merge_types(kind, part)
    for part in parts:
        found = fill_column(part, kind).to_pylist()
        for value, cell in zip(part, found, strict=True):
            assert cell == value or (isinstance(cell, str) and json.loads(cell) == value)
