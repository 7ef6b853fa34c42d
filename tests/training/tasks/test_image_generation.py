"""The task of image generation: from pictures and captions to a folder that draws."""

import json
import math
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from safetensors.torch import load_file

from plait import PlaitForImageGeneration, PlaitProcessor
from plait.training.data.inputs import collect_rows
from plait.training.data.loading import load_data
from plait.training.recipes.errors import RecipeError
from plait.training.runs.assembly import build_arguments
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import build_option_rows, predict
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import TrainingRun, build_run, train
from plait.training.tasks.registry import find_task

from ..module_runner import run_module

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
SIZES = {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
MakeRun = Callable[..., TrainingRun]


def write_pictures(folder: Path) -> list[dict[str, Any]]:
    """Pictures whose left half has a colour and whose right half is dark, with two captions each."""
    rows = []
    for number, (name, colour) in enumerate(COLOURS.items()):
        for shade in range(2):
            pixels = np.full((8, 8, 3), 20 * shade, dtype=np.uint8)
            pixels[:, :4] = colour
            path = folder / f"{name}-{shade}.png"
            Image.fromarray(pixels).save(path)
            texts = [f"a {name} square", f"{'one two three'.split()[number]} {name}"]
            rows += [{"text": text, "target_image": path.name, "colour": name} for text in texts]
    return rows


def recipe_in(folder: Path, rows: list[dict[str, Any]] | None = None, **changes: Any) -> dict[str, Any]:
    """A tiny recipe as plain values, with dotted changes."""
    file = folder / "rows.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows or write_pictures(folder)))
    content: dict[str, Any] = {
        "task": "image_generation",
        "model": {"text": {"config": {**TEXT, "initializer_range": 0.2}}, "freeze": ["text"], "options": {**SIZES}},
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {split: str(file) for split in ("train", "validation")}},
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "probe_products": False,
            "save_strategy": "no",
            "optim": "muon",
            "learning_rate": 5e-3,
            "per_device_train_batch_size": 6,
            "per_device_eval_batch_size": 5,
            "max_steps": 4,
            "feature_cache_dir": str(folder / "features"),
        },
        "settings": {"num_inference_steps": 2, "grid_images": 3, "image_folder": str(folder / "drawn")},
        "output_dir": str(folder / "run"),
    }
    for key, value in changes.items():
        *path, last = key.split("__")
        place = content
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return content


