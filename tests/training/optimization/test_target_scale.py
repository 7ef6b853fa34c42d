"""Regression learns standardized targets and answers in their unit, everywhere alike."""

import csv
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainingArguments, pipeline

from plait import PlaitConfig, PlaitForClassification, PlaitProcessor, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitTextConfig
from plait.training.commands import run_recipe
from plait.training.data.labels import REGRESSION, LabelSpec
from plait.training.optimization.target_scale import collect_targets, fit_target_scale, has_new_head
from plait.training.runs.evaluate import evaluate
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.collator import PlaitDataCollator

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 16}
PRICES = {"tent": 5_000.0, "hut": 60_000.0, "house": 180_000.0, "villa": 320_000.0, "castle": 475_000.0}
ROWS = [{"text": f"a {kind} number {n}", "label": price} for n in range(4) for kind, price in PRICES.items()]


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any, dict[str, Any]]:
    """A run on prices: its folder, recipe and results. The validation rows are those of training."""
    folder = tmp_path_factory.mktemp("prices")
    with (folder / "rows.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["text", "label"])
        writer.writeheader()
        writer.writerows(ROWS)
    source = {split: str(folder / "rows.csv") for split in ("train", "validation")}
    content = {
        "model": {"text": {"config": {**TEXT, "initializer_range": 0.2}}},
        "tokenizer": {"train": {"vocab_size": 340, "min_frequency": 1}},
        "data": {"source": source},
        "metrics": ["mae", "r2"],
        "training": {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 40}
        | {"per_device_train_batch_size": 10, "learning_rate": 1e-2},
        "output_dir": str(folder / "run"),
    }
    recipe = build_recipe(content)
    return folder / "run", recipe, run_recipe(recipe, "plait train")


def test_prices_are_learned_and_saved(finished: tuple[Path, Any, dict[str, Any]]) -> None:
    folder, _, results = finished
    config = json.loads((folder / "config.json").read_text())
    assert config["target_mean"] == pytest.approx(np.mean(list(PRICES.values())))
    assert config["target_std"] == pytest.approx(np.std(list(PRICES.values())))
    assert results["validation"]["model"]["r2"] > 0.9
    assert results["validation"]["model"]["mae"] < 0.3 * results["validation"]["majority"]["mae"]


def test_every_way_to_an_answer_agrees(finished: tuple[Path, Any, dict[str, Any]]) -> None:
    """Training's metrics, `evaluate`, `predict`, a loaded model, a pipeline of transformers, and a plain Trainer."""
    folder, recipe, results = finished
    labels = np.array([row["label"] for row in ROWS])
    own = results["validation"]["model"]
    scores = evaluate(str(folder), recipe, "validation")
    assert scores == pytest.approx(own, rel=1e-5)
    values = np.array([row["value"] for row in predict(str(folder), [{"text": row["text"]} for row in ROWS], recipe)])
    assert np.abs(values - labels).mean() == pytest.approx(own["mae"], rel=1e-5)

    model = PlaitForClassification.from_pretrained(folder)
    processor = PlaitProcessor.from_pretrained(folder)
    inputs = processor(text=[row["text"] for row in ROWS], return_tensors="pt")
    with torch.no_grad():
        output = model(**inputs, labels=torch.tensor(labels, dtype=torch.float))
    np.testing.assert_allclose(output.logits[:, 0], values, rtol=1e-5)
    std = model.config.target_std
    assert output.loss.item() == pytest.approx((((values - labels) / std) ** 2).mean(), rel=1e-4)
    assert output.loss.item() == pytest.approx(own["loss"], rel=1e-4)

    answers = pipeline("text-classification", model=model, tokenizer=processor.tokenizer, device="cpu")
    found = [answer["score"] for answer in answers([row["text"] for row in ROWS[:3]])]
    np.testing.assert_allclose(found, values[:3], rtol=1e-5)

    args = TrainingArguments(str(folder / "plain"), use_cpu=True, remove_unused_columns=False, report_to="none")
    collator = PlaitDataCollator(processor, LabelSpec((), REGRESSION))
    plain = Trainer(model, args, data_collator=collator)
    assert plain.evaluate(ROWS)["eval_loss"] == pytest.approx(own["loss"], rel=1e-4)


def make(**options: Any) -> PlaitForClassification:
    torch.manual_seed(0)
    text = PlaitTextConfig(vocab_size=30, **TEXT)
    fields = {"num_labels": 1, "problem_type": REGRESSION, **options}
    return PlaitForClassification(PlaitConfig(text_config=text, **fields)).eval()


IDS = torch.tensor([[1, 2, 3], [4, 5, 6]])


def test_a_model_without_a_scale_is_as_before(tmp_path: Path) -> None:
    """Folders of older runs: the loss is the plain squared error, and further training keeps their unit."""
    model = make()
    model.classifier.bias.data.fill_(0.5)  # a trained head
    labels = torch.tensor([3.0, 4.0])
    before = model(input_ids=IDS, labels=labels)
    assert before.loss.item() == torch.nn.functional.mse_loss(before.logits[:, 0], labels).item()
    PlaitTrainer(
        model, PlaitTrainingArguments(str(tmp_path), use_cpu=True), train_dataset=[{"label": 9.0}, {"label": 7.0}]
    )
    assert model.config.target_std is None
    assert torch.equal(model(input_ids=IDS).logits, before.logits)


@pytest.mark.parametrize("name", ["label", "labels"])
def test_a_trainer_of_a_new_head_finds_the_scale_of_plain_rows(tmp_path: Path, name: str) -> None:
    rows = [{name: value} for value in (10.0, None, 30.0, float("nan"), 50.0)]
    model = make()
    PlaitTrainer(model, PlaitTrainingArguments(str(tmp_path), use_cpu=True), train_dataset=rows)
    assert model.config.target_mean == pytest.approx(30.0)
    assert model.config.target_std == pytest.approx(np.std([10, 30, 50]))
    again = [{name: 1.0}, {name: 2.0}]
    PlaitTrainer(model, PlaitTrainingArguments(str(tmp_path), use_cpu=True), train_dataset=again)
    assert model.config.target_mean == pytest.approx(30.0)  # the head belongs to the scale that it was given first


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16, torch.float64])
def test_answers_and_loss_follow_the_scale(dtype: torch.dtype) -> None:
    plain, scaled = (
        make(num_labels=2).to(dtype),
        make(num_labels=2, target_mean=[1e5, -2.0], target_std=[1e5, 0.5]).to(dtype),
    )
    raw = plain(input_ids=IDS).logits
    labels = torch.tensor([[9e4, -1.0], [3e5, -2.5]], dtype=torch.float64)
    output = scaled(input_ids=IDS, labels=labels)
    wide = raw.to(torch.promote_types(dtype, torch.float32))
    expected = wide * wide.new_tensor([1e5, 0.5]) + wide.new_tensor([1e5, -2.0])
    torch.testing.assert_close(output.logits, expected)
    standardized = (labels - torch.tensor([1e5, -2.0])) / torch.tensor([1e5, 0.5])
    assert output.loss.item() == pytest.approx(((wide - standardized) ** 2).mean().item(), rel=1e-4)


