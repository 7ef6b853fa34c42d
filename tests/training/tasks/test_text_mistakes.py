"""What cannot be trained or answered is said before any work is lost, in one line."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import set_dotted
from plait.training.runs.recipe import build_recipe

from ..text_recipes import recipe_for

BAD = [
    ("translation", {"data.columns": {"text": "text"}}, "the task generation needs a column for target"),
    ("translation", {"data.columns": {"target": "target"}}, "needs a column for text or image"),
    ("translation", {"model.decoder": None}, "model.decoder is missing: the task generation needs it to generate text"),
    ("translation", {"model.decoder.config.vocab_size": 50}, "has a vocabulary of 50, but its tokenizer has 3"),
    ("translation", {"model.text.config.vocab_size": 50}, "model.text has a vocabulary of 50, but its tokenizer has 3"),
    (
        "translation",
        {"model.decoder.config.pad_token_id": None, "model.decoder.config.eos_token_id": None},
        "model.decoder has no pad_token_id",
    ),
    ("translation", {"generation.max_new_tokens": 49}, "max_new_tokens is 49, but the decoder has 48 positions"),
    ("translation", {"generation.num_beems": 2}, "generation has no setting num_beems"),
    ("translation", {"generation.num_return_sequences": 2}, "num_return_sequences is 2: only 1 is supported"),
    ("translation", {"metrics": ["blue"]}, "did you mean 'bleu'"),
    (
        "translation",
        {"training.metric_for_best_model": "cider", "training.eval_strategy": "epoch"},
        "is not computed: choose from loss",
    ),
    ("translation", {"training.tokens_per_batch": 0}, "tokens_per_batch is 0"),
    ("translation", {"training.tokens_per_batch": 9, "training.share_images": True}, "cannot be used with"),
    ("translation", {"training.average_decay": 1.0}, "average_decay is 1.0"),
    ("translation", {"settings": {"block_size": 8}}, "settings has no key 'block_size'"),
    ("translation", {"task": "translate"}, "task is 'translate'"),
    ("dialogue", {"settings": {"prompt_template": "Answer!"}}, "'Answer!' has no place for {prompt}"),
    ("causal_lm", {"settings": {"block_size": 64}}, "block_size is 64: expected 2 .. 48"),
    ("causal_lm", {"metrics": ["bleu"]}, "measured by its perplexity"),
    ("dialogue", {"generation.max_new_tokens": 48}, "max_new_tokens is 48"),
    ("question_answering", {"settings": {"doc_stride": 40}}, "raise max_length, lower doc_stride"),
    ("question_answering", {"generation": {"num_beams": 2}}, "question_answering generates nothing"),
]


@pytest.mark.parametrize(("name", "changes", "message"), BAD)
def test_mistakes_are_found_before_any_work(
    tmp_path: Path, pictures: dict[str, Path], name: str, changes: dict[str, Any], message: str
) -> None:
    content = recipe_for(name, tmp_path, pictures)
    for key, value in changes.items():
        set_dotted(content, key, value)
    with pytest.raises(RecipeError) as error:
        train(build_recipe(content), "plait train")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("name", "row", "message"),
    [
        ("translation", {"text": "a dog", "target": " "}, "row 12 of 'train' has an empty target (1 of 13 rows"),
        ("captioning", {"image": "red.png", "target": []}, "row 3 of 'train' has an empty target"),
        ("dialogue", {"messages": [{"role": "user", "content": "hello"}]}, "no message has the role 'assistant'"),
        ("dialogue", {"messages": [{"role": "assistant", "content": ""}]}, "the assistant has an empty message"),
        (
            "question_answering",
            {"question": "Who ?", "context": "Anna .", "answers": {"text": ["Ben"], "answer_start": [0]}},
            "the answer 'Ben' of row 4 of 'train' is not at character 0 of its context, which has 'Ann' there",
        ),
    ],
)
def test_a_row_that_teaches_nothing_is_named(
    tmp_path: Path, pictures: dict[str, Path], name: str, row: dict[str, Any], message: str
) -> None:
    content = recipe_for(name, tmp_path, pictures)
    with (tmp_path / f"{name}.jsonl").open("a") as file:
        file.write(json.dumps(row) + "\n")
    with pytest.raises(RecipeError) as error:
        train(build_recipe(content), "plait train")
    assert message in str(error.value)


def test_a_prompt_without_room_to_go_on_is_an_error(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished("causal_lm")), "--text", "a dog " * 20]) == 2
    assert "are more than the decoder's 48 positions" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("folder", "task", "message"),
    [
        ("translation", "causal_lm", "PlaitForConditionalGeneration"),
        ("causal_lm", "generation", "PlaitForCausalLM"),
        ("question_answering", "generation", "needs a decoder"),
        ("translation", "question_answering", "question answering"),
    ],
)
def test_a_folder_of_another_class_is_an_error(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str], folder: str, task: str, message: str
) -> None:
    capsys.readouterr()
    options = ["--text", "a dog", *(["--context", "a dog"] if task == "question_answering" else [])]
    options += ["--task", task, "--settings", "{}", "--generation", "{}"]
    assert main(["predict", str(finished(folder)), *options]) == 2
    assert message in capsys.readouterr().err


def test_options_that_a_task_does_not_read_are_errors(
    finished: Callable[[str], Path], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["predict", str(finished("translation")), "--text", "a", "--context", "b"]) == 2
    assert (
        "--context: the task generation does not read it: give --text, --image, --audio, --video or --data"
        in capsys.readouterr().err
    )
    assert main(["predict", str(finished("question_answering")), "--text", "Where ?"]) == 2
    assert "needs a column for context" in capsys.readouterr().err