@pytest.fixture
def make(tmp_path: Path) -> MakeRun:
    """A run that is built and not trained."""

    def build(**changes: Any) -> TrainingRun:
        recipe = build_recipe(recipe_in(tmp_path, **changes))
        folder = tmp_path / "built"
        folder.mkdir(exist_ok=True)
        return build_run(recipe, folder, build_arguments(recipe, folder / "checkpoints"))

    return build


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained model, only to be read."""
    folder = tmp_path_factory.mktemp("trained")
    changes = {"training__eval_strategy": "steps", "training__eval_steps": 2, "training__average_decay": 0.9}
    train(build_recipe(recipe_in(folder, settings__flip=True, **changes)), "plait train")
    return folder


def test_a_trained_folder_loads_and_measures_the_same(finished: Path) -> None:
    run = finished / "run"
    model, processor = PlaitForImageGeneration.from_pretrained(run), PlaitProcessor.from_pretrained(run)
    images = processor(target_images=[finished / "red-0.png"], return_tensors="pt")["target_pixel_values"]
    assert images.shape == (1, *(model.config.denoiser_config.num_channels, 8, 8))
    recorded = json.loads((run / "metrics.json").read_text())["validation"]["model"]
    assert set(recorded) == {"loss", "image_mse"}
    assert evaluate(str(run), load_model_recipe(str(run), {})) == pytest.approx(recorded, rel=1e-5)
    assert "from plait import PlaitForImageGeneration\n" in (run / "README.md").read_text()


def test_a_grid_is_drawn_at_every_evaluation(finished: Path) -> None:
    grids = sorted(path.name for path in (finished / "run" / "images").iterdir())
    assert grids == ["step-000002.png", "step-000004.png"]
    assert Image.open(finished / "run" / "images" / grids[0]).width > 3 * 8


def test_a_grid_goes_to_the_loggers(make: MakeRun, monkeypatch: pytest.MonkeyPatch) -> None:
    """wandb is not installed here: a stand-in for the module records what it gets."""
    sent: list[dict[str, Any]] = []
    wandb = SimpleNamespace(log=sent.append, Image=np.asarray)
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    run = make()
    run.trainer.args.report_to = ["wandb"]
    run.trainer.evaluate()
    (grid,) = (Path(str(run.recipe.output_dir)) / "images").iterdir()
    assert np.array_equal(sent[0]["images"], np.asarray(Image.open(grid))) and sent[0]["train/global_step"] == 0


def test_a_grid_shows_the_weights_that_are_measured(make: MakeRun) -> None:
    """Those of the average, whose pictures are drawn again from the saved folder."""
    run = make(training__average_decay=0.9, training__eval_strategy="steps", training__eval_steps=4)
    run.trainer.train()
    (grid,) = (Path(str(run.recipe.output_dir)) / "images").iterdir()
    before = np.asarray(Image.open(grid))
    grid.unlink()
    run.trainer.remove_callback(type(run.trainer.weight_averaging))  # the weights are the average by now
    run.trainer.weight_averaging = None
    next(each for each in run.trainer.callback_handler.callbacks if hasattr(each, "last_step")).last_step = None
    run.trainer.evaluate()
    assert np.array_equal(np.asarray(Image.open(grid)), before)


def test_predictions_are_files(finished: Path, tmp_path: Path) -> None:
    recipe = load_model_recipe(str(finished / "run"), {"settings.image_folder": str(tmp_path / "drawn")})
    rows = build_option_rows(find_task("image_generation"), {"text": ["a red square", "two green"]})
    first, second = (list(predict(str(finished / "run"), rows, recipe)) for _ in range(2))
    assert first == second
    for row, answer in zip(rows, first, strict=True):
        path = Path(answer["generated_image"])
        assert path.parent == tmp_path / "drawn" and path.name.startswith(row["text"].replace(" ", "-"))
        assert Image.open(path).size == (8, 8)


def test_the_loss_of_an_evaluation_is_the_mean_over_the_rows(make: MakeRun) -> None:
    """Whatever the batches; with the noise of each row's own picture."""
    run = make()
    rows = collect_rows(run.data.validation)
    with torch.no_grad():
        losses = [float(run.model(**run.trainer.data_collator([row])).loss) for row in rows]
    for size in (1, 5, 12):
        run.trainer.args.per_device_eval_batch_size = size
        assert run.trainer.evaluate()["eval_loss"] == pytest.approx(math.fsum(losses) / len(losses), rel=1e-5)


@pytest.mark.parametrize("prediction", ["image", "velocity"])
def test_the_error_of_the_image_by_hand(make: MakeRun, prediction: str) -> None:
    run = make(model__options={**SIZES, "denoiser_config": {"prediction": prediction}})
    torch.nn.init.normal_(run.model.get_submodule("denoiser.output_proj").weight, std=0.3)
    batch = run.trainer.data_collator(collect_rows(run.data.validation))
    model: Any = run.model
    images = batch["target_pixel_values"]
    times, noise = model.complete_noise(images, None, None)
    with torch.no_grad():
        found = model(**batch).prediction
    t = times[:, None, None, None]
    image = found if prediction == "image" else t * images + (1 - t) * noise + (1 - t) * found
    assert run.trainer.evaluate()["eval_image_mse"] == pytest.approx(float((image - images).square().mean()), rel=1e-5)


def test_targets_are_mirrored_only_in_training_and_if_asked_for(make: MakeRun) -> None:
    plain, flipping = make(), make(settings__flip=True)
    rows = collect_rows(plain.data.train)
    images = plain.trainer.data_collator(rows)["target_pixel_values"]
    assert torch.equal(plain.trainer.data_collator.build_training_batch(rows)["target_pixel_values"], images)
    collator: Any = flipping.trainer.data_collator
    assert torch.equal(collator(rows)["target_pixel_values"], images)
    seen = []
    for epoch in range(4):
        collator.set_epoch(epoch)
        whole = collator.build_training_batch(rows)["target_pixel_values"]
        parts = [collator.build_training_batch(rows[part : part + 5])["target_pixel_values"] for part in (0, 5, 10)]
        assert torch.equal(torch.cat(parts), whole)
        kept = (whole == images).flatten(1).all(dim=1)
        mirrored = (whole == images.flip(-1)).flatten(1).all(dim=1)
        assert (kept != mirrored).all()
        seen.append(mirrored)
    assert 0.2 < torch.stack(seen).float().mean() < 0.8
    assert len({tuple(each.tolist()) for each in seen}) > 1


