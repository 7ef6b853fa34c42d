"""A command in several processes: what accelerate is told, and that sharded training is that of one process."""

import json
from pathlib import Path
from shutil import copytree, rmtree

import pytest
import torch
import yaml
from safetensors.torch import load_file

from plait.training.cli import main
from plait.training.cli.options import LAUNCH_FLAGS
from plait.training.commands.launch import drop_flags
from plait.training.launching.launch import LaunchPlan, find_config, format_plan
from plait.training.recipes.errors import RecipeError

from ..module_runner import run_module

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}


@pytest.mark.parametrize("name", ["ddp", "fsdp2"])
def test_shipped_configurations_are_read_by_accelerate(name: str) -> None:
    from accelerate.commands.config.config_args import load_config_from_file

    config = load_config_from_file(str(find_config(name)))
    assert config.distributed_type == {"ddp": "MULTI_GPU", "fsdp2": "FSDP"}[name]


def test_machines_are_told_apart() -> None:
    plan = LaunchPlan("fsdp2", processes=8, machines=2, machine_rank=1, main_address="10.0.0.1:29501")
    given = format_plan(plan)
    told = dict(zip(given[::2], given[1::2], strict=True))
    assert told["--num_processes"] == "8" and told["--num_machines"] == "2" and told["--machine_rank"] == "1"
    assert (told["--main_process_ip"], told["--main_process_port"]) == ("10.0.0.1", "29501")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (LaunchPlan("dpd", 2), "--launch dpd: choose ddp, fsdp2, zero2, zero3"),
        (LaunchPlan("ddp", 7, machines=2, main_address="a:1"), "--processes 7 cannot be spread over --machines 2"),
        (LaunchPlan("ddp", 8, machines=2), "needs --main_address HOST:PORT"),
        (LaunchPlan("ddp", 8, machines=2, main_address="a:b"), "--main_address a:b: expected HOST:PORT"),
        (LaunchPlan("ddp", 8, machines=2, machine_rank=2), "--machine_rank 2 of --machines 2: expected 0 to 1"),
    ],
)
def test_a_plan_that_cannot_be_followed_is_named(plan: LaunchPlan, message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        format_plan(plan)


def test_processes_get_the_command_without_its_launch() -> None:
    line = "train r.yaml --launch=ddp --processes 2 --seed 3 --machines 1 --training.bf16 true".split()
    assert drop_flags(line, LAUNCH_FLAGS) == "train r.yaml --seed 3 --training.bf16 true".split()


def write_recipe(folder: Path, rows: list[dict[str, str]]) -> Path:
    """Eight questions, two of them without an image; both in one batch, so that a process has none at all."""
    chosen = [{**row, "image": None if number in (2, 3) else row["image"]} for number, row in enumerate(rows[:8])]
    (folder / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    content = {
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 24}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {split: str(folder / "data.jsonl") for split in ("train", "test")}},
        "training": {"disable_tqdm": True, "learning_rate": 0.1, "logging_steps": 1, "num_train_epochs": 2}
        | {"optim": "sgd"}  # Adam's steps of a gradient of zero (a bias of keys) follow its rounding
        | {"train_sampling_strategy": "sequential", "save_strategy": "steps", "save_steps": 2},
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def compare_weights(one: Path, two: Path, atol: float) -> None:
    ours, theirs = load_file(one / "model.safetensors"), load_file(two / "model.safetensors")
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(theirs[name], value, rtol=0, atol=atol, msg=name)


@pytest.mark.slow
def test_shards_of_two_processes_train_like_one_and_become_a_plain_folder(
    tmp_path: Path, rows: list[dict[str, str]]
) -> None:
    """One process has a batch without images; the checkpoint is resumed."""
    recipe = str(write_recipe(tmp_path, rows))
    one, two, resumed, plain = (tmp_path / name for name in ("one", "two", "resumed", "plain"))
    whole = ["--training.per_device_train_batch_size", "4"]
    assert main(["train", recipe, "--output_dir", str(one), *whole]) == 0
    half = ["--training.per_device_train_batch_size", "2"]
    sharded = ["plait", "train", recipe, "--launch", "fsdp2", "--output_dir"]
    run_module(*sharded, str(two), "--processes", "2", *half)
    compare_weights(one, two, 1e-6)
    copytree(two, resumed)
    rmtree(resumed / "checkpoints" / "checkpoint-4")
    run_module(*sharded, str(resumed), "--processes", "2", "--resume", *half)
    compare_weights(two, resumed, 1e-6)
    assert main(["consolidate", str(two), str(plain)]) == 0
    compare_weights(two, plain, 0.0)
    assert main(["consolidate", str(two), str(plain)]) == 2
    assert main(["consolidate", str(one), str(tmp_path / "other")]) == 2
    assert json.loads((plain / "config.json").read_text())["architectures"] == ["PlaitForClassification"]


@pytest.mark.slow
@pytest.mark.parametrize("batch", [{"per_device_train_batch_size": 2}, {"tokens_per_batch": 24}])
def test_a_stream_of_two_processes_is_resumed_to_the_bit(
    tmp_path: Path, rows: list[dict[str, str]], batch: dict[str, int]
) -> None:
    """Each process continues where it was: the weights are those of a run that was never stopped."""
    path = write_recipe(tmp_path, rows)
    content = yaml.safe_load(path.read_text())
    lines = (tmp_path / "data.jsonl").read_text().splitlines(keepends=True)
    for shard in range(2):
        (tmp_path / f"train-{shard}.jsonl").write_text("".join(lines[shard::2]))
    content["data"] = {"source": {"train": str(tmp_path / "train-*.jsonl"), "test": str(tmp_path / "data.jsonl")}}
    content["data"] |= {"stream": 3, "labels": sorted({row["label"] for row in rows})}
    for key in ("num_train_epochs", "train_sampling_strategy"):
        del content["training"][key]
    content["training"] |= {"max_steps": 7, "save_steps": 3, **batch}
    path.write_text(yaml.safe_dump(content))
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    command = ["plait", "train", str(path), "--launch", "ddp", "--processes", "2", "--output_dir"]
    run_module(*command, str(whole))
    places = [json.loads((whole / "checkpoints/checkpoint-6" / f"stream_{rank}.json").read_text()) for rank in (0, 1)]
    assert all(place["processes"] == 2 and place["place"]["reading"] > 0 for place in places)
    copytree(whole, resumed)
    for step in (6, 7):
        rmtree(resumed / "checkpoints" / f"checkpoint-{step}")
    before = load_file(whole / "model.safetensors")
    (resumed / "model.safetensors").unlink()
    run_module(*command, str(resumed), "--resume")
    for name, value in load_file(resumed / "model.safetensors").items():
        assert torch.equal(value, before[name]), name
