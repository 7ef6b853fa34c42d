"""Generated images from a pipeline and from the command line."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from transformers import pipeline as hf_pipeline

import plait
from plait import PlaitForImageGeneration, PlaitProcessor
from plait.configuration import PlaitTextConfig
from plait.training.cli import main
from plait.training.data.tokenizer import train_tokenizer
from plait.training.recipes.schema import Recipe
from plait.training.runs.image_output import describe_row
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict

QUICK = ["--settings.num_inference_steps", "2"]
TEXTS = ["a red circle", "a blue square", "a green ball on the grass"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A tiny model with weights at random, and its processor."""
    torch.manual_seed(0)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = PlaitTextConfig(vocab_size=300, max_position_embeddings=24, **shape)
    model = PlaitForImageGeneration.compose(
        text=text,
        image_size=16,
        patch_size=8,
        num_attention_heads=2,
        hidden_size=16,
        num_hidden_layers=1,
        verbose=False,
    )
    for parameter in model.denoiser.parameters():
        nn.init.normal_(parameter, std=0.2)
    tokenizer = train_tokenizer(TEXTS, 24, vocab_size=300, min_frequency=1)
    path = tmp_path_factory.mktemp("image_generation")
    model.save_pretrained(path)
    PlaitProcessor.compose(text=tokenizer, target_image_size=16).save_pretrained(path)
    return str(path)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_a_pipeline_gives_what_the_model_gives(folder: str, tmp_path: Path) -> None:
    pipe = plait.pipeline("text-to-image", model=folder, num_inference_steps=3)
    images = pipe(TEXTS, generator=seeded())
    images[0].save(tmp_path / "circle.png")
    model, processor = PlaitForImageGeneration.from_pretrained(folder), PlaitProcessor.from_pretrained(folder)
    inputs = processor(text=TEXTS, return_tensors="pt")
    expected = model.generate_images(**inputs, generator=seeded(), num_inference_steps=3)
    assert [np.asarray(image).tolist() for image in images] == [np.asarray(image).tolist() for image in expected]
    assert np.asarray(Image.open(tmp_path / "circle.png")).tolist() == np.asarray(expected[0]).tolist()
    other = hf_pipeline("plait-text-to-image", model=folder)
    assert other(TEXTS[0], generator=seeded(), num_inference_steps=3)[0] == images[0]


def test_options_pass_through_batches_of_any_size(folder: str) -> None:
    pipe = plait.pipeline("text-to-image", model=folder, num_inference_steps=2, output_type="pt")
    options: dict[str, Any] = {
        "num_images_per_prompt": 2,
        "guidance_scale": 3,
        "negative_text": ["a ball", "a square", "grass"],
        "image": torch.rand(3, 3, 16, 16, generator=seeded(1)),
        "mask_image": Image.new("L", (16, 16), 255),
    }
    whole = pipe(TEXTS, generator=seeded(), **options)
    assert whole.shape == (6, 3, 16, 16)
    assert (whole - pipe(TEXTS, generator=seeded(), batch_size=2, **options)).abs().max() < 1e-5
    several = [seeded(number) for number in range(6)]
    again = pipe(TEXTS, generator=[seeded(number) for number in range(6)], batch_size=2, **options)
    assert (pipe(TEXTS, generator=several, **options) - again).abs().max() < 1e-5
    assert pipe(TEXTS, batch_size=2, output_type="np").shape == (3, 16, 16, 3)
    assert len(pipe(TEXTS, batch_size=2, output_type="pil")) == 3
    assert pipe([]) == []
    with pytest.raises(TypeError, match="num_inference_step'"):
        pipe(TEXTS, num_inference_step=3)


def test_a_long_text_is_cut_with_a_warning(folder: str, caplog: pytest.LogCaptureFixture) -> None:
    pipe = plait.pipeline("text-to-image", model=folder, num_inference_steps=1, output_type="pt")
    long = " ".join(["circle"] * 100)
    images = pipe(long, generator=seeded())
    assert "truncated" in caplog.text
    assert torch.allclose(images, pipe(" ".join(["circle"] * 90), generator=seeded()), atol=1e-6)


