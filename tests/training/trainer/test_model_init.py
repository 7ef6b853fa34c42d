"""`model_init`, hyperparameter search, sampling by length over processes, and streams."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset, IterableDataset
from torch import Tensor

from plait import PlaitForClassification, PlaitTrainer, PlaitTrainingArguments

from ...modeling.zoo import config_of

WEIGHTS = torch.arange(24) % 5


def rows() -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)
    lengths = [3 + number % 5 for number in range(24)]
    texts = [torch.randint(3, 39, (length,), generator=generator).tolist() for length in lengths]
    return [{"input_ids": text, "length": len(text), "label": number % 3} for number, text in enumerate(texts)]


def stream() -> IterableDataset:
    return IterableDataset.from_generator(lambda: iter(rows()))


def collate(rows: list[dict[str, Any]]) -> dict[str, Tensor]:
    longest = max(len(row["input_ids"]) for row in rows)
    mask = torch.tensor([[1] * len(row["input_ids"]) + [0] * (longest - len(row["input_ids"])) for row in rows])
    ids = torch.tensor([row["input_ids"] + [0] * (longest - len(row["input_ids"])) for row in rows])
    return {"input_ids": ids, "attention_mask": mask, "labels": torch.tensor([row["label"] for row in rows])}


def build_model() -> PlaitForClassification:
    return PlaitForClassification(config_of("early"))


def arguments_of(folder: Path, **options: Any) -> PlaitTrainingArguments:
    given = {"per_device_train_batch_size": 4, "max_steps": 3, "use_cpu": True, "disable_tqdm": True, "seed": 3}
    given |= {"save_strategy": "no", "probe_products": False, "report_to": "none", "learning_rate": 1e-2}
    return PlaitTrainingArguments(str(folder), **{**given, **options})


def trained(trainer: PlaitTrainer) -> dict[str, Tensor]:
    trainer.train()
    return {name: weight.detach().clone() for name, weight in trainer.model.named_parameters()}


@pytest.mark.parametrize(
    "options",
    [
        {},
        pytest.param({"frozen": ["text"]}, marks=pytest.mark.slow),
        {"learning_rates": {"text": 1e-3, "fusion": 1e-2}},
        pytest.param({"average_decay": 0.5}, marks=pytest.mark.slow),
        pytest.param({"class_weights": {"LABEL_0": 2.0}}, marks=pytest.mark.slow),
        {"ogm_alpha": 0.5},
        pytest.param({"label_smoothing_factor": 0.1}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_model_built_by_the_trainer_trains_as_one_given_to_it(options: dict[str, Any], tmp_path: Path) -> None:
    """In a first and in a second training, each of which begins with a new model."""
    data: Any = Dataset.from_list(rows())
    torch.manual_seed(3)
    given = PlaitTrainer(build_model(), arguments_of(tmp_path, **options), collate, train_dataset=data)
    torch.manual_seed(3)
    expected, start = trained(given), build_model()
    trainer = PlaitTrainer(None, arguments_of(tmp_path, **options), collate, data, model_init=build_model)
    for _ in range(2):
        first, found = trainer.model, trained(trainer)
        assert trainer.model is not first
        assert {name for name in found if torch.equal(found[name], start.get_parameter(name))} == {
            name for name in expected if torch.equal(expected[name], start.get_parameter(name))
        }
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    kinds = [type(callback) for callback in trainer.callback_handler.callbacks]
    assert len(kinds) == len(set(kinds))
    averaging = trainer.weight_averaging
    assert averaging is None or averaging in trainer.callback_handler.callbacks


def test_exactly_one_of_model_and_model_init(tmp_path: Path) -> None:
    for options in ({}, {"model": build_model(), "model_init": build_model}):
        with pytest.raises(ValueError, match="either a model or a model_init"):
            PlaitTrainer(args=arguments_of(tmp_path), **options)


def test_hyperparameter_search(tmp_path: Path) -> None:
    optuna = pytest.importorskip("optuna")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    data: Any = Dataset.from_list(rows())
    arguments = arguments_of(tmp_path, eval_strategy="steps", eval_steps=3, frozen=["text"])
    trainer = PlaitTrainer(None, arguments, collate, data, data, model_init=lambda trial: build_model())
    best: Any = trainer.hyperparameter_search(
        lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1, log=True)},
        compute_objective=lambda metrics: metrics["eval_loss"],
        n_trials=2,
        direction="minimize",
    )
    assert set(best.hyperparameters) == {"learning_rate"}
    assert best.objective > 0


def test_batches_are_rebalanced_by_a_column_of_lengths(tmp_path: Path) -> None:
    data: Any = Dataset.from_list(rows())
    trainer = PlaitTrainer(
        build_model(), arguments_of(tmp_path, train_sampling_strategy="batch_rebalance"), collate, train_dataset=data
    )
    sampler: Any = trainer._get_train_sampler()
    assert list(sampler.lengths) == data["length"][:]
    trainer.train()
    assert trainer.state.global_step == 3


def test_batches_are_rebalanced_by_tokens_that_the_task_counts(make_trainer: Callable[..., PlaitTrainer]) -> None:
    """As batches grouped by length are: the data have no column of lengths."""
    trainer = make_trainer(train_sampling_strategy="batch_rebalance", max_steps=3)
    data: Any = trainer.train_dataset
    assert "length" not in data.column_names
    sampler: Any = trainer._get_train_sampler()
    assert list(sampler.lengths) == trainer._count_tokens(data)
    trainer.train()
    assert trainer.state.global_step == 3


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("tokens_per_batch", 64),
        ("class_weights", "balanced"),
        ("share_images", True),
        ("train_sampling_strategy", "group_by_length"),
        ("train_sampling_strategy", "batch_rebalance"),
        ("eval_modality_patterns", True),
        (None, None),
        ("class_weights", {"LABEL_0": 2.0}),
        ("train_sampling_strategy", "sequential"),
    ],
)
def test_a_stream_trains_or_says_why_not(name: str | None, value: Any, tmp_path: Path) -> None:
    options = {} if name is None else {name: value}
    works = name is None or isinstance(value, dict) or value == "sequential"
    data: Any = stream()

    def build() -> PlaitTrainer:
        return PlaitTrainer(build_model(), arguments_of(tmp_path, **options), collate, data, data)

    if works:
        trainer = build()
        trainer.train()
        assert trainer.state.global_step == 3
        assert trainer.evaluate()["eval_loss"] > 0
    else:
        with pytest.raises(ValueError, match=rf"^{name}.* is a stream.*: load it as a Dataset"):
            build()
