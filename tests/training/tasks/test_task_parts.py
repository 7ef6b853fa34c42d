"""What tasks share, and the pieces of causal language modelling."""

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset

from plait import PlaitProcessor
from plait.training.data.loading import DataSplits
from plait.training.metrics.generation import GenerationMetrics
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import Recipe
from plait.training.tasks.base import check_decoder_processor, check_vocabulary, move_to_device
from plait.training.tasks.causal_lm import get_begin_token, pad_prompts, split_blocks, tokenize_documents
from plait.training.tasks.registry import TASKS, find_task

LM: Any = find_task("causal_lm")


@pytest.mark.parametrize(("size", "tokens", "fits"), [(5, 4, True), (5, 5, True), (5, 6, False)])
def test_a_vocabulary_holds_its_tokenizer(size: int, tokens: int, fits: bool) -> None:
    if fits:
        check_vocabulary("model.text", size, tokens)
        return
    with pytest.raises(RecipeError, match="model.text has a vocabulary of 5, but its tokenizer has 6 tokens"):
        check_vocabulary("model.text", size, tokens)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({}, None),
        ({"vocab_size": 3}, "model.decoder has a vocabulary of 3, but its tokenizer has 4"),
        ({"pad_token_id": None}, "model.decoder has no pad_token_id: give it as model.options.pad_token_id"),
        ({"eos_token_id": None}, "model.decoder has no eos_token_id"),
        ({"max_new_tokens": 11}, "generation.max_new_tokens is 11, but the decoder has 10 positions"),
        ({"max_new_tokens": 10}, None),
        ({"max_new_tokens": None}, None),
        ({"max_new_tokens": 11, "position_type": "none"}, None),
    ],
)
def test_a_decoder_fits_its_processor(changes: dict[str, Any], message: str | None) -> None:
    given = {"vocab_size": 4, "pad_token_id": 0, "eos_token_id": 0, "max_new_tokens": 5, "position_type": "learned"}
    given |= changes
    text = SimpleNamespace(vocab_size=given["vocab_size"], max_position_embeddings=10,
                           position_type=given["position_type"])  # fmt: skip
    config = SimpleNamespace(pad_token_id=given["pad_token_id"], eos_token_id=given["eos_token_id"],
                             get_text_config=lambda: text)  # fmt: skip
    generation = SimpleNamespace(max_new_tokens=given["max_new_tokens"])
    model: Any = SimpleNamespace(config=config, generation_config=generation)
    processor: Any = SimpleNamespace(target_tokenizer=["a"] * 4)
    if message is None:
        check_decoder_processor(model, processor)
        return
    with pytest.raises(RecipeError, match=message):
        check_decoder_processor(model, processor)


def test_nested_tensors_move() -> None:
    model: Any = SimpleNamespace(device=torch.device("meta"))
    found = move_to_device({"a": torch.ones(1), "b": {"c": {"d": torch.ones(1)}}}, model)
    assert found["a"].device.type == found["b"]["c"]["d"].device.type == "meta"


def test_columns_that_a_task_needs() -> None:
    task: Any = find_task("generation")
    assert task.needed and set(task.target_columns) & {name for group in task.needed for name in group}
    names = sorted({group[0] for group in task.needed})
    task.check_columns(names, "train")
    for group in task.needed:
        left = [name for name in names if name not in group]
        target = bool(set(group) & set(task.target_columns))
        with pytest.raises(RecipeError, match=f"the task generation needs a column for {group[0]}"):
            task.check_columns(left, "train")
        if target:
            task.check_columns(left, "test", needs_targets=False)
        else:
            with pytest.raises(RecipeError, match="but 'test' has"):
                task.check_columns(left, "test", needs_targets=False)
    parts = [f"{name}.second" if name == "image" else name for name in names]
    task.check_columns(parts, "train")


def test_a_column_without_a_tower_is_named() -> None:
    task: Any = find_task("classification")
    for encoders, towers in (({"image": 1}, "only image"), ({}, "only none")):
        model = SimpleNamespace(config=SimpleNamespace(encoders=encoders))
        with pytest.raises(RecipeError, match=rf"nothing reads text, as the model has no text tower \({towers}\)"):
            task.check_inputs(["text", "label"], model)
        task.check_inputs(["label"], model)
    task.check_inputs(["text", "image"], SimpleNamespace(config=SimpleNamespace(encoders={"text": 1, "image": 1})))


def test_settings_of_generation_are_for_tasks_that_generate() -> None:
    for task in TASKS.values() if isinstance(TASKS, dict) else TASKS:
        recipe = Recipe(task=task.name, generation={"num_beams": 2})
        if task.generates:
            task.build_settings({})
            continue
        with pytest.raises(RecipeError):
            task.check_recipe(recipe)
    assert find_task("classification").is_cacheable("text", None)
    assert not LM.is_cacheable("text", None) and LM.is_cacheable("image", None)


def test_text_columns_are_what_a_tokenizer_is_trained_on() -> None:
    data = Dataset.from_dict({"text": ["a", None], "label": ["c", "d"], "text_pair": ["e", "f"]})
    task: Any = find_task("classification")
    assert list(task.collect_tokenizer_texts(data, "text")) == ["a", None, "e", "f"]
    assert list(task.collect_tokenizer_texts(data, "decoder")) == []
    assert LM.collect_tokenizer_texts(data, "decoder") == ["a", None]


