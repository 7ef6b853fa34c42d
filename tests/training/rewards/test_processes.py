"""Rewards in two processes: the same weights as in one where that is defined, and an exact resumption."""

import json
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file

from plait.training.cli import main

from ..module_runner import run_module
from ..text_recipes import recipe_for


@pytest.fixture
def begun(tmp_path: Path, pictures: dict[str, Path]) -> dict[str, Any]:
    """A recipe of rewards over a trained captioner, with eight rows."""
    content = recipe_for("captioning", tmp_path, pictures, num_train_epochs=8)
    content |= {"generation": {"max_new_tokens": 6, "do_sample": False}, "report": False}
    rows = [{"image": str(path), "target": f"a {name} square"} for name, path in pictures.items()]
    file = Path(content["data"]["source"]["train"])
    file.write_text("".join(json.dumps(row) + "\n" for row in (rows * 3)[:8]))
    assert run(content, tmp_path / "start", tmp_path) == 0
    steps = {"save_strategy": "steps", "save_steps": 2, "max_steps": 4, "logging_steps": 1, "optim": "sgd"}
    steps |= {"train_sampling_strategy": "sequential", "probe_products": False, "learning_rate": 0.1, "warmup_steps": 0}
    content |= {"model": {"from_pretrained": str(tmp_path / "start")}, "tokenizer": None}
    return content | {"training": {**content["training"], **steps}}


def run(content: dict[str, Any], output: Path, folder: Path) -> int:
    return main(["train", str(write(content, folder)), "--output_dir", str(output)])


def write(content: dict[str, Any], folder: Path) -> Path:
    file = folder / "recipe.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


@pytest.mark.slow
def test_two_processes_learn_what_one_does(begun: dict[str, Any], tmp_path: Path) -> None:
    """The rewards of the candidates of a beam search, in which nothing is random."""
    begun["reward"] = {"metrics": {"token_f1": 1.0}, "samples": 2, "objective": "minimum_risk"}
    begun["training"]["per_device_train_batch_size"] = 4
    assert run(begun, tmp_path / "one", tmp_path) == 0
    begun["training"]["per_device_train_batch_size"] = 2
    command = ["plait", "train", str(write(begun, tmp_path)), "--launch", "ddp", "--processes", "2", "--output_dir"]
    run_module(*command, str(tmp_path / "two"))
    before, one, two = (weights_of(tmp_path / name) for name in ("start", "one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=name)
    assert max(float((one[name] - before[name]).abs().max()) for name in one) > 1e-3
    logged = [json.loads((tmp_path / name / "history.json").read_text()) for name in ("one", "two")]
    rewards = [[entry["reward"] for entry in history if "reward" in entry] for history in logged]
    assert rewards[0] == pytest.approx(rewards[1], abs=1e-5) and len(rewards[0]) == 4


@pytest.mark.slow
def test_samples_of_two_processes_are_resumed_to_the_bit(begun: dict[str, Any], tmp_path: Path) -> None:
    begun["reward"] = {"metrics": {"token_f1": 1.0}, "samples": 2, "kl": 0.1, "cross_entropy": 0.1}
    begun["training"]["per_device_train_batch_size"] = 2
    command = ["plait", "train", str(write(begun, tmp_path)), "--launch", "ddp", "--processes", "2", "--output_dir"]
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    run_module(*command, str(whole))
    copytree(whole, resumed)
    rmtree(resumed / "checkpoints" / "checkpoint-4")
    (resumed / "model.safetensors").unlink()
    run_module(*command, str(resumed), "--resume")
    expected = weights_of(whole)
    assert all(torch.equal(value, expected[name]) for name, value in weights_of(resumed).items())
