"""Rows without some of their modalities, and the values of these games."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from PIL import Image

from plait.training.data.media import Row
from plait.training.explanations.coalitions import AbsentRows, find_players, find_present, split_players
from plait.training.explanations.games import RowGames, check_efficiency
from plait.training.recipes.errors import RecipeError
from plait.training.tasks.registry import find_task

PLAYERS = {"text": ["text"], "image": ["image", "image_id"]}


def make_rows(count: int = 6) -> list[dict[str, Any]]:
    return [
        {"text": "x" * (row + 1), "image": Image.new("RGB", (4, 4), (row * 20,) * 3), "image_id": row, "label": 0}
        for row in range(count)
    ]


def read(row: Row) -> tuple[float, float]:
    """The length of the text, and the light of the image; 0 for what is absent or blank."""
    image = row["image"]
    light = 0.0 if image is None or isinstance(image, dict) else float(np.asarray(image).mean())
    return float(len(row["text"] or "")), light


def score_product(rows: Sequence[Row], numbers: Sequence[int]) -> np.ndarray:
    return np.array([[length + light + length * light, length] for length, light in map(read, rows)])


def play(absence: Any, rows: list[dict[str, Any]], **options: Any) -> RowGames:
    games = RowGames(AbsentRows(rows, PLAYERS, absence, **options))
    games.play(score_product, batch_size=4)
    return games


def test_blank_values_are_those_of_the_game() -> None:
    values = play("blank", make_rows()).compute("nats", 0)
    for number, row in enumerate(make_rows()):
        length, light = read(row)
        assert values.main[number].tolist() == pytest.approx([length, light])
        assert values.interactions["text + image"][number] == pytest.approx(length * light)
        assert values.shapley[number].tolist() == pytest.approx([length * (1 + light / 2), light * (1 + length / 2)])
        assert values.removed[number].tolist() == pytest.approx([length + length * light, light + length * light])
    assert values.empty.tolist() == [0] * 6 and not values.errors.any()


def test_a_second_unit_is_another_game() -> None:
    values = play("blank", make_rows()).compute("points", 1)
    assert np.allclose(values.shapley[:, 1], 0) and np.allclose(values.shapley[:, 0], np.arange(1, 7))


@pytest.mark.parametrize("absence", ["shuffled", "blank", "absent"])
def test_values_sum_to_all_minus_none(absence: str) -> None:
    values = play(absence, make_rows()).compute("nats", 0)
    assert np.allclose(values.shapley.sum(1), values.whole - values.empty, atol=1e-5)
    whole = values.main.sum(1) + values.interactions["text + image"]
    assert np.allclose(whole, values.whole - values.empty, atol=1e-5)


def test_shuffled_values_come_from_other_rows_the_same_for_all_coalitions() -> None:
    rows = make_rows()
    absent = AbsentRows(rows, PLAYERS, "shuffled", draws=3)
    for number, row in enumerate(rows):
        without_text, without_any = absent.build(number, ["image"]), absent.build(number, [])
        assert len(without_text) == len(without_any) == 3
        assert all(made["image"] is row["image"] and made["text"] != row["text"] for made in without_text)
        assert [made["text"] for made in without_text] == [made["text"] for made in without_any]
        for made in without_any:  # both from the same other row
            assert len(made["text"]) - 1 == made["image_id"] == made["image"].getpixel((0, 0))[0] // 20 != number
        assert absent.build(number, ["text", "image"]) == [row]


def test_draws_beyond_the_other_rows_repeat_them() -> None:
    absent = AbsentRows(make_rows(3), PLAYERS, "shuffled", draws=4)
    assert len({row["text"] for row in absent.build(0, ["image"])}) == 2


def test_a_row_has_values_of_its_own_modalities_alone() -> None:
    rows = make_rows()
    rows[2] = {**rows[2], "image": None, "image_id": None}
    values = play("shuffled", rows).compute("nats", 0)
    assert np.isnan(values.shapley[2, 1]) and np.isnan(values.interactions["text + image"][2])
    assert values.shapley[2, 0] == pytest.approx(values.whole[2] - values.empty[2])
    assert not np.isnan(values.shapley[[0, 1, 3, 4, 5]]).any()


def test_absent_is_none_and_with_no_modality_at_all_that_of_other_rows() -> None:
    absent = AbsentRows(make_rows(), PLAYERS, "absent", draws=2)
    (made,) = absent.build(1, ["text"])
    assert made["image"] is None and made["image_id"] is None and made["text"] == "xx"
    assert [row["text"] != "xx" and row["image"] is not None for row in absent.build(1, [])] == [True, True]


def test_many_players_are_estimated_with_their_error() -> None:
    columns = [f"text.{number}" for number in range(7)]
    players = {name: [name] for name in columns}
    rows = [{name: "x" * (row + place) for place, name in enumerate(columns)} for row in range(1, 4)]

    def score(rows: Sequence[Row], numbers: Sequence[int]) -> np.ndarray:
        lengths = [[len(row[name]) for name in columns] for row in rows]
        return np.array([[sum(own) + own[0] * own[3]] for own in lengths], dtype=float)

    found = {}
    for most in (6, 7):
        games = RowGames(AbsentRows(rows, players, "blank"), exact_players=most, permutations=20)
        games.play(score, batch_size=64)
        found[most] = games.compute("nats", 0)
    exact, sampled = found[7], found[6]
    assert not sampled.interactions and np.isnan(sampled.main).all() and len(exact.interactions) == 21
    assert np.allclose(sampled.shapley.sum(1), exact.shapley.sum(1))
    assert sampled.shapley[:, 1:3] == pytest.approx(exact.shapley[:, 1:3])  # additive players have no error
    assert np.allclose(sampled.errors[:, 1:3], 0) and (exact.errors == 0).all()


def test_players_are_modalities_or_columns() -> None:
    rows = [{"text": "a", "image.0": 1, "image.1": 2, "image_id": 3, "label": 0, "group": "g"}]
    task = find_task("classification")
    assert find_players(rows, task) == {"text": ["text"], "image": ["image.0", "image.1", "image_id"]}
    assert list(find_players(rows, task, "column")) == ["text", "image.0", "image.1"]
    assert split_players(PLAYERS) == PLAYERS
    answers = find_task("question_answering")
    assert list(find_players([{"question": "a", "context": "b", "answers": {}}], answers)) == ["question", "context"]
    assert find_present({"text": "a", "image": None, "image_id": 3}, PLAYERS) == ("text",)
    with pytest.raises(RecipeError, match="reads none of label"):
        find_players([{"label": 1}], task)


def test_mistakes_are_named() -> None:
    with pytest.raises(RecipeError, match="absence is 'shufled'.*shuffled"):
        AbsentRows(make_rows(), PLAYERS, "shufled")  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecipeError, match="takes text from other rows"):
        AbsentRows(make_rows(1), PLAYERS)
    with pytest.raises(RecipeError, match="draws is 0"):
        AbsentRows(make_rows(), PLAYERS, draws=0)
    with pytest.raises(RecipeError, match="row 1 has none of text, image"):
        AbsentRows([*make_rows(1), {"text": None, "image": None}], PLAYERS, "blank")
    with pytest.raises(ArithmeticError, match="row 1: the values"):
        check_efficiency(np.array([[1.0, 1.0], [np.nan, np.nan]]), np.array([2.0, np.inf]), np.zeros(2))
