"""Pretraining from a recipe: weights and their schedule, each loss logged, mistakes found before any work."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import AutoModelForPreTraining

from plait import PlaitForClassification, PlaitForPreTraining, PlaitProcessor
from plait.configuration import PlaitVisionConfig
from plait.configuration.objectives import OBJECTIVES
from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.data.tokenizer import train_tokenizer
from plait.training.optimization.objective_schedule import interpolate_weight, parse_objective_weights
from plait.training.recipes.errors import RecipeError
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe, load_recipe
from plait.training.tasks.collator import PlaitDataCollator
from plait.training.tasks.registry import find_task

SHADES = {"red": 250, "green": 200, "blue": 150, "grey": 100, "black": 50}
TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
TEXT = {**TINY, "max_position_embeddings": 24}
MODEL = {
    "text": {"config": TEXT},
    "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
    "decoder": {"config": TEXT},
    "fusion_config": TINY,
}
ALL = {"contrastive": 1.0, "matching": [[0.0, 0.0], [0.5, 1.0]], "masked_lm": 1, "masked_image": 0.5, "captioning": 1}


@pytest.fixture
def pairs(tmp_path: Path) -> Path:
    """Squares with two captions each, a square without a caption and a caption without a square."""
    rows: list[dict[str, Any]] = []
    for name, shade in SHADES.items():
        Image.new("RGB", (16, 16), (shade, 255 - shade, 90)).save(tmp_path / f"{name}.png")
        rows.append({"text": [f"a {name} square", f"one that is {name}"], "image": str(tmp_path / f"{name}.png")})
    rows += [{"text": None, "image": rows[0]["image"]}, {"text": ["words alone"], "image": None}]
    file = tmp_path / "pairs.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def content(tmp_path: Path, pairs: Path) -> dict[str, Any]:
    """A recipe of all objectives over the twelve rows."""
    training = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 5e-3}
    training |= {"per_device_train_batch_size": 6, "num_train_epochs": 4, "logging_steps": 1}
    return {
        "task": "pretraining",
        "model": json.loads(json.dumps(MODEL)),
        "tokenizer": {"train": {"vocab_size": 320, "min_frequency": 1}},
        "data": {"source": {split: str(pairs) for split in ("train", "validation")}},
        "settings": {"objectives": json.loads(json.dumps(ALL))},
        "training": training,
        "output_dir": str(tmp_path / "run"),
    }


def test_every_loss_is_logged_measured_and_scheduled(content: dict[str, Any], tmp_path: Path) -> None:
    results = train(build_recipe(content), "plait train")
    history = json.loads((tmp_path / "run" / "history.json").read_text())
    steps = [entry for entry in history if "loss" in entry]
    assert len(steps) == 8
    others = [f"loss_{name}" for name in OBJECTIVES if name != "matching"]
    assert all(name in entry for entry in steps for name in others)
    assert "loss_matching" not in steps[0] and "loss_matching" in steps[-1]  # it begins with a weight of 0
    weights = {"contrastive": 1, "matching": 1, "masked_lm": 1, "masked_image": 0.5, "captioning": 1}
    first = sum(weights[name.removeprefix("loss_")] * steps[0][name] for name in others)
    last = sum(weight * steps[-1][f"loss_{name}"] for name, weight in weights.items())
    assert (steps[0]["loss"], steps[-1]["loss"]) == pytest.approx((first, last), rel=1e-3)
    measured = results["validation"]["model"]
    assert measured["loss"] == pytest.approx(sum(weight * measured[name] for name, weight in weights.items()))
    assert 0 <= measured["matching_accuracy"] <= 1
    model = AutoModelForPreTraining.from_pretrained(tmp_path / "run")
    assert isinstance(model, PlaitForPreTraining) and model.config.objectives == weights
    card = (tmp_path / "run" / "README.md").read_text()
    assert "PlaitForPreTraining" in card and "AutoModel.from_pretrained" in card and "matching_accuracy" in card


def test_a_pretrained_folder_is_fine_tuned_and_asked(content: dict[str, Any], tmp_path: Path) -> None:
    train(build_recipe(content), "plait train")
    recipe = load_model_recipe(str(tmp_path / "run"), {})
    rows = [{"text": "a red square", "image": str(tmp_path / f"{name}.png")} for name in ("red", "blue")]
    answers = list(predict(str(tmp_path / "run"), rows, recipe))
    assert all(0 < answer["match"] < 1 and -1 <= answer["similarity"] <= 1 for answer in answers)
    labelled = [{"image": str(tmp_path / f"{name}.png"), "label": str(shade > 120)} for name, shade in SHADES.items()]
    (tmp_path / "few.jsonl").write_text("".join(json.dumps(row) + "\n" for row in labelled))
    fine = {"task": "classification", "model": {"from_pretrained": str(tmp_path / "run")}, "metrics": ["accuracy"]}
    fine["data"] = {"source": str(tmp_path / "few.jsonl")}
    fine["training"] = {**content["training"], "learning_rate": 0.0, "num_train_epochs": 1}
    train(build_recipe({**fine, "output_dir": str(tmp_path / "fine")}), "plait train")
    before = PlaitForPreTraining.from_pretrained(tmp_path / "run").model.state_dict()
    after = PlaitForClassification.from_pretrained(tmp_path / "fine").model.state_dict()
    assert after and all(torch.equal(before[name], value) for name, value in after.items())


def test_a_run_goes_on_as_if_it_had_not_stopped(content: dict[str, Any], tmp_path: Path) -> None:
    """Weights of the schedule, masks and drawn negatives included."""
    content["training"] |= {"save_strategy": "steps", "save_steps": 3}
    train(build_recipe(content), "plait train")
    whole = AutoModelForPreTraining.from_pretrained(tmp_path / "run").state_dict()
    for folder in (tmp_path / "run" / "checkpoints").iterdir():
        if folder.name != "checkpoint-3":
            shutil.rmtree(folder)
    train(build_recipe(content), "plait train", resume=True)
    again = AutoModelForPreTraining.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(value, again[name]) for name, value in whole.items())


@pytest.fixture
def collator(content: dict[str, Any], tmp_path: Path) -> Callable[..., PlaitDataCollator]:
    tokenizer = train_tokenizer([f"a {name} square" for name in SHADES], 24, vocab_size=320, min_frequency=1)
    processor = PlaitProcessor.compose(text=tokenizer, image=PlaitVisionConfig(**MODEL["image"]["config"]))

    def make(**objectives: float) -> PlaitDataCollator:
        settings = {"objectives": objectives, "mlm_probability": 0.5}
        return PlaitDataCollator(processor, task="pretraining", settings=settings)

    return make


def test_a_batch_holds_what_its_objectives_learn_from(
    collator: Callable[..., PlaitDataCollator], tmp_path: Path
) -> None:
    rows = [{"text": f"a {name} square", "image": str(tmp_path / f"{name}.png")} for name in SHADES]
    batch = collator(contrastive=1.0, masked_lm=1.0, captioning=1.0)([*rows, {"text": None, "image": rows[0]["image"]}])
    hidden = batch["mlm_labels"] != -100
    assert torch.equal(batch["mlm_labels"][hidden], batch["input_ids"][hidden])
    assert torch.equal(batch["input_ids_masked"][~hidden], batch["input_ids"][~hidden])
    assert hidden.any() and not hidden[batch["attention_mask"] == 0].any()
    assert batch["image_indices"].tolist() == [[0], [1], [2], [3], [4], [0]]
    assert (batch["labels"][5] == -100).all() and (batch["labels"][:5] != -100).any(dim=1).all()
    again = collator(contrastive=1.0, masked_lm=1.0, captioning=1.0)([*rows, {"text": None, "image": rows[0]["image"]}])
    assert torch.equal(batch["input_ids_masked"], again["input_ids_masked"])
    assert "mlm_labels" not in collator(contrastive=1.0)(rows)


def test_weights_change_linearly_between_their_points() -> None:
    points = parse_objective_weights({"matching": [[0.2, 0.0], [0.6, 1.0], [0.6, 3.0], [1.0, 2.0]], "masked_lm": 1})[
        "matching"
    ]
    found = [interpolate_weight(points, progress) for progress in (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)]
    assert found == pytest.approx([0.0, 0.0, 0.5, 1.0, 2.5, 2.0])


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("settings.objectives", {"maching": 1}, "did you mean 'matching'"),
        ("settings.objectives", {"matching": -1}, "must not be negative"),
        ("settings.objectives", {"matching": "much"}, "expected a weight, or points"),
        ("settings.objectives", {"matching": [[0.5, 1], [0.2, 1]]}, "in ascending order"),
        ("settings.objectives", {"matching": [[0, 0], [0.5, 0], [1, 1]]}, "at 0 of the run nothing has a weight"),
        ("settings.objectives", {}, "names no objective"),
        ("settings.objective", {"matching": 1}, "did you mean 'objectives'"),
        ("settings.image_mask_ratio", 1.5, "image_mask_ratio is 1.5"),
        ("model.decoder", None, "model.decoder is missing"),
        ("model.image", None, "model.image is missing"),
        ("model.fusion", "late", "late fusion does not keep"),
        ("metrics", ["bleu"], "there is no metric 'bleu' here"),
        ("data.columns", {"text": "text"}, "data.columns has no image"),
        ("training.per_device_train_batch_size", 1, "leave one alone"),
        ("training.cache_features", ["text"], "the text inputs of the task pretraining cannot be cached"),
        ("training.per_device_train_batch_size", 11, "set dataloader_drop_last"),
    ],
)
def test_mistakes_are_found_before_any_work(content: dict[str, Any], key: str, value: Any, message: str) -> None:
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    with pytest.raises(RecipeError, match=message):
        train(build_recipe(content), "plait train")


def test_the_bundled_recipe_runs(content: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    changes = {
        "model": {**{name: MODEL[name] for name in ("text", "image", "fusion_config")}, "fusion": "cross_attention"},
        "tokenizer": content["tokenizer"],
        "data.source": str(tmp_path / "pairs.jsonl"),
        "data.validation_fraction": 0.5,
        "output_dir": str(tmp_path / "bundled"),
        "training.learning_rates": None,
        "training.max_steps": 2,
        "training.per_device_train_batch_size": 4,
        "training.use_cpu": True,
    }
    arguments = [text for key, value in changes.items() for text in (f"--{key}", json.dumps(value))]
    assert load_recipe("pretraining").task == "pretraining"
    assert main(["train", "pretraining", *arguments]) == 0
    assert "matching_accuracy" in capsys.readouterr().out


def test_frozen_towers_outputs_stand_for_their_inputs(content: dict[str, Any], tmp_path: Path) -> None:
    """The same losses with and without, equal texts told apart as before."""
    del content["model"]["decoder"]
    content["model"]["freeze"] = ["text"]
    content["settings"]["objectives"] = {"contrastive": 1.0, "matching": 1.0}
    content["training"] |= {"num_train_epochs": 2, "feature_cache_dir": str(tmp_path / "features")}
    logged = []
    for name, cached in (("plain", []), ("cached", ["text"])):
        content["training"]["cache_features"] = cached
        train(build_recipe({**content, "output_dir": str(tmp_path / name)}), "plait train")
        history = json.loads((tmp_path / name / "history.json").read_text())
        logged.append([entry["loss"] for entry in history if "loss" in entry])
    assert logged[0] == pytest.approx(logged[1], abs=1e-4)


def test_rows_of_texts_become_pairs(content: dict[str, Any]) -> None:

    data = Dataset.from_list(
        [{"text": ["a", "b"], "image": "x"}, {"text": None, "image": "y"}, {"text": ["c"], "image": None}]
    )
    made = find_task("pretraining").prepare(data, "train", None, None)
    assert made["text"] == ["a", "b", None, "c"] and made["image"] == ["x", "x", "y", None]