def test_unknown_targets_and_minus_100_are_counted_as_they_are(tmp_path: Path) -> None:
    """The Trainer takes -100 for unknown; in regression it is a number, and NaN is unknown."""
    rows = [{"label": -100.0}, {"label": float("nan")}, {"label": 5.0}]
    trainer = PlaitTrainer(make(), PlaitTrainingArguments(str(tmp_path), use_cpu=True), train_dataset=rows)
    batch = {"labels": torch.tensor([row["label"] for row in rows])}
    assert trainer._get_num_items_in_batch([batch, batch], torch.device("cpu")) == 4


def test_a_wrong_scale_is_named(tmp_path: Path) -> None:
    for fields in ({"target_mean": 1.0}, {"target_mean": 1.0, "target_std": 0.0}, {"target_std": -1.0}):
        with pytest.raises(ValueError, match="target_std is"):
            PlaitConfig(text_config=PlaitTextConfig(vocab_size=30, **TEXT), num_labels=1, **fields)


def test_a_regressor_that_becomes_a_classifier_has_no_scale(tmp_path: Path) -> None:
    make(target_mean=1e5, target_std=1e4).save_pretrained(tmp_path)
    model = PlaitForClassification.from_pretrained(
        tmp_path, num_labels=3, problem_type="single_label_classification", ignore_mismatched_sizes=True
    )
    assert model(input_ids=IDS).logits.abs().max() < 10


