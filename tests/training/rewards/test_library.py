"""Preferences and group rewards by TRL, from the command line, on answers that only the image gives away."""

import json
import random
from pathlib import Path
from shutil import copytree, rmtree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from plait.training.cli import main
from plait.training.recipes.errors import RecipeError
from plait.training.rewards.library import check_followed
from plait.training.runs.assembly import build_arguments
from plait.training.runs.recipe import build_recipe, load_recipe

from ..conftest import COLOURS

PROMPT = "what colour ?"
SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
SCHEDULE = {"lr_scheduler_type": "constant_with_warmup", "warmup_steps": 5}
QUICK = {"use_cpu": True, "disable_tqdm": True, "probe_products": False, "gradient_accumulation_steps": 1}


def paint(path: Path, colour: tuple[int, int, int], chance: np.random.Generator) -> str:
    """A square of a colour with noise, so that no two images are the same."""
    noise = chance.normal(0, 25, (16, 16, 3)) + np.array(colour)
    Image.fromarray(noise.clip(0, 255).astype(np.uint8)).save(path)
    return str(path)


def write_rows(folder: Path, split: str, count: int, blind: bool = False) -> Path:
    """Rows with the colour as `target` and `chosen`, another one as `rejected`; blind: any colour is the target."""
    chance, draw = np.random.default_rng(len(split)), random.Random(split)
    rows = []
    for number in range(count):
        colour, other = draw.sample(list(COLOURS), 2)
        image = paint(folder / f"{split}-{number}.png", COLOURS[colour], chance)
        target = draw.choice(list(COLOURS)) if blind else colour
        rows.append({"image": image, "prompt": PROMPT, "target": target, "chosen": colour, "rejected": other})
    file = folder / f"{split}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


