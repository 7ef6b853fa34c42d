"""Measuring a trained model: under the type that is asked for, or refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from plait.training.commands import run_recipe as train
from plait.training.data.loading import choose_split
from plait.training.recipes.errors import RecipeError
from plait.training.runs.evaluate import build_evaluation_arguments, evaluate
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.recipe import build_recipe

from ..tasks.test_retrieval import captions
from ..tasks.test_retrieval import recipe_of as retrieval_recipe
from ..text_recipes import recipe_for


@pytest.fixture
def make_content(tmp_path: Path, pictures: dict[str, Path]) -> Callable[..., dict[str, Any]]:
    """The recipe of a task, with training arguments."""

    def make(name: str, **training: Any) -> dict[str, Any]:
        if name == "retrieval":
            return retrieval_recipe(tmp_path, captions(pictures), training=training)
        return recipe_for(name, tmp_path, pictures, **training)

    return make


@pytest.mark.parametrize("name", ["translation", "question_answering", "retrieval"])
def test_a_model_is_measured_in_the_type_that_it_was_trained_in(
    make_content: Callable[..., dict[str, Any]], name: str
) -> None:
    """Alone exactly as at the end of its training, and otherwise where the type is another."""
    recipe = build_recipe(make_content(name, max_steps=2, bf16=True))
    expected, run = train(recipe, "plait train")["validation"]["model"], str(recipe.output_dir)
    half, single = (
        evaluate(run, load_model_recipe(run, {"training.bf16": bf16}), "validation") for bf16 in (True, False)
    )
    assert {name: half[name] for name in expected} == expected
    assert half["loss"] != single["loss"]
    assert half["loss"] == pytest.approx(single["loss"], rel=3e-2)


def test_float16_needs_a_gpu(finished: Callable[[str], Path], make_content: Callable[..., dict[str, Any]]) -> None:
    """It is refused, in training too, where it would be left out in silence."""
    run = str(finished("translation"))
    with pytest.raises(RecipeError, match="training: fp16 is mixed precision of a GPU"):
        evaluate(run, load_model_recipe(run, {"training.fp16": True}))
    with pytest.raises(RecipeError, match="training: fp16 is mixed precision of a GPU"):
        train(build_recipe(make_content("translation", fp16=True)), "plait train")


def test_an_evaluation_keeps_the_seed_and_what_matters_there(tmp_path: Path) -> None:
    training = {
        "use_cpu": True,
        "disable_tqdm": True,
        "per_device_eval_batch_size": 3,
        "per_device_train_batch_size": 5,
    }
    training |= {"num_train_epochs": 9, "learning_rate": 0.5, "bf16": True, "dataloader_num_workers": 1}
    recipe = build_recipe({"seed": 17, "training": training, "model": {"text": "a/model"}, "data": {"source": "a.csv"}})
    found = build_evaluation_arguments(recipe, str(tmp_path / "here"))
    assert (found.seed, found.output_dir) == (17, str(tmp_path / "here"))
    assert (found.per_device_eval_batch_size, found.dataloader_num_workers) == (3, 1)
    assert found.bf16 and found.use_cpu and found.disable_tqdm and not found.fp16
    assert (found.num_train_epochs, found.learning_rate, found.per_device_train_batch_size) == (3, 5e-5, 8)


def test_the_split_is_named_or_the_one_that_training_saw_least() -> None:
    splits: Any = {name: [name] for name in ("train", "validation", "test")}
    assert choose_split(splits, None) == ["test"] and choose_split(splits, "train") == ["train"]
    del splits["test"]
    assert choose_split(splits, None) == ["validation"]
    assert choose_split({"train": splits["train"]}, None) == ["train"]
    with pytest.raises(RecipeError, match="there is no split 'test': choose one of train, validation"):
        choose_split(splits, "test")
