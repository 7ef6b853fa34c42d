"""The loss of every modality alone, against losses computed from inputs that lack the others."""

import copy
from typing import Any

import pytest
import torch
from datasets import Dataset
from torch.nn.functional import cross_entropy

from plait import PlaitConfig, PlaitForClassification, PlaitForMaskedLM
from plait.training.compare.systems import build_systems
from plait.training.runs.recipe import build_recipe

NAMES = {"text": ("input_ids", "attention_mask", "token_type_ids"), "image": ("pixel_values", "image_indices")}
COUNT = 9


@pytest.fixture
def gaps(data) -> Dataset:
    """Nine rows, one without a picture and one without a text."""
    rows = [dict(row) for row in data.train]
    rows[3]["image"], rows[5]["text"] = None, None
    return Dataset.from_list(rows)


def loss_by_hand(model, inputs: dict, weight: float, **options: Any) -> torch.Tensor:
    """Each modality's loss from the raw inputs of that modality."""
    labels = inputs["labels"]
    present = {"text": inputs["attention_mask"].any(dim=1), "image": (inputs["image_indices"] >= 0).any(dim=1)}
    loss = cross_entropy(model(**inputs).logits, labels, **options)
    for modality, rows in present.items():
        own = {name: inputs[name] for name in NAMES[modality] if name in inputs}
        own = {name: value if name == "pixel_values" else value[rows] for name, value in own.items()}
        single = cross_entropy(model(**own).logits, labels[rows], reduction="sum", **options)
        loss = loss + weight / 2 * single / len(labels)
    return loss


@pytest.mark.parametrize("fusion", ["early", "cross_attention", "late_concatenated", "tensor"])
def test_one_step_is_the_one_of_the_equation(make_model, make_trainer, gaps, fusion) -> None:
    options = {"single_modality_weight": 0.7, "max_steps": 1, "per_device_train_batch_size": COUNT}
    trainer = make_trainer(make_model(fusion=fusion), {"train_dataset": gaps}, **options)
    twin = copy.deepcopy(trainer.model).train()
    loss_by_hand(twin, next(iter(trainer.get_train_dataloader())), 0.7).backward()
    trainer.train()
    for (name, parameter), other in zip(trainer.model.named_parameters(), twin.parameters(), strict=True):
        expected = (other - 0.1 * other.grad).detach()
        torch.testing.assert_close(parameter.detach(), expected, atol=1e-6, rtol=1e-5, msg=name)


def test_smoothed_labels_hold_for_every_part(make_model, make_trainer, gaps) -> None:
    options = {"label_smoothing_factor": 0.2, "max_steps": 1, "per_device_train_batch_size": COUNT, "logging_steps": 1}
    trainer = make_trainer(make_model(), {"train_dataset": gaps}, single_modality_weight=2.0, **options)
    twin = copy.deepcopy(trainer.model).train()
    expected = loss_by_hand(twin, next(iter(trainer.get_train_dataloader())), 2.0, label_smoothing=0.2)
    assert trainer.train().training_loss == pytest.approx(expected.item(), rel=1e-5)


def test_accumulated_batches_are_one_step(make_model, make_trainer, gaps) -> None:
    """Although one of the small batches may lack a modality in some row."""
    results = []
    for size, steps in ((9, 1), (3, 3)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2}
        trainer = make_trainer(make_model(), {"train_dataset": gaps}, single_modality_weight=1.0, **options)
        trainer.train()
        results.append(list(trainer.model.parameters()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_no_tower_runs_twice_and_evaluation_has_the_plain_loss(make_model, make_trainer, data) -> None:
    model, calls = make_model(), []
    model.model.towers["image"].register_forward_hook(lambda *_: calls.append(1))
    trainer = make_trainer(model, single_modality_weight=1.0, max_steps=1, per_device_train_batch_size=COUNT)
    trainer.train()
    assert len(calls) == 1
    weighed, plain = trainer.evaluate(), make_trainer(model).evaluate()
    assert weighed["eval_loss"] == pytest.approx(plain["eval_loss"], rel=1e-6)


def test_what_each_modality_answers_alone(make_model, make_trainer, gaps) -> None:
    trainer = make_trainer(make_model(), {"train_dataset": gaps}, per_device_train_batch_size=COUNT)
    inputs, model = next(iter(trainer.get_train_dataloader())), trainer.model.eval()
    with torch.no_grad():
        alone = model(**inputs, each_alone=True).alone
        for modality, (rows, logits) in alone.items():
            own = {name: inputs[name] for name in NAMES[modality] if name in inputs}
            own = {name: value if name == "pixel_values" else value[rows] for name, value in own.items()}
            torch.testing.assert_close(logits, model(**own).logits)
        assert model(**inputs).alone is None
    assert {modality: len(rows) for modality, (rows, _) in alone.items()} == {"text": 8, "image": 8}


def test_mistakes_are_named(make_model, make_trainer, data) -> None:
    for weight in (-1.0, float("inf")):
        with pytest.raises(ValueError, match="single_modality_weight is .*expected 0 or more"):
            make_trainer(single_modality_weight=weight)
    with pytest.raises(ValueError, match="PlaitForMaskedLM of text is not a classifier of several"):
        make_trainer(make_model(PlaitForMaskedLM), single_modality_weight=1.0)
    with pytest.raises(ValueError, match="compute_loss_func is another loss"):
        make_trainer(trainer={"compute_loss_func": lambda *_: None}, single_modality_weight=1.0)
    text = {"vocab_size": 9, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}
    single = PlaitForClassification(PlaitConfig(text_config=text, num_labels=2))
    with pytest.raises(ValueError, match="and this model has none"):
        single(input_ids=torch.ones(1, 3, dtype=torch.long), each_alone=True)


def test_a_comparison_leaves_it_to_the_fusions() -> None:
    towers = {name: {"config": {"hidden_size": 16}} for name in ("text", "image")}
    training = {"single_modality_weight": 1.0, "ogm_alpha": 0.5, "learning_rate": 1e-3}
    recipe = build_recipe({"model": towers, "training": training, "compare": {"fusions": ["early"]}})
    found = {system.name: set(system.build_training_recipe(recipe, 0).training) for system in build_systems(recipe)}
    assert found == {"text": {"learning_rate"}, "image": {"learning_rate"}, "early": set(training)}
