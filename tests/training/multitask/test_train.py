"""How a run of several tasks is put together: processor, heads, collators, validation; and that it is resumed."""

import json
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from plait import PlaitProcessor, PlaitTrainingArguments
from plait.training.multitask.model import MultiTaskModel
from plait.training.multitask.train import (
    TaskRun,
    build_multitask_model,
    build_multitask_trainer,
    build_shared_processor,
    build_task_run,
    measure_task,
    set_up_task,
    train_tasks,
)
from plait.training.multitask.trainer import MultiTaskTrainer
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.multitask import build_task_recipes
from plait.training.runs.assembly import build_arguments
from plait.training.runs.check import check_folder
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.recipe import build_recipe
from plait.training.storage.checkpoints import MANIFEST
from plait.training.trainer.callbacks import CollatorEpochCallback

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
SCORES = ("zero", "one", "two", "three")


class Built(NamedTuple):
    processor: PlaitProcessor
    model: MultiTaskModel
    parts: dict[str, TaskRun]
    args: PlaitTrainingArguments
    recipe: Any


@pytest.fixture(scope="module")
def content(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Scores of sentences (a regression) with a test split and no validation, and sentences with hidden words."""
    folder = tmp_path_factory.mktemp("tasks")
    rows = {
        "scores": [{"text": f"a {name} is here", "label": 2.5 * number} for number, name in enumerate(SCORES)],
        "words": [{"text": f"nobody sees {name}"} for name in SCORES],
    }
    for name, made in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    path = {name: str(folder / f"{name}.jsonl") for name in rows}
    training = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "per_device_train_batch_size": 4}
    training |= {"num_train_epochs": 1, "logging_steps": 1, "save_strategy": "steps", "save_steps": 1}
    return {
        "model": {"text": {"config": {**TINY, "max_position_embeddings": 16}}},
        "tokenizer": {"train": {"vocab_size": 290, "min_frequency": 1}},
        "tasks": {
            "scores": {"task": "classification", "max_length": 5}
            | {"data": {"source": {"train": path["scores"], "test": path["scores"]}}},
            "words": {"task": "masked_lm", "settings": {"mlm_probability": 0.5}, "weight": 0.5}
            | {"data": {"source": {"train": path["words"], "validation": path["words"]}}},
        },
        "training": training | {"image_cache": 0.25},
        "temperature": 3.0,
        "output_dir": str(folder / "run"),
    }


@pytest.fixture(scope="module")
def built(content: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Built:
    folder = tmp_path_factory.mktemp("built")
    recipe = build_recipe(content)
    args = build_arguments(recipe, folder / "checkpoints")
    setups = {name: set_up_task(name, own) for name, own in build_task_recipes(recipe).items()}
    processor = build_shared_processor(recipe, setups, folder, args)
    model = build_multitask_model(recipe, setups, processor, verbose=False)
    parts = {name: build_task_run(name, setup, model, processor, folder) for name, setup in setups.items()}
    return Built(processor, model, parts, args, recipe)


def build_trainer(built: Built, **changed: TaskRun) -> MultiTaskTrainer:
    return build_multitask_trainer(built.recipe, built.args, built.model, {**built.parts, **changed}, built.processor)


def test_a_new_tokenizer_knows_the_words_of_every_task(built: Built) -> None:
    vocabulary = built.processor.tokenizer.get_vocab()
    assert {"nobody", "here"} <= {token.strip("Ġ▁#").lower() for token in vocabulary}


def test_heads_have_the_labels_and_the_scale_of_their_own_data(built: Built) -> None:
    scores, words = built.parts["scores"].model, built.parts["words"].model
    assert scores.config.problem_type == "regression" and scores.config.num_labels == 1
    assert scores.config.target_mean == pytest.approx(3.75)
    assert scores.config.target_std == pytest.approx(2.5 * 1.25**0.5)
    assert words.config.problem_type is None
    assert built.model.weights == {"scores": 1.0, "words": 0.5}
    assert not scores.training and not words.training


def test_the_trainer_has_the_rows_and_the_settings_of_all_tasks(built: Built) -> None:
    trainer = build_trainer(built)
    assert [trainer.train_dataset[row][0] for row in range(8)] == ["scores"] * 4 + ["words"] * 4
    assert trainer.train_dataset[5][1] == built.parts["words"].data.train[1]
    assert list(trainer.eval_dataset.parts) == ["words"]  # the only task with a validation split
    assert trainer.eval_dataset.parts["words"] is built.parts["words"].data.validation
    assert trainer.evaluators == {name: part.evaluator for name, part in built.parts.items()}
    assert trainer.temperature == 3.0 and trainer.args is built.args and trainer.processing_class is built.processor
    collators = trainer.data_collator.collators
    assert [collators[name].task.name for name in ("scores", "words")] == ["classification", "masked_lm"]
    assert collators["scores"].max_length == 5 and collators["words"].max_length is None
    assert collators["words"].settings.mlm_probability == 0.5
    assert collators["scores"].labels == built.parts["scores"].data.labels
    assert all(collator.image_cache.limit == 2**28 for collator in collators.values())
    epochs = [each for each in trainer.callback_handler.callbacks if isinstance(each, CollatorEpochCallback)]
    assert [each.collator for each in epochs] == [trainer.data_collator]


def test_without_any_validation_nothing_is_measured_in_training(built: Built) -> None:
    words = built.parts["words"]
    train = {"train": words.data.splits["train"]}
    changed = TaskRun(words.recipe, words.task, words.data._replace(splits=train), words.model, words.evaluator)
    assert build_trainer(built, words=changed).eval_dataset is None


def test_arguments_that_the_trainer_refuses_are_mistakes_of_the_recipe(built: Built) -> None:
    built.args.frozen = ["audio"]
    try:
        with pytest.raises(RecipeError, match=r"^training: .*audio"):
            build_trainer(built)
    finally:
        built.args.frozen = []


def test_each_task_is_measured_on_its_own_splits_beside_its_baselines(built: Built) -> None:
    trainer = build_trainer(built)
    scores = measure_task("scores", built.parts["scores"], trainer)
    words = measure_task("words", built.parts["words"], trainer)
    assert list(scores) == ["test"] and list(words) == ["validation"]
    assert "loss" in scores["test"]["model"] and "loss" in words["validation"]["model"]
    assert scores["test"]["majority"] == {"mae": pytest.approx(2.5)}


def test_an_evaluation_is_logged_with_the_metrics_of_every_task(built: Built) -> None:
    trainer = build_trainer(built)
    scores = trainer.evaluate()
    assert scores["eval_loss"] == pytest.approx(0.5 * scores["eval_words_loss"])
    assert trainer.state.log_history[-1].items() >= scores.items()


def test_a_resumed_run_goes_on_from_its_checkpoint(content: dict[str, Any]) -> None:
    recipe = build_recipe(content)
    folder = Path(content["output_dir"])
    train_tasks(recipe, "plait train")
    first = [json.loads((folder / name).read_text()) for name in ("history.json", "metrics.json")]
    assert {path.name for path in (folder / "checkpoints").iterdir()} >= {"checkpoint-1", "checkpoint-2"}
    state_file = folder / "checkpoints" / "checkpoint-2" / "trainer_state.json"
    state = json.loads(state_file.read_text())
    state["log_history"].append({"step": 2, "note": "from the checkpoint"})
    state_file.write_text(json.dumps(state))
    (state_file.parent / MANIFEST).unlink()  # else the checkpoint is known to be another one
    results = train_tasks(recipe, "plait train", resume=True)
    history = json.loads((folder / "history.json").read_text())
    assert any(entry.get("note") == "from the checkpoint" for entry in history)
    assert not any("note" in entry for entry in first[0])
    assert json.loads((folder / "metrics.json").read_text()).keys() == first[1].keys() == {"scores", "words"}
    assert set(results) == {"scores test", "words validation"}
    assert all((folder / name / "README.md").is_file() for name in ("scores", "words"))
    with pytest.raises(RecipeError, match="--overwrite replaces it"):
        train_tasks(recipe, "plait train")


def test_a_whole_run_is_whole_and_its_tasks_are_named(content: dict[str, Any], tmp_path: Path) -> None:
    folder = tmp_path / "run"
    train_tasks(build_recipe({**content, "output_dir": str(folder)}), "plait train")
    assert check_folder(folder).problems == []
    with pytest.raises(RecipeError, match=f"name the folder of one, {folder / 'scores'}, {folder / 'words'}"):
        load_model_recipe(str(folder), {})


def test_a_run_has_the_same_weights_for_the_same_seed(content: dict[str, Any], tmp_path: Path) -> None:
    """Whatever random numbers were used before it."""
    weights = []
    for name in ("one", "two"):
        torch.rand(len(weights) + 1)
        training = {**content["training"], "save_strategy": "no"}
        recipe = build_recipe({**content, "training": training, "output_dir": str(tmp_path / name), "seed": 5})
        train_tasks(recipe, "plait train")
        weights.append((tmp_path / name / "words" / "model.safetensors").read_bytes())
        assert not list((tmp_path / name).glob("checkpoints/checkpoint-*"))
    assert weights[0] == weights[1]
