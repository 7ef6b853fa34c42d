"""Inputs that cannot be read: named, or left out with a count, before anything is lost."""

import io
import logging
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image, ImageFile, PngImagePlugin

from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.data.loading import load_data
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe, Recipe
from plait.training.runs.evaluate import evaluate
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
AUDIO = {**TINY, "num_mel_bins": 16, "max_source_positions": 50}
RATE = 8000


def samples(*values: float) -> np.ndarray:
    return np.array([*values, *np.zeros(1599)], dtype=np.float32)


def write_damaged_mp3() -> bytes:
    """A file whose header announces 4.5 TiB of samples."""
    file = io.BytesIO()
    soundfile.write(file, np.zeros(16000), 16000, format="MP3", subtype="MPEG_LAYER_III")
    content = bytearray(file.getvalue())
    place = max(content.find(b"Info"), content.find(b"Xing")) + 8
    content[place : place + 4] = b"\x7f\xff\xff\xff"
    return bytes(content)


def write_sounds(folder: Path) -> list[str]:
    """Six clips, of which four cannot be read; each in a file of its own."""
    clips = {"good0": samples(0.5), "nan": samples(np.nan), "good1": samples(0.1), "infinite": samples(np.inf)}
    clips["empty"] = np.zeros(0, dtype=np.float32)
    for name, clip in clips.items():
        soundfile.write(folder / f"{name}.wav", clip, RATE, subtype="FLOAT")
    (folder / "corrupt.wav").write_bytes(write_damaged_mp3())
    return [f"{name}.wav" for name in (*clips, "corrupt")]


def recipe_for(folder: Path, modality: str, files: list[str], **data: Any) -> Recipe:
    rows = "".join(f"{name},{('a', 'b')[number % 2]}\n" for number, name in enumerate(files))
    (folder / "train.csv").write_text(f"{modality},label\n{rows}")
    tower = AUDIO if modality == "audio" else {**TINY, "image_size": 16, "patch_size": 8}
    return build_recipe(
        {
            "model": {modality: {"config": tower}},
            "data": {"source": str(folder / "train.csv"), "labels": ["a", "b"], **data},
            "training": {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1},
            "output_dir": str(folder / "run"),
        }
    )


def test_every_unreadable_clip_is_named_before_the_first_step(tmp_path: Path) -> None:
    recipe = recipe_for(tmp_path, "audio", write_sounds(tmp_path), on_error="check")
    with pytest.raises(RecipeError) as error:
        train(recipe, "plait train")
    said = str(error.value)
    assert said.startswith("data: 4 of 6 rows of 'train' cannot be read: row 1: ")
    for number, problem in (
        (1, "NaN or infinite"),
        (3, "NaN or infinite"),
        (4, "no samples"),
        (5, "not a readable audio"),
    ):
        assert f"row {number}: " in said and problem in said.split(f"row {number}: ")[1].split("; row")[0]
    assert "data.on_error: skip" in said


def test_unreadable_clips_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    recipe = recipe_for(tmp_path, "audio", [*write_sounds(tmp_path), "good0.wav"], on_error="skip")
    with caplog.at_level(logging.WARNING):
        train(recipe, "plait train")
    card = (tmp_path / "run" / "README.md").read_text()
    assert "3 rows for train. 4 unreadable rows of train left out." in card
    with pytest.raises(RecipeError, match="row 1: "):
        evaluate(str(tmp_path / "run"), recipe_for(tmp_path, "audio", write_sounds(tmp_path), on_error="check"))


def test_training_stops_at_an_unreadable_clip_unasked(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"no samples|NaN or infinite|not a readable audio file"):
        train(recipe_for(tmp_path, "audio", write_sounds(tmp_path)), "plait train")


def test_training_and_prediction_name_the_row_of_the_data_and_its_whole_path(tmp_path: Path) -> None:
    """Whatever the order of the batches; no file name is shortened."""
    for number in range(12):
        soundfile.write(tmp_path / f"good{number}.wav", samples(number / 20), RATE, subtype="FLOAT")
    name = "long-name-" * 12 + ".wav"
    (tmp_path / name).write_bytes(write_damaged_mp3())
    recipe = recipe_for(tmp_path, "audio", [*(f"good{number}.wav" for number in range(11)), name, "good11.wav"])
    recipe.training["per_device_train_batch_size"] = 3
    said = f"audio, row 11 of the data: .*{re.escape(str(tmp_path / name))}"
    with pytest.raises(Exception, match=said):
        train(recipe, "plait train")
    rows = [{"audio": str(tmp_path / file)} for file in ["good0.wav"] * 4 + [name]]
    run = tmp_path / "predicted"
    good = replace(recipe_for(tmp_path, "audio", ["good0.wav", "good1.wav"]), output_dir=str(run))
    train(good, "plait train")
    with pytest.raises(RecipeError, match="audio, row 4 of the data: "):
        list(predict(str(run), rows, good, batch_size=3))


def test_a_row_that_does_not_fit_into_memory_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a file that announces terabytes ends, on a machine that does not have them."""
    for number in range(3):
        Image.effect_noise((32, 32), 60 + number).convert("RGB").save(tmp_path / f"{number}.png")
    Image.new("RGB", (31, 32)).save(tmp_path / "large.png")
    whole = ImageFile.ImageFile.load

    def load(image: ImageFile.ImageFile) -> Any:
        if image.width == 31:
            raise MemoryError
        return whole(image)

    monkeypatch.setattr(ImageFile.ImageFile, "load", load)
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", load, raising=False)
    recipe = recipe_for(tmp_path, "image", ["0.png", "large.png", "1.png", "2.png"], on_error="check")
    with pytest.raises(RecipeError, match="1 of 4 rows of 'train' cannot be read: row 1: .*does not fit into memory"):
        train(recipe, "plait train")


def test_nothing_to_train_on_is_an_error(tmp_path: Path) -> None:
    write_sounds(tmp_path)
    with pytest.raises(RecipeError, match="2 of 2 rows of 'train' cannot be read: .* there are no others"):
        train(recipe_for(tmp_path, "audio", ["nan.wav", "empty.wav"], on_error="skip"), "plait train")


def test_a_corrupt_picture_among_others(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A truncated file opens, and fails where its pixels are read; a missing one is unreadable too."""
    for number in range(3):
        Image.effect_noise((32, 32), 60 + number).convert("RGB").save(tmp_path / f"{number}.png")
    (tmp_path / "cut.png").write_bytes((tmp_path / "0.png").read_bytes()[:200])
    recipe = recipe_for(tmp_path, "image", ["0.png", "cut.png", "1.png", "gone.png", "2.png"], on_error="skip")
    train(recipe, "plait train")
    assert "2 unreadable rows of train left out" in (tmp_path / "run" / "README.md").read_text()
    checked = ["--data.on_error", "check", "--output_dir", str(tmp_path / "other")]
    assert main(["train", str(tmp_path / "run" / "recipe.yaml"), *checked]) == 2
    assert "2 of 5 rows of 'train' cannot be read: row 1: " in capsys.readouterr().err


def test_targets_that_are_no_finite_numbers(tmp_path: Path) -> None:
    (tmp_path / "train.jsonl").write_text('{"text": "a", "label": 0.5}\n{"text": "b", "label": Infinity}\n')
    with pytest.raises(RecipeError, match="the label in row 1 of 'train' is inf: expected a finite number"):
        load_data(DataRecipe(source=str(tmp_path / "train.jsonl"), regression=True))


def test_an_unknown_policy_is_named(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="data.on_error is 'skipp'; did you mean 'skip'?"):
        recipe_for(tmp_path, "audio", [], on_error="skipp")
