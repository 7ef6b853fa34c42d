"""An image, a clip, a video or a text is known by its content: in a batch, on disk, between splits and between runs."""

import copy
import io
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import numpy as np
import peft
import pytest
import soundfile
import torch
from datasets import Dataset
from PIL import Image

from plait import PlaitForClassification, PlaitProcessor, PlaitTrainer, PlaitTrainingArguments
from plait.configuration import PlaitAudioConfig, PlaitTextConfig, PlaitVideoConfig, PlaitVisionConfig
from plait.modeling.backbone.pretrained import PlaitPreTrainedModel
from plait.training.data.feature_cache import FeatureStore, cache_features
from plait.training.data.groups import find_row_groups
from plait.training.data.identity import compute_item_key
from plait.training.data.row_encoder import ImageCache
from plait.training.data.samplers import group_rows
from plait.training.data.tokenizer import train_tokenizer
from plait.training.data.tower_digest import TowerDigest
from plait.training.tasks.collator import PlaitDataCollator

SIDE, RATE = 16, 8000
MODALITIES = ("text", "image", "audio", "video")
KINDS = {
    "text": ("text",),
    "image": ("path", "bytes", "id", "int id", "image", "array", "tensor"),
    "audio": ("path", "bytes", "id", "int id", "array", "tensor", "numbers"),
    "video": ("path", "bytes", "id", "int id", "image", "array", "tensor", "frame files"),
}
CASES = [(modality, kind) for modality in MODALITIES for kind in KINDS[modality]]
NAMED = [(modality, kind) for modality, kind in CASES if kind in ("path", "id", "int id", "frame files")]


def draw_pixels(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (*shape, SIDE, SIDE, 3), dtype=np.uint8)


