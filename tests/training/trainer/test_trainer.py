"""PlaitTrainer: the loss, rates by part, sharing pictures, resuming."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn import functional
from transformers import HfArgumentParser, Trainer

from plait import PlaitForClassification, PlaitForMaskedLM, PlaitProcessor, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitVisionConfig
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.modeling.composition.parameter_names import part_of
from plait.training.data.labels import MASKED_LM_PROBLEM, MULTI, REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import DataSplits
from plait.training.metrics.classification import Metrics
from plait.training.tasks.collator import PlaitDataCollator

MakeModel = Callable[..., PlaitPreTrainedModel]
MakeTrainer = Callable[..., PlaitTrainer]
State = dict[str, torch.Tensor]
QUIET = {"train_sampling_strategy": "sequential"}


def trained(trainer: Trainer, **options: Any) -> State:
    trainer.train(**options)
    return {name: value.clone() for name, value in trainer.model.state_dict().items()}


def distance(first: State, second: State) -> float:
    return max((first[name] - second[name]).abs().max().item() for name in first)


PROBLEMS = {
    SINGLE: lambda row: row,
    REGRESSION: lambda row: {**row, "label": row["label"] / 2},
    MULTI: lambda row: {**row, "label": [row["label"], (row["label"] + 1) % 5]},
}


def by_hand(logits: torch.Tensor, labels: torch.Tensor, problem_type: str) -> torch.Tensor:
    if problem_type == SINGLE:
        return functional.cross_entropy(logits, labels)
    if problem_type == REGRESSION:
        return functional.mse_loss(logits[:, 0], labels)
    return functional.binary_cross_entropy_with_logits(logits, labels)


@pytest.mark.parametrize("problem_type", PROBLEMS)
@pytest.mark.parametrize(("batch", "accumulation"), [(7, 1), (2, 4), (4, 2)])
def test_accumulated_steps_equal_a_loss_written_by_hand(
    make_model: MakeModel,
    make_trainer: MakeTrainer,
    processor: PlaitProcessor,
    data: DataSplits,
    problem_type: str,
    batch: int,
    accumulation: int,
) -> None:
    """Seven rows in one step, however they are cut: the last micro-batch is smaller."""
    regression = problem_type == REGRESSION
    labels = LabelSpec(() if regression else data.labels.names, problem_type)
    count = {"labels": 1} if regression else {}
    rows = data.train.select(range(7)).map(PROBLEMS[problem_type])
    collator = PlaitDataCollator(processor, labels)
    model = make_model(problem_type=problem_type, **count)
    by_trainer = trained(
        make_trainer(
            make_model(problem_type=problem_type, **count),
            {"train_dataset": rows, "data_collator": collator},
            per_device_train_batch_size=batch,
            gradient_accumulation_steps=accumulation,
            **QUIET,
        )
    )
    inputs = collator([rows[row] for row in range(7)])
    expected = inputs.pop("labels")
    if regression:  # the Trainer standardizes the targets of a new head, by those of all training rows
        expected = (expected - expected.mean()) / expected.std(correction=0)
    by_hand(model(**inputs).logits, expected, problem_type).backward()
    for name, parameter in model.named_parameters():
        if parameter.grad is not None:
            stepped = parameter - 0.1 * parameter.grad
            torch.testing.assert_close(by_trainer[name], stepped.detach(), rtol=1e-5, atol=1e-6)


def test_accumulation_counts_masked_tokens(
    make_model: MakeModel, make_trainer: MakeTrainer, processor: PlaitProcessor, data: DataSplits
) -> None:
    """Micro-batches hold unequal numbers of masked tokens; masks are fixed so that only the cut differs."""
    collator = PlaitDataCollator(processor, task="masked_lm", settings={"mlm_probability": 0.4})
    batch = collator([data.train[row] for row in range(6)])

    def cut(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        chosen = torch.tensor([row["row"] for row in rows])
        return {name: value[chosen] for name, value in batch.items() if name not in ("pixel_values", "image_indices")}

    rows = data.train.select(range(6)).map(lambda _, row: {"row": row}, with_indices=True)
    results = [
        trained(
            make_trainer(
                make_model(PlaitForMaskedLM),
                {"train_dataset": rows, "data_collator": cut, "compute_metrics": Metrics([], MASKED_LM_PROBLEM)},
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                **QUIET,
            )
        )
        for size, steps in ((6, 1), (1, 6), (4, 2))
    ]
    assert len({int((row != -100).sum()) for row in batch["labels"]}) > 1
    assert distance(results[0], results[1]) < 1e-6
    assert distance(results[0], results[2]) < 1e-6


def test_each_part_has_its_rate_and_frozen_parts_stay(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    before = make_model().state_dict()
    trainer = make_trainer(learning_rates={"text": 1e-4, "fusion": 1e-2}, frozen=["image"], logging_steps=1)
    after = trained(trainer)
    changed = {part_of(name) for name in before if not torch.equal(before[name], after[name])}
    assert changed == {"text", "fusion", "head"}
    logged = trainer.state.log_history[0]
    assert logged["learning_rate_text"] == pytest.approx(1e-4)
    assert logged["learning_rate_fusion"] == pytest.approx(1e-2)
    assert logged["learning_rate_head"] == pytest.approx(0.1)
    assert "learning_rate_image" not in logged


def test_logged_rates_are_those_of_the_step(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        learning_rates={"text": 1e-2}, lr_scheduler_type="linear", logging_steps=1, per_device_train_batch_size=3
    )
    trained(trainer)
    logged = [entry["learning_rate_text"] for entry in trainer.state.log_history if "learning_rate_text" in entry]
    assert logged == pytest.approx([1e-2, 2e-2 / 3, 1e-2 / 3])


def test_label_smoothing_equals_torch(make_trainer: MakeTrainer, data: DataSplits) -> None:
    trainer = make_trainer(label_smoothing_factor=0.2)
    inputs = trainer.data_collator(list(data.train))
    found, outputs = trainer.compute_loss(trainer.model, dict(inputs), return_outputs=True)
    expected = functional.cross_entropy(outputs.logits, inputs["labels"], label_smoothing=0.2)
    torch.testing.assert_close(found, expected)


def test_smoothing_with_accumulated_steps(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    whole, cut = (
        trained(
            make_trainer(
                make_model(),
                label_smoothing_factor=0.2,
                per_device_train_batch_size=size,
                gradient_accumulation_steps=steps,
                **QUIET,
            )
        )
        for size, steps in ((9, 1), (4, 3))
    )
    assert distance(whole, cut) < 1e-6


@pytest.mark.parametrize(("problem_type", "labels"), [(REGRESSION, 1), (MULTI, 5)])
def test_smoothing_without_one_class_is_refused(
    make_model: MakeModel, make_trainer: MakeTrainer, problem_type: str, labels: int
) -> None:
    with pytest.raises(ValueError, match="does not choose one class"):
        make_trainer(make_model(labels=labels, problem_type=problem_type), label_smoothing_factor=0.1)


def test_evaluation_keeps_chosen_labels_alone(
    make_model: MakeModel, make_trainer: MakeTrainer, data: DataSplits
) -> None:
    trainer = make_trainer(per_device_eval_batch_size=2)
    found = trainer.predict(data.train)
    assert found.predictions.shape == (9,)
    model = make_model()
    with torch.no_grad():
        logits = model(**{k: v for k, v in trainer.data_collator(list(data.train)).items() if k != "labels"}).logits
    assert found.predictions.tolist() == logits.argmax(-1).tolist()
    right = logits.argmax(-1) == torch.tensor(data.train["label"])
    assert found.metrics["test_accuracy"] == pytest.approx(right.float().mean().item())


def test_shared_pictures_are_encoded_once_a_batch(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(share_images=True, per_device_train_batch_size=6)
    batches = list(trainer.get_train_dataloader())
    assert [len(batch["labels"]) for batch in batches] == [6, 3]
    assert [len(batch["pixel_values"]) for batch in batches] == [2, 1]


def test_sharing_needs_pictures(make_trainer: MakeTrainer, data: DataSplits) -> None:
    trainer = make_trainer(trainer={"train_dataset": data.train.select_columns(["text", "label"])}, share_images=True)
    with pytest.raises(ValueError, match="no images to share, only text, label"):
        trainer.train()


def test_sharing_changes_the_order_of_rows_alone(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    """One batch holds all rows: whatever their order, the step is the same."""
    shared = trained(make_trainer(make_model(), share_images=True, per_device_train_batch_size=9))
    apart = trained(make_trainer(make_model(), per_device_train_batch_size=9))
    assert distance(shared, apart) < 1e-6


@pytest.mark.parametrize("steps", [pytest.param(2, marks=pytest.mark.slow), 4])
@pytest.mark.parametrize("share_images", [True, False])
def test_resumed_equals_uninterrupted(
    make_model: MakeModel, make_trainer: MakeTrainer, tmp_path: Path, share_images: bool, steps: int
) -> None:
    """With dropout, momentum and a schedule; stopped inside an epoch (2 of 3 steps) and in the next one."""
    dropout = {"text": {"hidden_dropout_prob": 0.3}, "image": {"hidden_dropout_prob": 0.3}}
    options = {
        "share_images": share_images,
        "per_device_train_batch_size": 3,
        "num_train_epochs": 2,
        "optim": "adamw_torch",
        "learning_rate": 1e-2,
        "lr_scheduler_type": "cosine",
        "save_strategy": "steps",
        "save_steps": steps,
        "save_total_limit": 5,
        "logging_steps": 1,
    }
    whole = make_trainer(make_model(**dropout), folder="whole", **options)
    expected = trained(whole)
    resumed = make_trainer(make_model(**dropout), folder="resumed", **options)
    found = trained(resumed, resume_from_checkpoint=str(tmp_path / "whole" / f"checkpoint-{steps}"))
    losses = [[entry["loss"] for entry in run.state.log_history if "loss" in entry] for run in (whole, resumed)]
    assert losses[0] == losses[1]
    assert distance(expected, found) == 0


def test_masked_language_modelling_resumes_exactly(
    make_model: MakeModel, make_trainer: MakeTrainer, processor: PlaitProcessor, data: DataSplits, tmp_path: Path
) -> None:
    collator = PlaitDataCollator(processor, task="masked_lm", settings={"mlm_probability": 0.3})
    extra = {
        "data_collator": collator,
        "compute_metrics": Metrics([], MASKED_LM_PROBLEM),
        "train_dataset": data.train.select_columns("text"),
        "eval_dataset": data.validation.select_columns("text"),
    }
    options = {
        "per_device_train_batch_size": 3,
        "num_train_epochs": 2,
        "save_strategy": "steps",
        "save_steps": 2,
        "eval_strategy": "steps",
        "eval_steps": 1,
        "logging_steps": 1,
    }
    whole = make_trainer(make_model(PlaitForMaskedLM), extra, folder="whole", **options)
    expected = trained(whole)
    resumed = make_trainer(make_model(PlaitForMaskedLM), extra, folder="resumed", **options)
    found = trained(resumed, resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"))
    assert distance(expected, found) == 0
    assert {"eval_accuracy", "eval_perplexity"} <= set(whole.state.log_history[1])


def test_gradient_checkpointing_changes_nothing(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    plain = trained(make_trainer(make_model(), **QUIET))
    renamed = "activation_checkpointing" in PlaitTrainingArguments.__dataclass_fields__
    name = "activation_checkpointing" if renamed else "gradient_checkpointing"
    trainer = make_trainer(make_model(), **{name: True}, **QUIET)
    assert distance(plain, trained(trainer)) < 1e-6
    assert trainer.model.is_gradient_checkpointing


def test_early_stopping_and_the_best_model(make_trainer: MakeTrainer) -> None:
    """A rate that destroys the model: the first evaluation stays the best."""
    trainer = make_trainer(
        learning_rate=50.0,
        num_train_epochs=8,
        per_device_train_batch_size=9,
        eval_strategy="epoch",
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="loss",
        early_stopping_patience=2,
    )
    trainer.train()
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert trainer.state.global_step < 8
    assert losses.index(min(losses)) == len(losses) - 3
    assert trainer.evaluate()["eval_loss"] == pytest.approx(min(losses), rel=1e-5)


def test_lower_errors_are_better(make_arguments: Callable[..., PlaitTrainingArguments]) -> None:
    assert make_arguments(metric_for_best_model="mae").greater_is_better is False
    assert make_arguments(metric_for_best_model="accuracy").greater_is_better is True
    assert make_arguments(metric_for_best_model="mae", greater_is_better=True).greater_is_better is True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"learning_rates": {"pictures": 1.0}}, "unknown part 'pictures': the parts are text, image, audio"),
        ({"frozen": ["pictures"]}, "unknown part 'pictures'"),
        ({"frozen": ["text"], "learning_rates": {"text": 1e-4}}, "'text' has a learning rate of 0.0001 but is frozen"),
        ({"early_stopping_patience": 3}, "which needs load_best_model_at_end=True"),
        ({"share_images": True, "train_sampling_strategy": "sequential"}, "share_images cannot be used"),
        ({"learning_rates": "text"}, "expected JSON"),
    ],
)
def test_contradictory_arguments(
    make_arguments: Callable[..., PlaitTrainingArguments], options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        make_arguments(**options)


def test_arguments_from_a_command_line(tmp_path: Path) -> None:
    parser = HfArgumentParser(PlaitTrainingArguments)
    line = ["--output_dir", str(tmp_path), "--learning_rates", '{"text": 1e-5, "image": 0}', "--frozen", "fusion"]
    (args,) = parser.parse_args_into_dataclasses([*line, "--share_images", "--use_cpu"])
    assert args.learning_rates == {"text": 1e-5, "image": 0.0}
    assert args.frozen == ["fusion", "image"]
    assert args.share_images
    assert not args.remove_unused_columns


def test_a_part_the_model_does_not_have(make_trainer: MakeTrainer) -> None:
    with pytest.raises(ValueError, match="the model has no part 'decoder'"):
        make_trainer(frozen=["decoder"])


def test_batch_norm_of_frozen_towers_and_dropout_stand_still(make_model: MakeModel, make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(make_model(text={"hidden_dropout_prob": 0.5}), frozen=["text"])
    trainer.model.train()
    assert not trainer.model.model.towers["text"].training
    assert trainer.model.model.towers["image"].training


def test_a_saved_model_loads_equal(make_trainer: MakeTrainer, data: DataSplits, tmp_path: Path) -> None:
    trainer = make_trainer()
    trainer.train()
    trainer.save_model(str(tmp_path / "saved"))
    loaded = PlaitForClassification.from_pretrained(tmp_path / "saved")
    batch = trainer.data_collator(list(data.train))
    trainer.model.eval()
    with torch.no_grad():
        assert torch.equal(loaded(**batch).logits, trainer.model(**batch).logits)


def test_a_model_without_text_trains_and_is_saved_with_its_processor(
    make_arguments: Callable[..., PlaitTrainingArguments], data: DataSplits, tmp_path: Path
) -> None:
    """transformers' Trainer asks every processor for special tokens."""
    config = PlaitVisionConfig(hidden_size=16, num_hidden_layers=1, num_attention_heads=2, image_size=16, patch_size=8)
    model = PlaitForClassification.compose(image=config, labels=5, verbose=False)
    processor = PlaitProcessor.compose(image=config)
    rows = data.train.remove_columns("text")
    args = make_arguments(save_strategy="epoch")
    collator = PlaitDataCollator(processor, data.labels)
    trainer = PlaitTrainer(model, args, data_collator=collator, train_dataset=rows, processing_class=processor)
    trainer.train()
    assert trainer.processing_class is processor
    (checkpoint,) = (tmp_path / "run").iterdir()
    assert PlaitProcessor.from_pretrained(checkpoint).model_input_names == ["pixel_values", "image_present"]


def test_a_dropped_last_batch_is_measured_all_the_same(make_trainer: Callable[..., PlaitTrainer]) -> None:
    """dataloader_drop_last is about training: transformers' own evaluation would leave rows out."""
    trainer = make_trainer(dataloader_drop_last=True, per_device_train_batch_size=8, per_device_eval_batch_size=8)
    assert len(trainer.get_train_dataloader()) == 1  # of nine rows
    assert len(trainer.get_eval_dataloader()) == 1 and trainer.evaluate()["eval_accuracy"] >= 0  # of three
    assert trainer.args.dataloader_drop_last
