"""Columns of sound, pictures and videos: what a row holds, by which names equal items are known, and training on it."""

import io
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from datasets import Audio, Dataset
from PIL import Image

from plait import PlaitProcessor
from plait.configuration import PlaitAudioConfig
from plait.training.commands import run_recipe as train
from plait.training.data.columns import disable_decoding
from plait.training.data.loading import load_data
from plait.training.data.media import collect_batch_items, collect_items, list_present
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe
from plait.training.runs.building import adjust_processor
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.collator import PlaitDataCollator

RATE = 8000
AUDIO = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "num_mel_bins": 16}
AUDIO |= {"max_position_embeddings": 50, "initializer_range": 0.2}


def tone(pitch: float, number: int = 0) -> np.ndarray:
    """A fifth of a second at this pitch (Hz)."""
    times = np.arange(RATE // 5) / RATE
    return np.sin(2 * np.pi * (pitch + number) * times).astype(np.float32)


def as_file(samples: np.ndarray) -> bytes:
    file = io.BytesIO()
    soundfile.write(file, samples, RATE, format="FLAC")
    return file.getvalue()


def test_items_of_every_kind() -> None:
    samples, content = tone(400), as_file(tone(400))
    kinds: list[Any] = [
        {"audio": {"bytes": content, "path": None}},
        {"audio": {"array": samples, "sampling_rate": RATE}},
        {"audio": samples.tolist(), "sampling_rate": RATE},
        {"audio": ["a.wav", None, "b.wav"]},
        {"audio.0": "a.wav", "audio.1": None},
        {"audio": None},
    ]
    assert [len(list_present(row, "audio")) for row in kinds] == [1, 1, 1, 2, 1, 0]
    ((_, clip),) = collect_items(kinds[2], "audio")
    assert clip["sampling_rate"] == RATE and clip["array"].shape == samples.shape
    with pytest.raises(FileNotFoundError, match=r"audio, row 3: there is no file 'a.wav'"):
        collect_batch_items(kinds, "audio")
    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    assert len(collect_items({"video": frames}, "video")) == 1
    assert len(collect_items({"image": frames}, "image")) == 2


def test_equal_items_have_equal_keys_and_others_do_not() -> None:
    def key(value: Any, **row: Any) -> str:
        return collect_items({"audio": value, **row}, "audio")[0][0]

    samples = tone(400)
    assert key(samples.tolist(), sampling_rate=RATE) == key(list(samples.tolist()), sampling_rate=RATE)
    assert key(samples.tolist(), sampling_rate=RATE) != key(samples.tolist(), sampling_rate=2 * RATE)
    assert key({"array": samples, "sampling_rate": RATE}) != key({"array": samples[:-1], "sampling_rate": RATE})
    assert key({"bytes": b"one", "path": None}) != key({"bytes": b"two", "path": None})
    frames = [Image.new("RGB", (4, 4), shade) for shade in ("red", "blue")]
    keys = [collect_items({"video": video}, "video")[0][0] for video in (frames, frames[::-1], list(frames))]
    assert keys[0] == keys[2] != keys[1]


def test_an_audio_column_stays_closed() -> None:
    """Decoding needs torchcodec, which soundfile makes unnecessary."""
    data = Dataset.from_dict({"audio": [{"bytes": as_file(tone(400)), "path": None}], "label": ["a"]})
    for decode in (True, False):
        typed = data.cast_column("audio", Audio(sampling_rate=RATE, decode=decode))
        assert set(disable_decoding(typed)[0]["audio"]) == {"bytes", "path"}


def write_rows(folder: Path, kind: str) -> Path:
    """Low and high tones, as files, as {bytes, path}, or as numbers."""
    rows = []
    for number in range(16):
        pitch = ("low", "high")[number % 2]
        samples = tone({"low": 300, "high": 1800}[pitch], number)
        row: dict[str, Any] = {"label": pitch}
        if kind == "path":
            (folder / f"{number}.flac").write_bytes(as_file(samples))
            row["audio"] = f"{number}.flac"
        elif kind == "bytes":
            row["audio"] = {"bytes": as_file(samples), "path": None}
        else:
            row |= {"audio": samples.tolist(), "sampling_rate": RATE}
        rows.append(row)
    Dataset.from_list(rows).to_parquet(folder / "train.parquet")
    return folder / "train.parquet"


@pytest.mark.parametrize("kind", ["path", "bytes", "numbers"])
def test_the_same_sound_from_every_kind_of_column(tmp_path: Path, kind: str) -> None:
    data = load_data(DataRecipe(source=str(write_rows(tmp_path, kind))))
    processor = PlaitProcessor.compose(audio=PlaitAudioConfig(**AUDIO))
    collator = PlaitDataCollator(processor, data.labels)
    assert data.train is not None
    batch = collator([data.train[0], data.train[1]])
    given = processor(audio=[tone(300), tone(1800, 1)], sampling_rate=RATE, return_tensors="pt")
    assert batch["labels"].tolist() == [1, 0] and batch["audio_present"].all()
    np.testing.assert_allclose(batch["input_features"], given["input_features"], atol=2e-2)


def test_a_recipe_trains_on_sound(tmp_path: Path) -> None:
    recipe = build_recipe(
        {
            "model": {"audio": {"config": AUDIO}},
            "processor": {"audio": {"chunk_length": 1, "n_samples": 16000, "nb_max_frames": 100}},
            "data": {"source": str(write_rows(tmp_path, "bytes")), "validation_fraction": 0.25},
            "training": {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 10}
            | {"per_device_train_batch_size": 4, "learning_rate": 1e-2},
            "output_dir": str(tmp_path / "run"),
        }
    )
    results = train(recipe, "plait train")
    assert results["validation"]["model"]["accuracy"] == 1.0
    assert "audio-classification" in (tmp_path / "run" / "README.md").read_text()


def test_a_recipe_trains_on_frames(tmp_path: Path) -> None:
    """Does the square move to the left or to the right? One frame alone does not tell."""
    rows = []
    for number in range(16):
        places = (2, 9) if number % 2 else (9, 2)
        rows.append({"video": [square(place, number) for place in places], "label": ("left", "right")[number % 2]})
    Dataset.from_list(rows).to_parquet(tmp_path / "train.parquet")
    image = {"model_type": "plait_vision", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    image |= {"image_size": 16, "patch_size": 8, "initializer_range": 0.2}
    recipe = build_recipe(
        {
            "model": {"video": {"config": {"image_config": image, "num_frames": 2, "num_hidden_layers": 1}}},
            "data": {"source": str(tmp_path / "train.parquet"), "validation_fraction": 0.25},
            "training": {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "num_train_epochs": 1},
            "output_dir": str(tmp_path / "run"),
        }
    )
    results = train(recipe, "plait train")
    assert "accuracy" in results["validation"]["model"]
    assert "video-classification" in (tmp_path / "run" / "README.md").read_text()
    processor = PlaitProcessor.from_pretrained(tmp_path / "run")
    batch = PlaitDataCollator(processor)(rows[:3])
    assert batch["pixel_values_videos"].shape == (3, 1, 2, 3, 16, 16)
    absent = PlaitDataCollator(processor)([rows[0], {"video": None}, rows[2]])
    assert absent["video_present"].tolist() == [[True], [False], [True]]
    assert torch.equal(absent["pixel_values_videos"][[0, 2]], batch["pixel_values_videos"][[0, 2]])
    with pytest.raises(ValueError, match="a video has no frames"):
        PlaitDataCollator(processor)([{"video": []}])


def square(place: int, shade: int) -> dict[str, Any]:
    """A file of a frame with a square at this place."""
    picture, file = Image.new("RGB", (16, 16)), io.BytesIO()
    picture.paste((200, 100 + shade, 50), (place, 5, place + 5, 10))
    picture.save(file, "PNG")
    return {"bytes": file.getvalue(), "path": None}


def test_settings_of_a_part_of_the_processor() -> None:
    processor = PlaitProcessor.compose(audio=PlaitAudioConfig(**AUDIO))
    adjust_processor(processor, "audio", {"hop_length": 80})
    assert processor.feature_extractor is not None and processor.feature_extractor.to_dict()["hop_length"] == 80
    with pytest.raises(RecipeError, match="processor.audio has no key 'hop_lenght'; did you mean 'hop_length'?"):
        adjust_processor(processor, "audio", {"hop_lenght": 80})
    with pytest.raises(RecipeError, match="processor.image takes a source"):
        adjust_processor(processor, "image", {"size": 16})