def draw_samples(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).uniform(-0.5, 0.5, RATE // 10).astype(np.float32)


def build_file(modality: str, seed: int) -> bytes:
    """A file whose size does not depend on the seed, except that of a video."""
    file = io.BytesIO()
    if modality == "image":
        Image.fromarray(draw_pixels(seed)).save(file, "BMP")
    elif modality == "audio":
        soundfile.write(file, draw_samples(seed), RATE, format="WAV", subtype="FLOAT")
    else:
        with av.open(file, "w", format="mp4") as container:
            stream: Any = container.add_stream("mpeg4", rate=4)
            stream.width = stream.height = SIDE
            stream.pix_fmt = "yuv420p"
            for frame in draw_pixels(seed, 2):
                container.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
            container.mux(stream.encode())
    return file.getvalue()


def write_file(path: Path, content: bytes) -> str:
    """Writes a file in the place of another, with an unchanged time of change."""
    path.write_bytes(content)
    os.utime(path, ns=(10**18, 10**18))
    return str(path)


def build_value(modality: str, kind: str, seed: int, path: Path) -> Any:
    """The content of this seed as this kind of value; of a kind with a name, under the name `path`."""
    if kind == "text":
        return ("a red cat", "a blue dog", "the green bird")[seed]
    if kind == "frame files":
        return [write_file(path.with_suffix(f".{n}.png"), build_file("image", 10 * seed + n)) for n in range(2)]
    if kind == "path":
        return write_file(path, build_file(modality, seed))
    if kind in ("bytes", "id", "int id"):
        return {"bytes": build_file(modality, seed), "path": None}
    array = draw_samples(seed) if modality == "audio" else draw_pixels(seed, *([2] if modality == "video" else []))
    if kind == "image":
        return Image.fromarray(array) if modality == "image" else [Image.fromarray(frame) for frame in array]
    return {"array": array, "tensor": torch.from_numpy(array), "numbers": array.tolist()}[kind]


def build_row(modality: str, kind: str, seed: int, path: Path) -> dict[str, Any]:
    row = {modality: build_value(modality, kind, seed, path), "label": 0}
    if modality == "audio":
        row["sampling_rate"] = RATE
    if kind in ("id", "int id"):
        row[f"{modality}_id"] = str(path) if kind == "id" else 7 + sum(map(ord, path.name))
    return row


@pytest.fixture(scope="module")
def processor() -> PlaitProcessor:
    tokenizer = train_tokenizer(["a red cat", "a blue dog", "the green bird"], 8, vocab_size=300, min_frequency=1)
    image = PlaitVisionConfig(image_size=SIDE, patch_size=8)
    audio = PlaitAudioConfig(num_mel_bins=8, max_source_positions=50)
    return PlaitProcessor.compose(text=tokenizer, image=image, audio=audio, video=image, num_frames=2)


@pytest.fixture(scope="module")
def model(processor: PlaitProcessor) -> PlaitPreTrainedModel:
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
    image = PlaitVisionConfig(**small, image_size=SIDE, patch_size=8)
    return PlaitForClassification.compose(
        text=PlaitTextConfig(**small, vocab_size=len(processor.tokenizer)),
        image=image,
        audio=PlaitAudioConfig(**small, num_mel_bins=8, max_source_positions=50),
        video=PlaitVideoConfig(image_config=image.to_dict(), num_frames=2, **small),
        fusion_config=small,
        labels=["no", "yes"],
        freeze=MODALITIES,
        verbose=False,
    ).eval()


def answer(model: PlaitPreTrainedModel, batch: dict[str, Any]) -> torch.Tensor:
    with torch.no_grad():
        return model(**{name: value for name, value in batch.items() if name != "labels"}).logits


def answer_plainly(model: PlaitPreTrainedModel, processor: PlaitProcessor, row: dict[str, Any]) -> torch.Tensor:
    """The answer to one row without a collator and without a cache."""
    (modality,) = (name for name in MODALITIES if name in row)
    value = row[modality]
    value = np.asarray(value) if modality == "audio" and isinstance(value, list) else value
    if modality == "video" and isinstance(value, list) and isinstance(value[0], str):
        value = [Image.open(frame).convert("RGB") for frame in value]
    argument = {"image": "images", "video": "videos"}.get(modality, modality)
    rate = {"sampling_rate": RATE} if modality == "audio" else {}
    return answer(model, processor(**{argument: [value]}, **rate, return_tensors="pt"))


Store = Callable[..., FeatureStore]


@pytest.fixture
def store(model: PlaitPreTrainedModel, processor: PlaitProcessor, tmp_path: Path) -> Store:
    """Computes what is not stored yet, as a new run on these splits would."""
    return lambda modality, *splits: cache_features(model, processor, splits, modality, folder=tmp_path / "cache")


@pytest.mark.parametrize(("modality", "kind"), NAMED)
def test_other_content_under_a_known_name_has_its_own_answer(
    model: PlaitPreTrainedModel, processor: PlaitProcessor, store: Store, tmp_path: Path, modality: str, kind: str
) -> None:
    """One collator and one folder of features, through the runs on three contents of one name."""
    collator, answers = PlaitDataCollator(processor), []
    collator.image_cache = ImageCache(1.0)
    for seed in (0, 1, 2):
        row = build_row(modality, kind, seed, tmp_path / "item")
        own = answer_plainly(model, processor, row)
        earlier = collator.features
        for features, uses in ((earlier, False), ({}, False), ({modality: store(modality, [row])}, True)):
            collator.features = features
            batch = collator([row])
            assert ("encoder_outputs" in batch) == uses
            torch.testing.assert_close(answer(model, batch), own, atol=1e-6, rtol=0)
        answers.append(own)
    assert not torch.equal(answers[0], answers[1]) and not torch.equal(answers[1], answers[2])
    assert len(collator.features[modality]) == 3


@pytest.mark.parametrize(("modality", "kind"), [case for case in CASES if case[1] in ("id", "int id")])
def test_two_contents_under_one_id_stay_two_in_a_batch(
    model: PlaitPreTrainedModel, processor: PlaitProcessor, store: Store, tmp_path: Path, modality: str, kind: str
) -> None:
    rows = [build_row(modality, kind, seed, tmp_path / "item") for seed in (1, 2)]
    expected = torch.cat([answer_plainly(model, processor, row) for row in rows])
    collator = PlaitDataCollator(processor)
    for features in ({}, {modality: store(modality, rows[:1], rows[1:])}):
        collator.features = features
        torch.testing.assert_close(answer(model, collator(rows)), expected, atol=1e-6, rtol=0)
    assert len(features[modality]) == 2


@pytest.mark.parametrize(("modality", "kind"), CASES)
def test_one_content_under_two_names_is_computed_once(
    model: PlaitPreTrainedModel, processor: PlaitProcessor, store: Store, tmp_path: Path, modality: str, kind: str
) -> None:
    """In one split, in two splits, and in a later run, which computes nothing."""
    rows = [build_row(modality, kind, 1, tmp_path / name) for name in ("one", "other")]
    assert len(store(modality, rows)) == len(store(modality, rows[:1], rows[1:])) == 1
    files = sorted((tmp_path / "cache").rglob("*.safetensors"))
    assert len(files) == 1
    collator = PlaitDataCollator(processor)
    if modality == "image":
        assert collator(rows)["pixel_values"].shape[0] == 1
    collator.features[modality] = store(modality, rows)
    batch = collator(rows)
    assert list(batch["encoder_outputs"]) == [modality]
    plain = answer_plainly(model, processor, rows[0]).expand(2, -1)
    torch.testing.assert_close(answer(model, batch), plain, atol=1e-6, rtol=0)


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_a_path_and_the_bytes_of_its_file_are_one(store: Store, tmp_path: Path, modality: str) -> None:
    rows = [build_row(modality, kind, 1, tmp_path / "item") for kind in ("path", "bytes", "id")]
    assert len(store(modality, rows)) == 1
    typed = Dataset.from_list([{modality: row[modality]} for row in rows[1:]])
    assert len(store(modality, typed)) == 1


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_a_file_replaced_while_its_features_are_computed(
    model: PlaitPreTrainedModel, processor: PlaitProcessor, store: Store, tmp_path: Path, modality: str
) -> None:
    """What is stored under a key was computed from the bytes that the key describes."""

    class Rows(list[dict[str, Any]]):
        reads = 0

        def __getitem__(self, number: Any) -> Any:
            self.reads += 1
            if self.reads == 3:  # the first reads collect the column names and the keys
                build_row(modality, "path", 2, tmp_path / "item")
            return super().__getitem__(number)

    rows = Rows([build_row(modality, "path", 1, tmp_path / "item")])
    features = store(modality, rows)
    collator = PlaitDataCollator(processor)
    collator.features[modality] = features
    for seed in (1, 2):
        row = build_row(modality, "path", seed, tmp_path / "item")
        expected = answer_plainly(model, processor, row)
        torch.testing.assert_close(answer(model, collator([row])), expected, atol=1e-6, rtol=0)


def paletted(colour: tuple[int, int, int]) -> Image.Image:
    image = Image.new("P", (4, 4))
    image.putpalette(colour)
    return image


def turned(orientation: int) -> Image.Image:
    image = Image.fromarray(draw_pixels(1))
    image.getexif()[0x0112] = orientation
    return image


def transparent(index: int) -> Image.Image:
    image = paletted((9, 9, 9))
    image.info["transparency"] = index
    return image


@pytest.mark.parametrize(
    ("one", "other"),
    [
        (paletted((255, 0, 0)), paletted((0, 0, 255))),
        (turned(1), turned(6)),
        (transparent(0), transparent(1)),
        (np.zeros((3, 4, 3), np.uint8), torch.zeros((3, 4, 3), dtype=torch.uint8)),
        (np.zeros((2, 8), np.uint8), np.zeros((8, 2), np.uint8)),
        (np.zeros(4, np.float32), np.zeros(4, np.int32)),
        ({"array": np.ones(4), "sampling_rate": 8000}, {"array": np.ones(4), "sampling_rate": 16000}),
        ([b"ab", b"c"], [b"a", b"bc"]),
        (b"\0" * 12, np.zeros(12, np.uint8)),
    ],
)
def test_what_is_read_in_another_way_has_another_key(one: Any, other: Any) -> None:
    assert compute_item_key(one) != compute_item_key(other)


def test_an_object_without_content_has_no_key() -> None:
    for value in (object(), np.array([object()]), 3):
        with pytest.raises(TypeError, match="has no content that can be read"):
            compute_item_key(value)


def test_processed_images_are_forgotten_with_the_settings(processor: PlaitProcessor, tmp_path: Path) -> None:
    own = PlaitProcessor.compose(image=PlaitVisionConfig(image_size=SIDE, patch_size=8))
    collator, plain = PlaitDataCollator(own), PlaitDataCollator(own)
    collator.image_cache = ImageCache(1.0)
    rows = [build_row("image", "path", 1, tmp_path / "item")]
    first = collator(rows)["pixel_values"]
    own.image_processor.image_mean = [0.1, 0.2, 0.3]
    assert torch.equal(collator(rows)["pixel_values"], plain(rows)["pixel_values"])
    assert not torch.equal(first, plain(rows)["pixel_values"])


@pytest.mark.parametrize("modality", ["image", "audio", "video"])
def test_rows_of_one_content_or_id_stay_together(tmp_path: Path, modality: str) -> None:
    rows = [
        build_row(modality, "path", seed, tmp_path / name) for seed, name in ((0, "a"), (1, "b"), (0, "c"), (2, "d"))
    ]
    assert group_rows(find_row_groups(rows)) == [[0, 2], [1], [3]]
    for row, name in zip(rows, ("x", "y", "z", "y"), strict=True):
        row[f"{modality}_id"] = name
    assert group_rows(find_row_groups(rows)) == [[0, 2], [1, 3]]


def test_a_trainer_uses_the_features_of_its_own_model(
    model: PlaitPreTrainedModel, processor: PlaitProcessor, tmp_path: Path
) -> None:
    """One collator for two trainers, and weights and settings that change between two evaluations."""
    own = copy.deepcopy(processor)
    rows = Dataset.from_list([{**build_row("image", "bytes", seed, tmp_path), "label": seed % 2} for seed in range(3)])
    other = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in other.model.towers["image"].parameters():
            parameter.add_(0.3)
    collator = PlaitDataCollator(own)

    def build(one: PlaitPreTrainedModel, cached: list[str]) -> PlaitTrainer:
        folders = {"output_dir": str(tmp_path / "run"), "feature_cache_dir": str(tmp_path / "cache")}
        args = PlaitTrainingArguments(**folders, use_cpu=True, disable_tqdm=True, report_to="none", frozen=["image"])
        args.cache_features = cached
        return PlaitTrainer(one, args, data_collator=collator, train_dataset=rows, eval_dataset=rows)

    def check(trainer: PlaitTrainer) -> None:
        expected = answer(trainer.model, PlaitDataCollator(own)(list(rows)))
        found = trainer.predict(rows).predictions
        np.testing.assert_allclose(found, expected, atol=1e-5)

    trainers = [build(model, ["image"]), build(other, []), build(other, ["image"])]
    for trainer in (*trainers, trainers[0]):
        check(trainer)
    assert "image" in collator.features
    with torch.no_grad():
        next(model.model.towers["image"].parameters()).add_(0.5)
    check(trainers[0])
    own.image_processor.image_std = [0.9, 0.8, 0.7]
    check(trainers[0])
    assert "image" in collator.features


def test_a_digest_sees_weights_adapters_and_hooks(model: PlaitPreTrainedModel, processor: PlaitProcessor) -> None:
    digest = TowerDigest("image")
    first = digest.compute(model, processor)
    assert digest.compute(model, processor) == first == TowerDigest("image").compute(model, processor)
    model.train().gradient_checkpointing_enable()
    assert digest.compute(model, processor) == first
    model.eval().gradient_checkpointing_disable()
    handle = model.model.towers["image"].register_forward_hook(lambda module, args, output: output)
    assert digest.compute(model, processor) != first
    handle.remove()
    assert digest.compute(model, processor) == first
    config = peft.LoraConfig(r=2, target_modules=r".*towers\.image.*(q|v)_proj", init_lora_weights=False)
    adapted = peft.get_peft_model(model, config)
    found = {digest.compute(adapted, processor)}
    with adapted.disable_adapter():
        found.add(digest.compute(adapted, processor))
    for module in adapted.modules():
        if isinstance(getattr(module, "scaling", None), dict):
            module.scaling["default"] *= 2
    found.add(digest.compute(adapted, processor))
    assert len(found) == 3
    adapted.unload()
