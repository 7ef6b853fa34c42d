"""Preferences: every form of a pair, what is measured of a model, and what a guess without it reaches."""

from typing import Any

import pytest
import torch
from datasets import Dataset

from plait import PlaitForCausalLM, PlaitProcessor
from plait.configuration import PlaitDecoderConfig
from plait.training.data.loading import DataSplits
from plait.training.data.tokenizer import train_tokenizer
from plait.training.metrics.preference import PreferenceMetrics
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import Recipe
from plait.training.rewards.preference import PreferenceBatches
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.collator import PlaitDataCollator
from plait.training.tasks.preference import prefer_frequent
from plait.training.tasks.registry import find_task

TASK: Any = find_task("preference")
ASKED, BETTER, WORSE = "what colour is it ?", "a red square", "it is blue"
USER = {"role": "user", "content": ASKED}
GOOD, BAD = ({"role": "assistant", "content": said} for said in (BETTER, WORSE))


@pytest.fixture(scope="module")
def processor() -> PlaitProcessor:
    texts = [f"user: {ASKED}", f"assistant: {BETTER}", WORSE]
    tokenizer = train_tokenizer(texts, 48, vocab_size=300, min_frequency=1)
    made = PlaitProcessor.compose(decoder=tokenizer)
    TASK.finish_processor(made, Recipe(task="preference"))
    return made


def prepare(rows: list[dict[str, Any]], processor: PlaitProcessor, split: str = "train") -> Dataset:
    recipe = build_recipe({"task": "preference", "generation": {"max_new_tokens": 4}})
    return TASK.prepare(Dataset.from_list(rows), split, processor, recipe)


FORMS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": ASKED, "chosen": BETTER, "rejected": WORSE},
    "messages": {"messages": [USER], "chosen": BETTER, "rejected": WORSE},
    "answers as messages": {"prompt": ASKED, "chosen": [GOOD], "rejected": [BAD]},
    "whole conversations": {"chosen": [USER, GOOD], "rejected": [USER, BAD]},
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_pair_is_the_same_row(form: str, processor: PlaitProcessor) -> None:
    (expected,), (found,) = (list(prepare([FORMS[name]], processor)) for name in ("texts", form))
    assert found == expected
    tokenizer: Any = processor.target_tokenizer
    said = [token for token in found["rejected_labels"] if token != -100]
    assert WORSE in tokenizer.decode(said) and BETTER not in tokenizer.decode(found["rejected_input_ids"])


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"prompt": ASKED, "chosen": BETTER, "rejected": BETTER}, "row 0 of 'train' chosen and rejected are the same"),
        ({"prompt": ASKED, "chosen": BETTER, "rejected": " "}, "row 0 of 'train' rejected is empty"),
    ],
)
def test_rows_without_two_answers_are_refused(row: dict[str, Any], message: str, processor: PlaitProcessor) -> None:
    with pytest.raises(RecipeError, match=message):
        prepare([row], processor)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "sigmod"}, "settings.loss.*did you mean 'sigmoid'"),
        ({"loss": ["ipo", "sft"], "loss_weights": [1.0]}, "loss_weights: 1 for 2 losses"),
        ({"beta": 0}, "beta is 0"),
        ({"label_smoothing": 0.5}, "label_smoothing is 0.5"),
    ],
)
def test_settings_out_of_range_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        build_recipe({"task": "preference", "settings": settings})


def test_preferences_are_not_one_of_several_tasks() -> None:
    with pytest.raises(RecipeError, match=r"tasks\.a: the task preference is trained alone"):
        build_recipe(
            {"model": {"from_pretrained": "x"}, "tasks": {"a": {"task": "preference", "data": {"source": "y"}}}}
        )


def test_margins_are_differences_of_log_probabilities(processor: PlaitProcessor) -> None:
    """Of whole answers given the prompt, whatever is padded; the batch of DPO holds the same sequences."""
    torch.manual_seed(0)
    sizes: Any = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5}
    config = PlaitDecoderConfig(vocab_size=len(processor.target_tokenizer), max_position_embeddings=64, **sizes)
    model: Any = PlaitForCausalLM.compose(decoder=config, verbose=False).eval()
    given = [FORMS["texts"], {"prompt": "x", "chosen": "a", "rejected": "it is a red square"}]
    rows: Any = list(prepare(given, processor, "validation"))
    collator = PlaitDataCollator(processor, task="preference")
    metrics = PreferenceMetrics(["preference_accuracy"], processor)
    with torch.no_grad():
        metrics.update(metrics.measure_batch(model, collator.build_evaluation_batch(rows)))
        alone = [
            [log_prob(model, row[f"{kind}input_ids"], row[f"{kind}labels"]) for kind in ("", "rejected_")]
            for row in rows
        ]
    margins = [chosen - rejected for chosen, rejected in alone]
    assert metrics.margins == pytest.approx(margins, abs=1e-4)
    found = metrics.compute()
    assert found["preference_margin"] == pytest.approx(sum(margins) / 2, abs=1e-4)
    assert found["preference_accuracy"] == sum(margin > 0 for margin in margins) / 2
    batch = PreferenceBatches(collator)(rows)
    for number, row in enumerate(rows):
        for place, kind in ((number, ""), (number + 2, "rejected_")):
            length = len(row[f"{kind}input_ids"])
            assert batch["input_ids"][place, :length].tolist() == row[f"{kind}input_ids"]
            assert batch["attention_mask"][place].sum() == length
            assert batch["completion_mask"][place, :length].tolist() == [int(x != -100) for x in row[f"{kind}labels"]]


def log_prob(model: Any, ids: list[int], labels: list[int]) -> float:
    logits = model(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)
    return float(sum(logits[n - 1, label] for n, label in enumerate(labels) if label != -100))


def test_a_guess_goes_by_how_often_an_answer_was_chosen() -> None:
    train = Dataset.from_dict({"references": [["a"], ["a"], ["b"]], "rejected": ["b", "c", "c"]})
    split = Dataset.from_dict({"references": [["a"], ["c"], ["x"]], "rejected": ["b", "a", "y"]})
    found: Any = prefer_frequent(DataSplits({"train": train}, None), split)
    assert found.tolist() == [1, 0, 0.5]