def test_predict_draws_a_grid_of_rows(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    texts = [argument for text in TEXTS for argument in ("--text", text)] + QUICK
    grids = []
    for size in ("2", "32"):
        output = tmp_path / f"grid{size}.png"
        assert (
            main(["predict", folder, *texts, "--output", str(output), "--num-images", "4", "--batch-size", size]) == 0
        )
        grids.append(np.asarray(Image.open(output)).astype(int))
    assert "12 images in" in capsys.readouterr().out
    assert grids[0].shape[1] == 4 + 4 * 20
    assert grids[0].shape[0] >= 4 + 3 * (20 + 14)
    assert np.abs(grids[0] - grids[1]).max() <= 1
    single = tmp_path / "deep" / "single.png"
    assert main(["predict", folder, *texts, "--output", str(single)]) == 0
    assert Image.open(single).size[0] == 4 + 3 * 20


def test_predicted_files_depend_on_the_row_alone(folder: str, tmp_path: Path) -> None:
    recipe = load_model_recipe(folder, {"settings.image_folder": str(tmp_path), "settings.num_inference_steps": 2})
    rows = [{"text": text} for text in TEXTS]
    whole, single = (list(predict(folder, rows, recipe, batch_size=size)) for size in (3, 1))
    images = [
        [np.asarray(Image.open(row["generated_image"])).astype(int) for row in found] for found in (whole, single)
    ]
    assert max(np.abs(first - second).max() for first, second in zip(*images, strict=True)) <= 1
    again = list(predict(folder, rows[::-1], recipe, batch_size=3))[::-1]
    assert np.abs(images[0][0] - np.asarray(Image.open(again[0]["generated_image"])).astype(int)).max() <= 1


def test_predict_fills_a_folder(folder: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output, texts = tmp_path / "images", ["--text", TEXTS[0], "--text", TEXTS[1], *QUICK]
    assert main(["predict", folder, *texts, "--output", str(output), "--num-images", "2"]) == 0
    names = sorted(path.name for path in output.iterdir())
    assert len(names) == 4
    assert [name[:17] for name in names] == ["0000-a-red-circle"] * 2 + ["0001-a-blue-squar"] * 2
    assert Image.open(output / names[0]).size == (16, 16)
    before = capsys.readouterr()
    assert "4 images in" in before.out
    assert main(["predict", folder, *texts, "--num-images", "2"]) == 2
    assert "--num-images is for images alone" in capsys.readouterr().err
    assert main(["predict", folder, *texts, "--num-images", "0", "--output", str(output)]) == 2
    assert "--num-images is 0" in capsys.readouterr().err
    assert main(["predict", folder, *texts, "--output", "answers.txt"]) == 2


def test_a_row_is_described_by_its_texts_and_the_names_of_its_files() -> None:
    row = {"text": "a dog", "image": "/data/dog.png", "audio": {"path": "/data/bark.wav", "bytes": None}, "video": None}
    assert describe_row(row) == "a dog, dog.png, bark.wav"
    assert describe_row({"text": None}) == ""


def test_a_run_says_how_texts_are_cut_and_images_drawn(folder: str) -> None:
    """Unless the call says it, and only a run of this task does."""
    pipe = plait.pipeline("text-to-image", model=folder, output_type="pt", num_inference_steps=2)
    pipe.options.pop("num_inference_steps")
    text, short, steps = "a green ball on the grass", {"max_length": 3}, {"num_inference_steps": 2}

    def draw(**options: Any) -> torch.Tensor:
        return pipe(text, generator=seeded(), **options)

    cut, whole = draw(**short, **steps), draw(**steps)
    assert not torch.equal(cut, whole)
    pipe.run = Recipe(task="generation", max_length=3, settings=steps)
    assert not torch.equal(draw(**steps), cut)
    pipe.run = Recipe(task="image_generation", max_length=3, settings=steps)
    assert torch.equal(draw(), cut)
    assert torch.equal(draw(max_length=24), whole)
    assert not torch.equal(draw(num_inference_steps=1), cut)
