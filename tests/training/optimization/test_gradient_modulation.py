"""Shares of the gradient, and OGM-GE against its equations written out."""

import copy
import math

import pytest
import torch
from datasets import Dataset
from transformers import TrainerControl, TrainerState

from plait import PlaitForMaskedLM
from plait.training.optimization.gradient_modulation import (
    GradientModulation,
    GradientShares,
    compute_coefficients,
    compute_gradient_shares,
    modulate_gradients,
)


def step_by_hand(model, inputs: dict, alpha: float, rate: float) -> dict[str, torch.Tensor]:
    """One step of gradient descent with equations 8 to 11; each modality's score comes from the raw inputs alone."""
    labels = inputs["labels"]
    present = {"text": inputs["attention_mask"].any(dim=1), "image": (inputs["image_indices"] >= 0).any(dim=1)}
    names = {"text": ("input_ids", "attention_mask", "token_type_ids"), "image": ("pixel_values", "image_indices")}
    scores = {}
    for modality, rows in present.items():
        own = {name: inputs[name] for name in names[modality] if name in inputs}
        own = {name: value if name == "pixel_values" else value[rows] for name, value in own.items()}
        with torch.no_grad():
            logits = model.eval()(**own).logits
        scores[modality] = logits.softmax(-1)[torch.arange(int(rows.sum())), labels[rows]].mean().item()
    ratios = {"text": scores["text"] / scores["image"], "image": scores["image"] / scores["text"]}
    model.train()(**inputs).loss.backward()
    expected = {}
    for name, parameter in model.named_parameters():
        modality = next((m for m in ratios if f"towers.{m}." in name), None)
        ratio = ratios.get(modality, 0.0)
        factor = 1 - math.tanh(alpha * ratio) if ratio > 1 else 1.0
        expected[name] = (parameter - rate * factor * parameter.grad).detach()
    assert max(ratios.values()) > 1.001
    return expected


@pytest.fixture
def gaps(data) -> Dataset:
    """Nine rows, one without a picture and one without a text, all in one batch."""
    rows = [dict(row) for row in data.train]
    rows[3]["image"], rows[5]["text"] = None, None
    return Dataset.from_list(rows)


def first_batch(trainer) -> dict:
    return next(iter(trainer.get_train_dataloader()))


@pytest.mark.parametrize("fusion", ["late_concatenated", "early", "tensor"])
def test_one_step_is_the_one_of_the_equations(make_model, make_trainer, gaps, fusion) -> None:
    options = {"ogm_alpha": 0.5, "ogm_noise": False, "max_steps": 1, "per_device_train_batch_size": 9}
    trainer = make_trainer(make_model(fusion=fusion), {"train_dataset": gaps}, **options)
    expected = step_by_hand(copy.deepcopy(trainer.model), first_batch(trainer), 0.5, 0.1)
    trainer.train()
    for name, parameter in trainer.model.named_parameters():
        torch.testing.assert_close(parameter.detach(), expected[name], atol=1e-6, rtol=1e-5, msg=name)


def test_accumulated_batches_are_one_step(make_model, make_trainer) -> None:
    """Scores of the small batches add up to those of the large one."""
    results = []
    for size, steps in ((9, 1), (3, 3)):
        options = {"per_device_train_batch_size": size, "gradient_accumulation_steps": steps, "max_steps": 2}
        trainer = make_trainer(make_model(), ogm_alpha=1.0, ogm_noise=False, **options)
        trainer.train()
        results.append(list(trainer.model.parameters()))
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)


def test_noise_is_as_wide_as_the_gradient_and_the_same_for_a_seed(make_model, make_trainer) -> None:
    runs = []
    for noise, seed in ((False, 1), (True, 1), (True, 1), (True, 2)):
        trainer = make_trainer(make_model(), ogm_alpha=1e-7, ogm_noise=noise, seed=seed, data_seed=0, max_steps=1)
        trainer.train()
        runs.append(dict(trainer.model.named_parameters()))
    plain, noisy, again, other = runs
    name = "model.towers.text.transformer.layers.0.mlp.up_proj.weight"
    assert torch.equal(noisy[name], again[name]) and not torch.equal(noisy[name], other[name])
    outside = [key for key in plain if "towers." not in key]
    assert all(torch.equal(plain[key], noisy[key]) for key in outside)
    before = dict(make_model().named_parameters())[name]
    gradient = (before - plain[name]) / 0.1
    assert ((plain[name] - noisy[name]) / 0.1).std().item() == pytest.approx(gradient.std().item(), rel=0.15)


def test_the_better_modality_learns_less_and_the_others_as_before() -> None:
    found = compute_coefficients({"text": 0.6, "image": 0.3}, alpha=0.4)
    assert found == pytest.approx({"text": 1 - math.tanh(0.4 * 2), "image": 1.0})
    three = compute_coefficients({"text": 0.6, "image": 0.3, "audio": 0.1}, alpha=0.4)
    assert three == pytest.approx({"text": 1 - math.tanh(0.4 * 3), "image": 1.0, "audio": 1.0})
    assert compute_coefficients({"text": 0.6}, alpha=0.4) == {}


