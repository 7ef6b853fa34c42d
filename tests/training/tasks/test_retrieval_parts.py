"""The pieces of retrieval, each against its definition: chance, keys, rows of texts, answers."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from datasets import Dataset

from plait.training.data.loading import DataSplits
from plait.training.metrics.retrieval import DEPTHS, RetrievalMetrics
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import build_section
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.registry import find_task
from plait.training.tasks.retrieval import (
    add_prefix,
    build_answer,
    check_negatives,
    compute_chance,
    compute_row_key,
    count_items,
    drop_document,
    find_side_pair,
    find_sides,
    hash_groups,
    hash_key,
    list_texts,
    sample_texts,
    select_items,
    split_texts,
)

TASK: Any = find_task("retrieval")


def build(**changes: Any) -> Any:
    content: dict[str, Any] = {"task": "retrieval", "model": {"text": "a/model"}, "data": {"source": "some/data"}}
    return build_recipe({**content, **changes})


@pytest.mark.parametrize(("items", "own"), [(20, 1), (20, 5), (12, 12), (3, 1), (1, 1), (0, 1)])
def test_chance_is_that_of_a_random_order(items: int, own: int) -> None:
    """One minus the share of draws of `depth` of the items without any of the own."""
    for depth in DEPTHS:
        missed = 1.0
        for place in range(depth):  # without replacement, until nothing is left to draw
            left = items - place
            missed *= max(items - own - place, 0) / left if left > 0 else 0.0
        assert compute_chance("a", items, own)[f"a_recall@{depth}"] == pytest.approx(1 - missed)
    assert compute_chance("a_to_b", 20, 1)["a_to_b_recall@5"] == pytest.approx(5 / 20)
    assert set(compute_chance("a", 2, 1)) == {f"a_recall@{depth}" for depth in DEPTHS}


def test_the_chance_of_both_directions_and_their_mean() -> None:
    """Twelve texts of four pictures: a text has one picture, a picture three texts."""
    rows = Dataset.from_dict({"text": [["a", "b", "c"], ["d", None, "e"], ["f", "g"], ["h"] * 4], "image": [None] * 4})
    assert count_items(rows, "image") == 4 and count_items(rows, "text") == 11
    metrics = RetrievalMetrics([], ("text", "image"))
    found = TASK.measure_baselines(metrics, DataSplits({}, None), rows)["chance"]
    expected = {**compute_chance("text_to_image", 4, 1), **compute_chance("image_to_text", 11, 3)}
    assert {name: found[name] for name in expected} == expected
    assert found["mean_recall"] == pytest.approx(sum(expected.values()) / len(expected))
    few = RetrievalMetrics(["text_to_image_recall@1"], ("text", "image"))
    assert TASK.measure_baselines(few, DataSplits({}, None), rows) == {"chance": {"text_to_image_recall@1": 0.25}}
    alone = Dataset.from_dict({"text": [None, "a"], "image": [None, None]})  # fewer texts than pictures
    chance = TASK.measure_baselines(metrics, DataSplits({}, None), alone)["chance"]
    assert chance["image_to_text_recall@1"] == 1 and chance["text_to_image_recall@1"] == 0.5


@pytest.mark.parametrize(
    ("value", "texts"), [(None, []), ("", [""]), ("a", ["a"]), (["a", None, "b"], ["a", "b"]), ([], []), ([None], [])]
)
def test_texts_of_a_row(value: Any, texts: list[str]) -> None:
    assert list_texts(value) == texts


def test_rows_of_several_texts_become_rows_of_one() -> None:
    data = Dataset.from_dict({"text": [["a", "b"], [None], ["c"]], "number": [0, 1, 2]})
    assert split_texts(data, "train").to_dict() == {"number": [0, 0, 2], "text": ["a", "b", "c"]}
    single = Dataset.from_dict({"text": ["a", "b"]})
    assert split_texts(single, "train") is single
    listed = Dataset.from_dict({"text": [["a"], ["b"]], "number": [0, 1]})
    assert split_texts(listed, "train")["text"][:] == ["a", "b"]
    gaps = Dataset.from_dict({"text": ["a", None, "b"], "number": [0, 1, 2]})
    assert split_texts(gaps, "train")["number"][:] == [0, 2]
    with pytest.raises(RecipeError, match="all rows of 'train' have the same text, 'a'"):
        split_texts(Dataset.from_dict({"text": ["a", "a"]}), "train")
    with pytest.raises(RecipeError, match="all rows of 'train' have no text"):
        split_texts(Dataset.from_dict({"text": [None, None]}), "train")


def test_only_training_texts_are_split() -> None:
    data = Dataset.from_dict({"text": [["a", "b"], ["c"]], "image": ["d", "e"]})
    processor, recipe = SimpleNamespace(), build()
    assert TASK.prepare(data, "test", processor, recipe) is data
    assert len(TASK.prepare(data, "train", processor, recipe)) == 3
    bad = Dataset.from_dict({"text": ["a", "b"], "negative": [1, 2]})
    with pytest.raises(RecipeError, match="row 0 of 'train' has 1, neither a text nor a list"):
        TASK.prepare(bad, "train", processor, recipe)
    assert TASK.prepare(bad, "test", processor, recipe) is bad
    images = Dataset.from_dict({"image": ["a"], "document": ["b"]})
    assert TASK.prepare(images, "train", processor, recipe) is images


def test_negatives_are_texts_and_there_is_one() -> None:
    for fits in (["a", None], [["a", None], []], [None, ["b"]]):
        check_negatives(Dataset.from_dict({"negative": fits}), "train")
    for empty in ([None, None], [[], [None]]):
        with pytest.raises(RecipeError, match="no row of 'train' has a hard negative"):
            check_negatives(Dataset.from_dict({"negative": empty}), "train")
    with pytest.raises(RecipeError, match=r"row 1 of 'train' has \[2\], neither"):
        check_negatives(Dataset.from_dict({"negative": [None, [2]]}), "train")


@pytest.mark.parametrize(
    ("names", "sides"),
    [
        (["text", "image"], ["text", "image"]),
        (["document", "text"], ["text", "document"]),
        (["image.second", "negative", "label"], ["image"]),
        (["text", "audio", "sampling_rate"], ["text", "audio"]),
        (["text", "image", "document"], ["text", "image", "document"]),
        ([], []),
    ],
)
def test_sides_of_columns(names: list[str], sides: list[str]) -> None:
    assert find_sides(names) == sides
    if len(sides) == 2:
        TASK.check_columns(names, "train")
    else:
        with pytest.raises(
            RecipeError, match="retrieval needs two of text, image, audio, video and document, but 'train' has"
        ):
            TASK.check_columns(names, "train")
    TASK.check_columns(names, "train", needs_targets=False)


def test_the_pair_of_a_recipe_is_that_of_its_columns() -> None:
    assert find_side_pair(build()) == ("text", "image")
    columns = {"document": "answer", "text": "question"}
    assert find_side_pair(build(data={"source": "some/data", "columns": columns})) == ("text", "document")
    metrics = TASK.build_metrics([], None, None, build(data={"source": "some/data", "columns": columns}))
    assert metrics.pair == ("text", "document")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"settings": {"negatives": 0}}, "settings.negatives is 0"),
        ({"training": {"per_device_train_batch_size": 1}}, "per_device_train_batch_size is 1"),
        ({"model": {"text": "a/model", "fusion": "early"}}, "model.fusion is 'early'"),
        ({"generation": {"num_beams": 2}}, "the task retrieval generates nothing"),
    ],
)
def test_recipes_without_sense(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        TASK.check_recipe(build(**changes))
    TASK.check_recipe(build(settings={"negatives": 1}, training={"per_device_train_batch_size": 2}))


def test_a_key_is_that_of_its_content() -> None:
    assert hash_key(None) == -1 and 0 <= hash_key("a") < 2**63 and hash_key("a") != hash_key("b")
    assert hash_key("a") == 0xCA978112CA1BBDCA >> 1  # of the digest of "a" in FIPS 180-4
    rows = [{"text": "a", "image": None}, {"text": "b", "image": None}, {"text": "a", "image": None}]
    groups = hash_groups(rows)
    assert groups.tolist() == [[hash_key(row["text"]), -1] for row in rows]
    with_documents = hash_groups([{"text": "a", "document": "c"}, {"text": None, "document": "a"}])
    assert with_documents.tolist() == [[hash_key("a"), hash_key("c")], [-1, hash_key("a")]]
    keys = {
        compute_row_key(row, media)
        for row in ({"text": "a"}, {"text": "b"}, {"text": "a", "document": "c"}, {"document": "a"})
        for media in ({"image": None}, {"image": "x"}, {"audio": "x"})
    }
    assert len(keys) == 12 and all(len(key) == 24 for key in keys)
    assert compute_row_key({"text": "a", "label": 1}, {}) == compute_row_key({"text": "a", "label": 2}, {"image": None})


def test_columns_of_a_row() -> None:
    row = {"text": "a", "document": "b", "image": 1, "image.second": 2, "image_id": 3, "label": 4}
    assert drop_document(row) == {name: value for name, value in row.items() if name != "document"}
    assert select_items(row, "audio") == {}
    assert select_items(row, "image") == {"image": 1, "image.second": 2, "image_id": 3}
    assert list(add_prefix("document", {"input_ids": torch.ones(1)})) == ["document_input_ids"]


def test_negatives_are_drawn_without_repetition() -> None:
    """Each draw is of what is left, by the texts and the place."""
    calls: list[tuple[Any, ...]] = []

    def draw(count: int, *content: str) -> int:
        calls.append((count, *content))
        return count - 1

    collator: Any = SimpleNamespace(draw=draw, settings=build_section(TASK.settings, {"negatives": 2}, "settings"))
    assert sample_texts(collator, ["a", "b", "c"], 2) == ["c", "b"]
    assert calls == [(3, "a", "b", "c", "0"), (2, "a", "b", "c", "1")]
    assert sample_texts(collator, ["a"], 2) == ["a"] and sample_texts(collator, [], 2) == []
    rows = [{"text": "x", "negative": ["a", "b", "c"]}, {"text": "y", "negative": None}]
    assert TASK.sample_rows(collator, rows) == [
        {"text": "x", "negative": ["c", "b"]},
        {"text": "y", "negative": []},
    ]
    without = [{"text": "x"}]
    assert TASK.sample_rows(collator, without) is without
    collator.settings.negatives = None
    assert TASK.sample_rows(collator, rows) is rows


def test_answers_by_the_number_of_sides_and_texts() -> None:
    first, second = torch.tensor([0.6, 0.8]), torch.tensor([1.0, 0.0])
    assert build_answer({}, {"image": [torch.tensor([1 / 3, 1.0])]}) == {"embedding": [0.333333, 1.0]}
    assert build_answer({"text": "a"}, {"text": [first], "image": [second]}) == {"similarity": 0.6}
    found = build_answer({"text": ["a", None, "b"]}, {"text": [first, second / 3], "image": [second]})
    assert found == {"best": "a", "similarities": [0.6, 0.333333]}
    assert build_answer({"text": ["a", "b"]}, {"text": [-first, second], "image": [second]})["best"] == "b"


def test_the_hub_knows_tasks_with_and_without_images() -> None:
    assert TASK.find_hub_task(("text", "image")) == "zero-shot-image-classification"
    assert TASK.find_hub_task(("text",)) == "sentence-similarity"
    assert list(TASK.collect_tokenizer_texts(
        Dataset.from_dict({"text": [["a", "b"], None], "document": ["c", None], "negative": ["d", None]}), "text"
    )) == ["a", "b", "c", "d"]  # fmt: skip
    with pytest.raises(RecipeError, match="batches by length need a text column"):
        TASK.count_tokens(SimpleNamespace(), Dataset.from_dict({"image": ["a"]}))
