"""Two processes train what one trains with the doubled batch."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from ..module_runner import run_module
from ..text_recipes import recipe_for

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
LAUNCHERS = {
    "torchrun": ["torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m"],
    "accelerate": "accelerate.commands.launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no --main_process_port 0 -m".split(),
}


@pytest.fixture
def recipe(tmp_path: Path, rows: list[dict[str, str]]) -> Path:
    """Eight questions, two of them without a picture; both in one batch, so that a process may see none at all."""
    chosen = [{**row, "image": None if number in (2, 3) else row["image"]} for number, row in enumerate(rows[:8])]
    (tmp_path / "data.jsonl").write_text("".join(json.dumps(row) + "\n" for row in chosen))
    content = {
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 24}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {split: str(tmp_path / "data.jsonl") for split in ("train", "test")}},
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "optim": "sgd",
            "learning_rate": 0.1,
            "logging_steps": 1,
            "num_train_epochs": 2,
            "feature_cache_dir": str(tmp_path / "features"),
        },
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def launch(launcher: list[str], recipe: Path, folder: Path, *arguments: str) -> None:
    run_module(*launcher, "plait", "train", str(recipe), "--output_dir", str(folder), *arguments)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("launcher", "settings"),
    [
        ("torchrun", {"train_sampling_strategy": "sequential", "gradient_checkpointing": True}),
        ("torchrun", {"share_images": True, "frozen": ["text"], "cache_features": ["text"]}),
        ("accelerate", {"share_images": True, "gradient_accumulation_steps": 2}),
    ],
)
def test_two_processes_equal_one_with_the_doubled_batch(
    recipe: Path, tmp_path: Path, launcher: str, settings: dict
) -> None:
    overrides = [text for key, value in settings.items() for text in (f"--training.{key}", json.dumps(value))]
    accumulated = settings.get("gradient_accumulation_steps", 1)
    launch([], recipe, tmp_path / "one", *overrides, "--training.per_device_train_batch_size", str(4 // accumulated))
    pair = tmp_path / "two"
    launch(
        LAUNCHERS[launcher], recipe, pair, *overrides, "--training.per_device_train_batch_size", str(2 // accumulated)
    )
    one, two = (load_file(folder / "model.safetensors") for folder in (tmp_path / "one", pair))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-6, msg=name)
    losses = [
        [entry["loss"] for entry in json.loads((folder / "history.json").read_text()) if "loss" in entry]
        for folder in (tmp_path / "one", pair)
    ]
    assert len(losses[0]) == 4
    assert losses[0] == pytest.approx(losses[1], abs=1e-5)
    scores = [json.loads((folder / "metrics.json").read_text())["test"]["model"] for folder in (tmp_path / "one", pair)]
    assert scores[0] == pytest.approx(scores[1], abs=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("translation", {"tokens_per_batch": 30, "label_smoothing_factor": 0.1}),
        ("question_answering", {"train_sampling_strategy": "sequential"}),
    ],
)
def test_two_processes_measure_what_one_does(
    tmp_path: Path, pictures: dict[str, Path], name: str, settings: dict
) -> None:
    """Texts are gathered from both, and no row counts twice, though the last round of batches is not full."""
    content = recipe_for(name, tmp_path, pictures, num_train_epochs=2, per_device_eval_batch_size=5, **settings)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    launch(LAUNCHERS["torchrun"], path, tmp_path / "two")
    launch(
        [],
        path,
        tmp_path / "one",
        "--model",
        f"{{from_pretrained: {tmp_path / 'two'}}}",
        "--tokenizer",
        "null",
        "--training.learning_rate",
        "0.0",
        "--training.max_steps",
        "1",
    )
    one, two = (json.loads((tmp_path / run / "metrics.json").read_text())["validation"] for run in ("one", "two"))
    assert one["model"] == pytest.approx(two["model"], rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_token_batches_of_two_processes_train_like_accumulated_ones(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """Two processes take two batches a step, as one does that accumulates; the number of batches is even here."""
    plain = {"optim": "sgd", "learning_rate": 0.05, "warmup_steps": 0, "lr_scheduler_type": "constant"}
    content = recipe_for("translation", tmp_path, pictures, num_train_epochs=2, tokens_per_batch=24, **plain)
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    launch(LAUNCHERS["torchrun"], path, tmp_path / "two")
    launch([], path, tmp_path / "one", "--training.gradient_accumulation_steps", "2")
    one, two = (load_file(tmp_path / run / "model.safetensors") for run in ("one", "two"))
    for name, value in one.items():
        torch.testing.assert_close(two[name], value, rtol=0, atol=1e-5, msg=name)