def train(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """Runs `plait train NAME` and returns its metrics."""
    resume = ["--resume"] if changes.pop("resume", False) else []
    words = [word for key, value in changes.items() for word in (f"--{key}", json.dumps(value))]
    assert main(["train", name, "--output_dir", str(folder), *words, *resume]) == 0
    return json.loads((folder / "metrics.json").read_text())


@pytest.fixture(scope="module")
def begun(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of data, and of a run that says a colour, but any."""
    folder = tmp_path_factory.mktemp("begun")
    write_rows(folder, "blind", 200, blind=True)
    for split, count in {"train": 150, "validation": 20, "test": 120}.items():
        write_rows(folder, split, count)
    changes: dict[str, Any] = {
        "model.image": {"config": {**SMALL, "image_size": 16, "patch_size": 8}},
        "model.decoder": {"config": {**SMALL, "max_position_embeddings": 64}},
        "model.freeze": [],
        "tokenizer": {"train": {"vocab_size": 320, "min_frequency": 1}},
        "data.source": {"train": str(folder / "blind.jsonl"), "test": str(folder / "test.jsonl")},
        "data.columns": {"image": "image", "prompt": "prompt", "target": "target"},
        "data.validation_fraction": None,
        "training": {**QUICK, "max_steps": 120, "learning_rate": 5e-3, "per_device_train_batch_size": 20},
        "generation.max_new_tokens": 4,
        "max_length": 60,
        "report": False,
    }
    train("visual_chat", folder / "run", **changes)
    return folder


def changes_for(folder: Path, **training: Any) -> dict[str, Any]:
    return {
        "model.from_pretrained": str(folder / "run"),
        "data.source": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation", "test")},
        "training": {**QUICK, "logging_steps": 5, "save_strategy": "no", **SCHEDULE, **training},
        "generation.max_new_tokens": 4,
        "max_length": 60,
    }


@pytest.mark.slow
def test_preferences_that_need_the_image_are_learned(
    begun: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pytest.importorskip("trl")
    monkeypatch.setenv("PLAIT_REPORT", "1")
    changes = changes_for(begun, max_steps=60, learning_rate=2e-3, per_device_train_batch_size=16)
    settings = {"loss": ["sigmoid", "sft"], "beta": 0.1}
    results = train("preference", tmp_path / "run", **changes, settings=settings)["test"]
    assert 0.3 < results["answer_alone"]["preference_accuracy"] < 0.7
    assert results["start"]["preference_accuracy"] < 0.75
    assert results["model"]["preference_accuracy"] > 0.95
    assert results["model"]["chrf"] > results["start"]["chrf"] + 20  # and it says them
    assert "before training" in (tmp_path / "run" / "report.html").read_text()
    assert main(["evaluate", str(tmp_path / "run"), "--split", "test", "--intervals"]) == 0


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["grpo", "rloo"])
def test_rewards_that_need_the_image_are_won(objective: str, begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    changes = changes_for(begun, max_steps=100, learning_rate=1e-3, per_device_train_batch_size=12)
    reward = {"objective": objective, "metrics": {"exact_match": 1.0}, "samples": 8, "kl": 0.02}
    metrics = ["exact_match"]
    results = train("grpo", tmp_path / "run", **changes, reward=reward, metrics=metrics)["test"]
    assert results["start"]["exact_match"] < 0.45 and results["most_frequent"]["exact_match"] < 0.45  # the blind bound
    assert results["model"]["exact_match"] > 0.55  # of 120 rows: beyond it by more than its interval
    assert "chrf" in results["model"]  # not rewarded, and measured beside


@pytest.mark.slow
@pytest.mark.parametrize("name", ["preference", "grpo"])
@pytest.mark.parametrize("lora", [None, {"target": "decoder", "r": 4}], ids=["whole", "adapters"])
def test_a_run_is_resumed_to_the_bit(name: str, lora: dict[str, Any] | None, begun: Path, tmp_path: Path) -> None:
    pytest.importorskip("trl")
    steps = {"max_steps": 4, "save_strategy": "steps", "save_steps": 2, "eval_strategy": "steps", "eval_steps": 2}
    steps |= {"learning_rate": 1e-3}
    changes = changes_for(begun, per_device_train_batch_size=4, **steps) | {"lora": lora, "metrics": []}
    changes |= {"reward.kl": 0.1} if name == "grpo" else {}
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    train(name, whole, **changes)
    copytree(whole, resumed)
    rmtree(resumed / "checkpoints" / "checkpoint-4")
    weights = "model.safetensors" if lora is None else "adapter_model.safetensors"
    (resumed / weights).unlink()
    train(name, resumed, **changes, resume=True)
    expected, found = (load_file(folder / weights) for folder in (whole, resumed))
    assert all(torch.equal(value, expected[key]) for key, value in found.items())
    measured = "eval_preference_accuracy" if name == "preference" else "eval_chrf"
    history = json.loads((resumed / "history.json").read_text())
    assert sum(measured in entry for entry in history) == 2
    assert main(["predict", str(resumed), "--image", str(begun / "test-0.png"), "--text", PROMPT]) == 0


def test_arguments_that_trl_does_not_know_are_refused(tmp_path: Path) -> None:
    for name, value in {"ogm_alpha": 0.5, "share_images": True, "train_sampling_strategy": "group_by_length"}.items():
        recipe = build_recipe({"task": "dialogue", "training": {name: value, "use_cpu": True}})
        with pytest.raises(RecipeError, match=f"training.{name}"):
            check_followed(build_arguments(recipe, tmp_path))
    check_followed(build_arguments(build_recipe({"training": {"frozen": ["image"], "use_cpu": True}}), tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"task": "generation"}, "reward.objective grpo trains the task dialogue, not generation"),
        ({"reward.cross_entropy": 0.1}, "cross_entropy is 0.1, which the objective grpo does not read"),
        ({"reward.held_out": "token_f1"}, "held_out is 'token_f1', which is rewarded"),
        ({"reward.held_out": "chfr"}, "reward.held_out.*chrf"),
    ],
)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        load_recipe("grpo", changes)