def test_blocks_are_filled_and_the_last_is_short() -> None:
    assert list(split_blocks(iter(range(7)), 3)) == [[0, 1, 2], [3, 4, 5], [6]]
    assert list(split_blocks(iter(range(6)), 3)) == [[0, 1, 2], [3, 4, 5]] and list(split_blocks(iter([]), 3)) == []


def read(processor: PlaitProcessor) -> Any:
    return processor.tokenizer


def test_each_document_ends_once(processor: PlaitProcessor) -> None:
    tokenizer = read(processor)
    ids = tokenizer(["is it red ?", "blue"])["input_ids"]
    end = tokenizer.eos_token_id
    expected = [row if row[-1] == end else [*row, end] for row in ids]
    assert list(tokenize_documents(tokenizer, ["is it red ?", None, "", "  ", "blue"])) == expected
    many = list(tokenize_documents(tokenizer, ["blue"] * 1001))
    assert many == [expected[1]] * 1001 and list(tokenize_documents(tokenizer, [None, ""])) == []


def test_rows_of_tokens_are_cut_or_joined(processor: PlaitProcessor) -> None:
    tokenizer = read(processor)
    data = Dataset.from_dict({"text": ["is it red ?", "blue", None]})
    rows = list(tokenize_documents(tokenizer, data["text"][:]))

    def prepare(**fields: Any) -> list[list[int]]:
        recipe = Recipe(task="causal_lm", **fields)
        return LM.prepare(data, "train", processor, recipe)["input_ids"][:]

    assert prepare() == rows and prepare(max_length=2) == [row[:2] for row in rows]
    joined = [token for row in rows for token in row]
    blocks = [joined[start : start + 3] for start in range(0, len(joined), 3)]
    assert prepare(settings={"block_size": 3}) == [block for block in blocks if len(block) > 1]
    limit = tokenizer.model_max_length
    assert prepare(max_length=10 * limit) == rows and prepare(settings={"block_size": limit})
    for size in (1, limit + 1):
        with pytest.raises(RecipeError, match=rf"settings.block_size is {size}: expected 2 .. {limit}"):
            prepare(settings={"block_size": size})
    with pytest.raises(RecipeError, match="the split 'train' has no text"):
        prepare(max_length=1)
    assert prepare(settings={"block_size": 2})[0] == joined[:2]


def test_batches_are_padded_on_the_right_and_prompts_on_the_left(processor: PlaitProcessor) -> None:
    tokenizer, rows = read(processor), [[5, 6, 7], [8, 9]]
    collator: Any = SimpleNamespace(processor=processor)
    batch = LM.build_batch(collator, [{"input_ids": row} for row in rows])
    pad = tokenizer.pad_token_id
    assert list(batch)[0] == "labels" and batch["labels"].tolist() == [[5, 6, 7], [8, 9, -100]]
    assert batch["input_ids"].tolist() == [[5, 6, 7], [8, 9, pad]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 1, 0]]
    prompt = pad_prompts(rows, tokenizer)
    assert prompt["input_ids"].tolist() == [[5, 6, 7], [pad, 8, 9]]
    assert prompt["attention_mask"].tolist() == [[1, 1, 1], [0, 1, 1]]
    assert LM.build_evaluation_batch(collator, [{"input_ids": [5, 6]}])["inputs"].keys() == batch.keys()
    assert LM.count_tokens(collator, {"input_ids": rows}) == [3, 2]


def test_a_text_without_a_prompt_begins_with_the_first_known_of_two_tokens() -> None:
    tokens: Any = SimpleNamespace(bos_token_id=0, eos_token_id=7)
    assert get_begin_token(tokens) == 0
    tokens.bos_token_id = None
    assert get_begin_token(tokens) == 7


def test_baselines_are_counted_on_the_training_split() -> None:
    train = Dataset.from_dict({"input_ids": [[0, 1, 2, 1], [1, 1]]})
    split = Dataset.from_dict({"input_ids": [[0, 1, 1], [3, 1]]})
    data = DataSplits({"train": train, "test": split}, None)
    rows = LM.score_baseline_rows(None, data, split)
    assert list(rows) == ["unigram", "bigram"]
    scores = LM.measure_baselines(None, data, split)
    for name, found in rows.items():
        perplexity = found["perplexity"]
        assert perplexity.weights.tolist() == [2, 1]
        mean = float(np.sum(perplexity.totals)) / 3
        assert scores[name] == {"loss": pytest.approx(mean), "perplexity": pytest.approx(math.exp(mean))}
    assert scores["unigram"]["perplexity"] < 4 and LM.score_baseline_rows(None, DataSplits({}, None), split) == {}


def test_a_language_model_is_measured_by_its_perplexity_alone(processor: PlaitProcessor) -> None:
    for names in ([], ["perplexity"]):
        metrics = LM.build_metrics(names, None, processor, Recipe(task="causal_lm"))
        assert isinstance(metrics, GenerationMetrics) and metrics.names == ["perplexity"]
    with pytest.raises(ValueError, match="not by bleu, accuracy: leave metrics out"):
        LM.build_metrics(["bleu", "perplexity", "accuracy"], None, processor, Recipe(task="causal_lm"))


def test_the_hub_knows_language_models_as_text_generation() -> None:
    assert LM.find_hub_task(("text",)) == "text-generation"