def test_balanced_weights_of_plain_rows(tmp_path: Path) -> None:
    """A list of rows counts as a data set does; unknown labels count for nothing, and a stream says why not."""

    def weigh(rows: Any) -> list[float]:
        model = make(num_labels=2, problem_type="single_label_classification")
        args = PlaitTrainingArguments(str(tmp_path), use_cpu=True, class_weights="balanced", max_steps=1)
        trainer = PlaitTrainer(model, args, train_dataset=rows)
        logits = torch.zeros(1, 2)
        return [float(trainer.compute_loss_func({"logits": logits}, torch.tensor([n])) / np.log(2)) for n in range(2)]

    for name in ("label", "labels"):
        rows = [{name: 0}, {name: 1}, {name: 0}, {name: 0}, {name: -100}]
        assert weigh(rows) == pytest.approx([4 / 6, 4 / 2], rel=1e-6)
    with pytest.raises(ValueError, match="no labels to count before training"):
        weigh([{"text": "a"}])
    with pytest.raises(ValueError, match="encode the labels as class numbers"):
        weigh([{"label": 0}, {"label": 2}])


@pytest.mark.parametrize(
    ("targets", "scale"),
    [
        ([1.0, 3.0], (2.0, 1.0)),
        ([4.0, 4.0, 4.0], None),
        ([5.0], None),
        ([None, 1.0, 3.0], (2.0, 1.0)),
    ],
)
def test_targets_that_do_not_vary_give_no_scale(targets: list[float | None], scale: tuple[float, float] | None) -> None:
    """There is nothing to divide by."""
    model = PlaitForClassification(PlaitConfig(text_config={**TEXT, "vocab_size": 9}, num_labels=1))
    fit_target_scale(model, [{"label": target} for target in targets])
    assert (model.config.target_mean, model.config.target_std) == (scale or (None, None))


def test_each_of_two_outputs_has_its_own_scale_or_neither() -> None:
    for column, scale in (([1.0, 5.0], ([2.0, 3.0], [1.0, 2.0])), ([4.0, 4.0], (None, None))):
        config = PlaitConfig(text_config={**TEXT, "vocab_size": 9}, num_labels=2, problem_type="regression")
        model = PlaitForClassification(config)
        fit_target_scale(model, [{"label": list(pair)} for pair in zip((1.0, 3.0), column, strict=True)])
        assert (model.config.target_mean, model.config.target_std) == scale


def test_a_trained_head_a_known_scale_and_classes_stay_as_they_are() -> None:
    rows = [{"label": 1.0}, {"label": 3.0}]
    for fields in ({"num_labels": 2}, {"num_labels": 2, "problem_type": "multi_label_classification"}):
        classifier = PlaitForClassification(PlaitConfig(text_config={**TEXT, "vocab_size": 9}, **fields))
        fit_target_scale(classifier, [{"label": [0.0, 1.0]}, {"label": [1.0, 3.0]}])
        assert classifier.config.target_std is None
    trained, known, new = (
        PlaitForClassification(PlaitConfig(text_config={**TEXT, "vocab_size": 9}, num_labels=1)) for _ in range(3)
    )
    trained.classifier.bias.data.fill_(0.5)
    known.set_target_scale(7.0, 8.0)
    for model, scale in ((trained, (None, None)), (known, (7.0, 8.0)), (new, (2.0, 1.0))):
        fit_target_scale(model, rows)
        assert (model.config.target_mean, model.config.target_std) == scale
    assert not has_new_head(trained) and has_new_head(new)
    new.classifier = torch.nn.Identity()
    assert has_new_head(new) is False


def test_numbers_written_as_words_and_gaps() -> None:
    assert np.array_equal(collect_targets([{"label": "1.5"}, {"label": None}], 1), [[1.5], [np.nan]], equal_nan=True)
    assert collect_targets([{"label": "many"}], 1) is None
    assert collect_targets([{"label": [1.0, 2.0]}], 1) is None