def test_a_single_number_gets_no_noise_and_a_frozen_one_none() -> None:
    tower = torch.nn.ParameterList([torch.nn.Parameter(torch.ones(1)), torch.nn.Parameter(torch.ones(3))])
    tower[0].grad = torch.tensor([2.0])
    modulate_gradients(tower, 0.5, torch.Generator().manual_seed(0))
    assert tower[0].grad.tolist() == [1.0] and tower[1].grad is None


@pytest.mark.parametrize(("options", "message"), [({"ogm_alpha": 0.0}, "more than 0"), ({"ogm_alpha": -1.0}, "-1.0")])
def test_alpha_must_be_above_zero(make_trainer, options, message) -> None:
    with pytest.raises(ValueError, match=message):
        make_trainer(**options)


def test_a_model_that_does_not_choose_a_class_of_several_modalities_is_an_error(make_model, make_trainer) -> None:
    with pytest.raises(ValueError, match="PlaitForMaskedLM does not choose one class"):
        make_trainer(make_model(PlaitForMaskedLM), ogm_alpha=0.5)
    regression = make_model()
    regression.config.problem_type = "regression"
    with pytest.raises(ValueError, match="does not choose one class"):
        make_trainer(regression, ogm_alpha=0.5)


def test_shares_are_those_of_the_gradient_norms(make_model, data, make_trainer) -> None:
    trainer = make_trainer(log_gradient_share=True, logging_steps=1, max_steps=1, per_device_train_batch_size=9)
    model = copy.deepcopy(trainer.model)
    model.train()(**first_batch(trainer)).loss.backward()
    norms = {
        m: math.sqrt(sum(float(p.grad.double().square().sum()) for p in model.model.towers[m].parameters()))
        for m in ("text", "image")
    }
    trainer.train()
    (logged,) = [entry for entry in trainer.state.log_history if "gradient_share_text" in entry]
    for modality, norm in norms.items():
        assert logged[f"gradient_share_{modality}"] == pytest.approx(norm / sum(norms.values()), rel=1e-4)
    assert compute_gradient_shares(make_model()) == {"text": 0.0, "image": 0.0}


def test_a_frozen_tower_has_no_share_and_logs_are_means(make_trainer) -> None:
    options = {"max_steps": 4, "logging_steps": 2, "per_device_train_batch_size": 3}
    trainer = make_trainer(log_gradient_share=True, frozen=["text"], **options)
    trainer.train()
    shares = [entry["gradient_share_image"] for entry in trainer.state.log_history if "gradient_share_image" in entry]
    assert shares == [1.0, 1.0]


def test_scores_are_taken_without_dropout_and_the_model_goes_on_as_it_was(make_model) -> None:
    """Two scores of the same outputs are equal, whatever the dropout of the fusion; the mode of training stays."""
    fusion = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "hidden_dropout_prob": 0.5}
    model = make_model(fusion="early", fusion_config=fusion)
    watcher = GradientModulation(model, 0.5, noise=False, seed=0)
    outputs = dict(model.eval().model(input_ids=torch.arange(6).view(3, 2)).encoder_outputs)
    for training in (True, False):
        found = []
        for _ in range(2):
            model.train(training)
            watcher.tower_outputs = outputs
            watcher.scores.zero_()
            watcher.update_scores(torch.tensor([0, 1, -100]))
            assert model.training is training and watcher.tower_outputs == {}
            found.append(watcher.scores.clone())
        assert torch.equal(*found) and found[0][0, 1] == 2 and found[0][1, 1] == 0
    with torch.no_grad():
        alone = model.eval()(encoder_outputs=outputs).logits.softmax(-1)
    assert found[0][0, 0].item() == pytest.approx((alone[0, 0] + alone[1, 1]).item())


def test_noise_is_drawn_anew_by_seed_step_and_modality(make_model) -> None:
    model = make_model()
    assert GradientModulation(model, 0.5, noise=False, seed=0).build_generator(0, "text") is None
    seeds = {
        GradientModulation(model, 0.5, noise=True, seed=seed).build_generator(step, modality).initial_seed()
        for seed in (0, 1)
        for step in (0, 1, 7)
        for modality in ("text", "image")
    }
    assert len(seeds) == 12


def test_a_step_forgets_the_scores_and_averages_forget_the_steps(make_model, make_arguments) -> None:
    model = make_model()
    watcher, shares = GradientModulation(model, 0.5, noise=False, seed=0), GradientShares()
    watcher.scores = torch.tensor([[1.6, 2.0], [0.8, 4.0]])  # means 0.8 and 0.2
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    arguments = make_arguments(), TrainerState(), TrainerControl()
    watcher.on_pre_optimizer_step(*arguments)
    assert watcher.scores.tolist() == [[0, 0], [0, 0]]
    factor = 1 - math.tanh(0.5 * 4)
    for name, parameter in model.named_parameters():
        expected = factor if "towers.text." in name else 1.0
        assert parameter.grad.flatten()[0].item() == pytest.approx(expected, rel=1e-5)
    shares.on_pre_optimizer_step(*arguments, model=None)
    assert shares.steps == 0
    shares.on_pre_optimizer_step(*arguments, model=model)
    shares.on_pre_optimizer_step(*arguments, model=model)
    assert shares.steps == 2 and sum(shares.take().values()) == pytest.approx(1)
    assert shares.steps == 0 and shares.take() == {}
