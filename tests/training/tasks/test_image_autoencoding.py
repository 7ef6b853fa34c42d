"""The task of training an autoencoder: from pictures to a folder on whose latents images are generated."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image

from plait import PlaitForImageAutoencoding, PlaitForImageGeneration, PlaitProcessor
from plait.training.metrics.image_autoencoding import compute_psnr
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import find_recipe
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import load_recipe
from plait.training.runs.train import train

SHORT: dict[str, Any] = {"training.use_cpu": True, "training.disable_tqdm": True, "training.save_strategy": "no"}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
SIZES = {"image_size": 16, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """Files of 60 different images of four coloured squares, 16 pixels."""
    folder = tmp_path_factory.mktemp("images")
    colours = np.random.default_rng(0).integers(0, 256, (60, 2, 2, 3), dtype=np.uint8)
    for number, image in enumerate(colours.repeat(8, axis=1).repeat(8, axis=2)):
        Image.fromarray(image).save(folder / f"{number}.png")
    return sorted(map(str, folder.iterdir()))


def changes_in(folder: Path, images: list[str], **changes: Any) -> dict[str, Any]:
    """The changes that make a recipe tiny, with a row for each image."""
    rows = [{"text": f"image {number}", "image": path} for number, path in enumerate(images)]
    Dataset.from_list(rows).to_parquet(folder / "rows.parquet")
    shared = {"data.source": str(folder / "rows.parquet"), "data.validation_fraction": 0.4}
    return {**SHORT, **shared, **changes}


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, images: list[str]) -> Path:
    """The run folder of the packaged recipe, made tiny; only to be read."""
    folder = tmp_path_factory.mktemp("autoencoder")
    changes = changes_in(
        folder,
        images,
        **{
            "output_dir": str(folder / "run"),
            "processor.target_image_size": 16,
            "model.options": {"autoencoder_config": {"hidden_sizes": [8, 16], "latent_channels": 4}},
            "training.max_steps": 60,
            "training.eval_strategy": "no",
            "training.learning_rate": 5e-3,
            "training.warmup_steps": 5,
            "training.bf16": False,
        },
    )
    train(load_recipe("image_autoencoding", changes), "plait train")
    return folder / "run"


def test_the_recipe_learns_more_than_the_mean_image(finished: Path) -> None:
    measured = evaluate(str(finished), load_model_recipe(str(finished), {}), "validation")
    card = (finished / "README.md").read_text()
    assert "mean_image: always the mean training image" in card
    assert "from plait import PlaitForImageAutoencoding" in card
    row = next(line for line in card.splitlines() if line.startswith("| validation | psnr"))
    own, mean = (float(cell) for cell in row.split("|")[3:5])
    assert own > mean + 3
    assert measured["psnr"] == pytest.approx(own, abs=1e-3)


def test_images_are_generated_on_the_latents_of_the_run(finished: Path, tmp_path: Path, images: list[str]) -> None:
    options = {**load_recipe("image_generation").model.options, **SIZES, "patch_size": 2}
    changes = changes_in(
        tmp_path,
        images,
        **{
            "output_dir": str(tmp_path / "run"),
            "training.max_steps": 2,
            "training.feature_cache_dir": str(tmp_path / "features"),
            "data.columns": {"text": "text", "target_image": "image"},
            "tokenizer": {"train": {"vocab_size": 340, "min_frequency": 1}},
            "model.text": {"config": TEXT},
            "model.options": {**options, "autoencoder": str(finished)},
            "settings.num_inference_steps": 2,
        },
    )
    train(load_recipe("image_generation", changes), "plait train")
    model = PlaitForImageGeneration.from_pretrained(tmp_path / "run")
    own = PlaitForImageAutoencoding.from_pretrained(finished)
    trained = dict(own.autoencoder.coder.named_parameters())
    assert all(torch.equal(each, trained[name]) for name, each in model.autoencoder.coder.named_parameters())
    processor = PlaitProcessor.from_pretrained(tmp_path / "run")
    targets = torch.as_tensor(processor(target_images=images)["target_pixel_values"])
    latents = model.encode_targets(targets)
    assert latents.shape[1:] == (4, 8, 8)
    assert latents.mean().abs() < 0.1 and (latents.std() - 1).abs() < 0.1


def test_predictions_name_their_files(finished: Path, tmp_path: Path, images: list[str]) -> None:
    recipe = load_model_recipe(str(finished), {"settings.image_folder": str(tmp_path / "drawn")})
    rows = Dataset.from_list([{"target_image": str(path)} for path in images[:3]])
    found = list(predict(str(finished), rows, recipe))
    assert len(found) == 3
    assert all(Path(each["reconstructed_image"]).is_file() and each["psnr"] > 0 for each in found)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"processor": {}}, "target_image_size is missing"),
        (
            {"processor.target_image_size": 18},
            r"\[18, 18\] with 3 channels, but the autoencoder reads 3 and multiples of 4",
        ),
        ({"processor.target_channels": 1}, "with 1 channels"),
        ({"model.text": {"config": TEXT}}, "model.text: a PlaitForImageAutoencoding has no towers"),
        ({"training.per_device_train_batch_size": 4000}, "fewer than a batch of 4000"),
        ({"metrics": ["psrn"]}, "did you mean 'psnr'"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, images: list[str], changes: dict[str, Any], message: str) -> None:
    made = changes_in(tmp_path, images, **{"output_dir": str(tmp_path / "run"), "processor.target_image_size": 16})
    with pytest.raises((RecipeError, ValueError), match=message):
        train(load_recipe("image_autoencoding", {**made, **changes}), "plait train")


def test_the_signal_to_noise_ratio_is_its_equation() -> None:
    images = torch.zeros(2, 3, 4, 4)
    assert torch.allclose(
        compute_psnr(images + 0.2, images), torch.tensor(10 * math.log10(4 / 0.04)).double(), atol=1e-5
    )
    assert compute_psnr(images + 5, images + 1).tolist() == pytest.approx([106.0206] * 2, abs=1e-3)
    assert find_recipe("image_autoencoding").is_file()