@pytest.mark.parametrize("cached", [[], ["text"]])
def test_conditions_are_standardized_before_the_first_step(make: MakeRun, cached: list[str]) -> None:
    run = make(training__cache_features=cached, training__max_steps=1)
    model: Any = run.model
    run.trainer.train()
    tokens = []
    for row in collect_rows(run.data.train):
        inputs = run.processor(text=[row["text"]], return_tensors="pt")
        with torch.no_grad():
            tokens.append(model.model.towers["text"].eval()(**inputs).last_hidden_state[0])
    every = torch.cat(tokens)
    torch.testing.assert_close(model.condition_scale.mean, every.mean(0), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(model.condition_scale.std, every.std(0, correction=0), atol=1e-4, rtol=1e-4)


def test_a_standardized_model_keeps_its_scale(finished: Path, make: MakeRun) -> None:
    run = make(model={"from_pretrained": str(finished / "run")}, tokenizer=None, training__max_steps=1)
    before = run.model.get_buffer("condition_scale.mean").clone()
    assert before.any()
    run.trainer.train()
    assert torch.equal(run.model.get_buffer("condition_scale.mean"), before)
    off = make(settings__standardize_rows=0, training__max_steps=1)
    off.trainer.train()
    assert not off.model.get_buffer("condition_scale.mean").any()


def test_a_resumed_run_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """With Muon, the average, mirrored pictures, hidden conditions and cached features."""
    training = {"save_strategy": "steps", "save_steps": 3, "average_decay": 0.9, "cache_features": ["text"]}
    changes = {f"training__{name}": value for name, value in {**training, "max_steps": 5}.items()}
    recipe = build_recipe(recipe_in(tmp_path, settings__flip=True, **changes))
    train(recipe, "plait train")
    run = tmp_path / "run"
    expected = load_file(run / "model.safetensors")
    (run / "model.safetensors").unlink()
    shutil.rmtree(run / "checkpoints" / "checkpoint-5")
    train(recipe, "plait train", resume=True)
    found = load_file(run / "model.safetensors")
    assert all(torch.equal(found[name], expected[name]) for name in expected)


def train_weights(make: MakeRun, **training: Any) -> dict[str, torch.Tensor]:
    """The weights after four steps of plain gradient descent."""
    options = {"optim": "sgd", "learning_rate": 0.05, **training}
    run = make(**{f"training__{name}": value for name, value in options.items()})
    run.trainer.train()
    return {name: value.detach().clone() for name, value in run.model.named_parameters()}


def test_checkpointing_and_mixed_precision(make: MakeRun) -> None:
    """Recomputed activations change nothing, bfloat16 products little."""
    plain = train_weights(make)
    again = train_weights(make, gradient_checkpointing=True)
    mixed = train_weights(make, bf16=True)
    moved = max(float(value.abs().max()) for name, value in plain.items() if name == "denoiser.output_proj.weight")
    assert moved > 1e-3
    for name, value in plain.items():
        torch.testing.assert_close(again[name], value, atol=1e-6, rtol=1e-5, msg=name)
        assert mixed[name].dtype == torch.float32
        torch.testing.assert_close(mixed[name], value, atol=2e-3, rtol=0.05, msg=name)
    assert any(not torch.equal(mixed[name], plain[name]) for name in plain)


def test_a_step_with_nan_is_an_error(make: MakeRun) -> None:
    run = make(training__max_grad_norm=0.5)
    with torch.no_grad():
        run.model.get_parameter("denoiser.output_proj.bias").fill_(torch.nan)
    message = r"the loss of step 1 is nan \(rows .* of the training data\): lower learning_rate \(0.005\)"
    with pytest.raises(ValueError, match=message):
        run.trainer.train()


MISTAKES = {
    "a size of no patches": ({"model__options": {**SIZES, "image_size": 10}}, "image_size 10 is no multiple"),
    "a large batch": ({"training__per_device_train_batch_size": 13}, "12 images are fewer than a batch of 13"),
    "guidance": (
        {
            "model__options": {**SIZES, "denoiser_config": {"condition_dropout": 0}},
            "settings__guidance_scale": 2.0,
        },
        "settings.guidance_scale is 2.0, which needs .* but condition_dropout is 0",
    ),
    "an interval": ({"settings__guidance_interval": [0.5, 0.2]}, r"settings.guidance_interval is \[0.5, 0.2\]"),
    "a metric": ({"metrics": ["bleu"]}, "no metric 'bleu' of image generation"),
    "a setting": ({"settings__flips": True}, "settings has no key 'flips'; did you mean 'flip'"),
    "no steps": ({"settings__num_inference_steps": 0}, "num_inference_steps is 0: expected at least 1"),
    "generation": ({"generation": {"num_beams": 2}}, "the task image_generation generates nothing"),
    "another size": ({"processor": {"target_image_size": 16}}, r"target_image_size is \[16, 16\] with 3 channels"),
    "no target": ({"data__columns": {"text": "text"}}, "needs a column for target_image"),
    "no condition": ({"data__columns": {"target_image": "target_image"}}, "needs a column for text or image"),
    "an unknown column": ({"data__leave_out": {"color": ["red"]}}, "data.leave_out: 'train' has no column 'color'"),
    "an unknown value": ({"data__leave_out": {"colour": ["pink"]}}, "no row of 'train' has 'pink'"),
    "nothing left": ({"data__leave_out": {"colour": [*COLOURS]}}, "leaves no row of 'train'"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes(make: MakeRun, name: str) -> None:
    changes, message = MISTAKES[name]
    with pytest.raises(RecipeError, match=message):
        make(**changes)


def test_texts_as_prompts_need_a_text_tower(make: MakeRun) -> None:
    with pytest.raises(RecipeError, match="settings.prompts are texts, but the model reads none"):
        make(model__text=None, model__image={"config": {**SIZES}}, settings__prompts=["a"])


def test_captions_without_pictures(make: MakeRun, tmp_path: Path) -> None:
    rows = write_pictures(tmp_path)
    rows[4]["target_image"] = None
    with pytest.raises(RecipeError, match=r"row 4 of 'train' has no target_image \(1 of 12 rows"):
        make(rows=rows)


@pytest.mark.parametrize("kept", ["check", "skip"])
def test_unreadable_pictures(make: MakeRun, tmp_path: Path, kept: str) -> None:
    rows = write_pictures(tmp_path)
    (tmp_path / "broken.png").write_bytes(b"no picture")
    rows[2]["target_image"], rows[7]["target_image"] = "broken.png", "missing.png"
    if kept == "skip":
        run = make(rows=rows, data__on_error="skip")
        assert run.data.left_out == {"train": 2, "validation": 2} and len(run.data.train or ()) == 10
        return
    message = "2 of 12 rows of 'train' cannot be read: row 2: .*is not a readable image.*; row 7: there is no file"
    with pytest.raises(RecipeError, match=message):
        make(rows=rows, data__on_error="check")


def test_rows_are_left_out_of_training_alone(make: MakeRun) -> None:
    run = make(data__leave_out={"colour": ["red", "blue"]}, training__per_device_train_batch_size=4)
    assert [len(run.data.splits[split]) for split in ("train", "validation")] == [4, 12]


def test_captions_of_one_picture_stay_in_one_split(tmp_path: Path) -> None:
    content = recipe_in(tmp_path, data__validation_fraction=0.4)
    content["data"]["source"] = content["data"]["source"]["train"]
    recipe = build_recipe(content)
    data = load_data(recipe.data, needs_labels=False, roles=find_task("image_generation").roles)
    shown = [set(data.splits[split]["target_image"]) for split in ("train", "validation")]
    assert all(shown) and not shown[0] & shown[1]


def test_a_grey_target_and_another_modality(make: MakeRun, tmp_path: Path) -> None:
    """A picture of a picture: the image tower is the condition."""
    image = {"config": {**SIZES, "initializer_range": 0.2}}
    write_pictures(tmp_path)
    run = make(
        model={"image": image, "options": {**SIZES, "denoiser_config": {"num_channels": 1}}},
        tokenizer=None,
        data__columns={"image": "target_image"} | {"target_image": "copy"},
        rows=[{"target_image": f"{name}-0.png", "copy": f"{name}-1.png"} for name in COLOURS] * 4,
    )
    run.trainer.train()
    batch = run.trainer.data_collator(collect_rows(run.data.train)[:2])
    assert batch["target_pixel_values"].shape == (2, 1, 8, 8) and batch["pixel_values"].shape == (2, 3, 8, 8)


@pytest.mark.slow
def test_two_processes_train_and_measure(tmp_path: Path) -> None:
    """Their weights are equal; what they measure together is what one process measures, though the last round of
    batches is not full."""
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_in(tmp_path, training__cache_features=["text"])))
    launcher = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2", "-m")
    run_module(*launcher, "plait", "train", str(path))
    run = tmp_path / "run"
    recorded = json.loads((run / "metrics.json").read_text())["validation"]["model"]
    assert evaluate(str(run), load_model_recipe(str(run), {})) == pytest.approx(recorded, rel=1e-5)
