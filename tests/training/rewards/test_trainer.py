"""Training by rewards, of every kind of model that writes: what is drawn, how likely it was, and what is learned."""

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file
from torch import Tensor
from transformers import GenerationConfig

from plait.training.cli import main
from plait.training.metrics.generation import GenerationMetrics
from plait.training.recipes.errors import RecipeError
from plait.training.rewards.sampling import Policy, encode_prompt
from plait.training.rewards.trainer import PlaitRewardTrainer, without_dropout
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import build_run

from ..text_recipes import recipe_for

NAMES = ("translation", "captioning", "dialogue")


def share_of_letters(texts: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> list[float]:
    """Rewards texts that are made of letters."""
    return [sum(map(str.isalpha, text)) / max(len(text), 1) for text, _ in zip(texts, rows, strict=True)]


def trainer_of(name: str, folder: Path, pictures: dict[str, Path], reward: dict[str, Any], **training: Any) -> Any:
    content = recipe_for(name, folder, pictures, **training)
    content["generation"] = {"max_new_tokens": 6, "do_sample": False}
    recipe = build_recipe({**content, "reward": {"metrics": {f"{__name__}:share_of_letters": 1.0}, **reward}})
    return build_run(recipe, folder / "run", build_arguments(recipe, folder / "run")).trainer


def batch_of(trainer: PlaitRewardTrainer) -> dict[str, Any]:
    return next(iter(trainer.get_train_dataloader()))


def policy_of(trainer: PlaitRewardTrainer, batch: Mapping[str, Any], temperature: float = 1.0) -> Policy:
    prompt = batch.get("prompt") or {name: each for name, each in batch["inputs"].items() if name != "labels"}
    return Policy(trainer.model, prompt, encode_prompt(trainer.model, prompt), temperature)


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("name", NAMES)
def test_a_text_has_the_probability_that_it_was_drawn_with(
    name: str, temperature: float, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    """The logits of the gradient are those of `generate`, for every text of every row, whatever is padded."""
    trainer = trainer_of(name, tmp_path, pictures, {})
    trainer.model.eval()
    trainer.model.generation_config.eos_token_id = list(range(2, 340, 3))  # so that texts end early
    policy, seen = policy_of(trainer, batch_of(trainer), temperature), []

    def keep(_: Tensor, scores: Tensor) -> Tensor:
        seen.append(scores)
        return scores

    plain = policy.model.generate
    policy.model.generate = lambda **given: plain(**given, logits_processor=[keep])
    torch.manual_seed(0)
    labels = policy.draw(3)
    del policy.model.generate
    logits = policy.compute_logits(labels) * temperature  # as before the temperature
    known = labels != -100
    assert known.any(dim=1).all() and not known.all()
    drawn = torch.stack(seen, dim=1)
    finite = drawn.isfinite()
    torch.testing.assert_close(logits[known][finite[known]], drawn[known][finite[known]], rtol=0, atol=1e-5)


@pytest.mark.parametrize("name", NAMES)
def test_the_towers_run_once_for_all_texts_of_a_row(name: str, tmp_path: Path, pictures: dict[str, Path]) -> None:
    trainer = trainer_of(name, tmp_path, pictures, {"baseline": "greedy", "samples": 3})
    runs: list[int] = []
    for tower in trainer.model.model.towers.values():
        tower.register_forward_hook(lambda module, given, output: runs.append(len(output.mask)))
    batch = batch_of(trainer)
    loss = trainer.compute_loss(trainer.model.train(), trainer._prepare_inputs(batch))
    loss.backward()
    assert len(runs) == len(trainer.model.model.towers)
    trained = [each for each in trainer.model.parameters() if each.requires_grad]
    assert trained and all(each.grad is not None for each in trained)
    assert trainer.model.training


@pytest.mark.parametrize(
    "reward",
    [
        {"baseline": "leave_one_out", "samples": 8},
        pytest.param({"baseline": "greedy", "samples": 8}, marks=pytest.mark.slow),
        pytest.param({"objective": "minimum_risk", "samples": 4}, marks=pytest.mark.slow),
    ],
    ids=lambda reward: reward.get("objective") or reward["baseline"],
)
def test_rewarded_texts_become_likelier(reward: dict[str, Any], tmp_path: Path, pictures: dict[str, Path]) -> None:
    """From random weights, a text of letters alone."""
    trainer = trainer_of("captioning", tmp_path, pictures, reward, max_steps=30, logging_steps=5, warmup_steps=0)
    trainer.train()
    logged = [entry for entry in trainer.state.log_history if "reward" in entry]
    assert len(logged) == 6
    assert logged[-1]["reward"] > min(logged[0]["reward"] + 0.1, 0.99), [entry["reward"] for entry in logged]
    for name in ("reward_share_of_letters", "reward_advantage", "reward_entropy", "reward_length", "reward_distinct"):
        assert all(name in entry for entry in logged)


def test_the_cross_entropy_and_the_divergence_are_added(tmp_path: Path, pictures: dict[str, Path]) -> None:
    losses: dict[str, float] = {}
    for name, extra in {"plain": {}, "cross_entropy": {"cross_entropy": 0.5}, "kl": {"kl": 2.0}}.items():
        (tmp_path / name).mkdir()
        trainer = trainer_of("captioning", tmp_path / name, pictures, {"samples": 2, **extra})
        batch = trainer._prepare_inputs(batch_of(trainer))
        trainer.model.eval()
        with torch.no_grad():
            for weight in trainer.model.parameters():
                weight.add_(0.01)
        torch.manual_seed(3)
        losses[name] = float(trainer.compute_loss(trainer.model, batch).detach())
        if name == "cross_entropy":
            expected = float(trainer.model(**batch["inputs"]).loss.detach())
            assert losses[name] == pytest.approx(losses["plain"] + 0.5 * expected, abs=1e-5)
        if name == "kl":
            divergence = trainer.reward_log.take()["reward_kl"]
            assert divergence > 0 and losses[name] == pytest.approx(losses["plain"] + 2 * divergence, abs=1e-5)


def test_dropout_is_off_inside_and_each_module_is_as_before() -> None:
    module = torch.nn.Sequential(torch.nn.Dropout(0.5), torch.nn.Linear(2, 2).eval(), torch.nn.Dropout(0.5)).train()
    module[1].eval()
    with without_dropout(module):
        assert not any(each.training for each in module.modules())
    assert [each.training for each in module] == [True, False, True]


@pytest.mark.parametrize(
    ("reward", "message"),
    [
        ({"metrics": {}}, "reward.metrics is empty"),
        ({"metrics": {"cidre": 1.0}}, "no reward 'cidre'; did you mean 'cider'"),
        ({"metrics": {"nothing.here:f": 1.0}}, "nothing.here:f cannot be imported"),
        ({"samples": 1}, "samples is 1, but baseline leave_one_out compares"),
        ({"temperature": 0}, "temperature is 0"),
        ({"kl": -1.0}, "kl is -1.0"),
        ({"sharpness": 2.0}, "sharpness is 2.0, which the objective policy_gradient does not read"),
        ({"objective": "minimum_risk", "baseline": "greedy"}, "baseline is greedy, which the objective minimum_risk"),
        ({"held_out": "token_f2"}, "reward.held_out.*token_f1"),
        ({"workers": -1}, "workers is -1"),
        ({"baseline": "best"}, "reward: .*best"),
    ],
)
def test_settings_that_cannot_be_trained_are_refused(
    reward: dict[str, Any], message: str, tmp_path: Path, pictures: dict[str, Path]
) -> None:
    with pytest.raises(RecipeError, match=message):
        trainer_of("captioning", tmp_path, pictures, reward)


def test_a_held_out_metric_that_nothing_measures_is_refused(tmp_path: Path, pictures: dict[str, Path]) -> None:
    trainer = trainer_of("captioning", tmp_path, pictures, {})
    given: dict[str, Any] = {"model": trainer.model, "args": trainer.args, "data_collator": trainer.data_collator}
    reward = {"metrics": {"cider": 1.0}, "held_out": "chrf"}
    with pytest.raises(ValueError, match="held_out is 'chrf', but compute_metrics measures nothing"):
        PlaitRewardTrainer(**given, train_dataset=trainer.train_dataset, reward=reward)
    metrics = GenerationMetrics(["cider"], trainer.writer)
    with pytest.raises(ValueError, match="measures cider, perplexity: add it there"):
        PlaitRewardTrainer(**given, train_dataset=trainer.train_dataset, reward=reward, compute_metrics=metrics)


def test_a_task_without_texts_is_refused(tmp_path: Path, pictures: dict[str, Path]) -> None:
    content = recipe_for("question_answering", tmp_path, pictures)
    with pytest.raises(RecipeError, match="reward scores generated texts, which the task question_answering does not"):
        build_recipe({**content, "reward": {"metrics": {"exact_match": 1.0}}})


def test_generation_keeps_its_own_settings(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """Drawing samples does not change what the model generates otherwise."""
    trainer = trainer_of("captioning", tmp_path, pictures, {})
    before: GenerationConfig = trainer.model.generation_config
    kept = before.to_dict()
    policy_of(trainer, batch_of(trainer)).draw(2)
    assert trainer.model.generation_config is before and before.to_dict() == kept


def run(*arguments: str) -> int:
    return main(["train", *arguments])


def test_a_run_learns_on_from_a_trained_one_and_resumes_to_the_last_bit(
    tmp_path: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    """`model.from_pretrained: RUN`, as from the command line; what is drawn after a resumption is what would have been
    drawn."""
    content = recipe_for("captioning", tmp_path, pictures, num_train_epochs=4)
    content["generation"] = {"max_new_tokens": 6, "do_sample": False}
    start = tmp_path / "start.yaml"
    start.write_text(yaml.safe_dump({**content, "report": False}))
    assert run(str(start)) == 0
    trained = content["output_dir"]
    reward = {"metrics": {"token_f1": 1.0, "chrf": 0.5}, "samples": 2, "kl": 0.1, "cross_entropy": 0.1}
    steps = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "logging_steps": 1, "probe_products": False}
    content |= {"model": {"from_pretrained": trained}, "reward": reward, "report": False}
    content |= {"training": {**content["training"], **steps}, "output_dir": str(tmp_path / "whole")}
    del content["tokenizer"]
    recipe = tmp_path / "reward.yaml"
    recipe.write_text(yaml.safe_dump(content))
    assert run(str(recipe)) == 0, capsys.readouterr().err
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    shutil.copytree(whole, cut)
    for name in ("model.safetensors", "config.json", "metrics.json", "history.json", "README.md"):
        (cut / name).unlink()
    shutil.rmtree(cut / "checkpoints" / "checkpoint-4")
    state = json.loads((cut / "run.json").read_text())
    (cut / "run.json").write_text(json.dumps({**state, "finished": False}))
    assert run(str(recipe), "--output_dir", str(cut), "--resume") == 0, capsys.readouterr().err
    first, second = (load_file(folder / "model.safetensors") for folder in (whole, cut))
    before = load_file(Path(trained) / "model.safetensors")
    assert all(torch.equal(weight, second[name]) for name, weight in first.items())
    assert any(not torch.equal(weight, before[name]) for name, weight in first.items())
    history = json.loads((whole / "history.json").read_text())
    assert sum("reward_kl" in entry for entry in history) == 4
    assert {"reward_token_f1", "reward_chrf"} <= {name for entry in history for name in entry}
