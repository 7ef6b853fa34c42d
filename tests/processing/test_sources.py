"""Where the parts of a processor come from: folders, configs, models and ready objects."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    GPT2Config,
    LlamaConfig,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
    ResNetConfig,
    RobertaConfig,
    T5Config,
    ViTConfig,
    ViTModel,
    WhisperConfig,
)
from transformers.models.auto.image_processing_auto import get_image_processor_class_from_name
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.configuration import PlaitConfig, PlaitTextConfig, PlaitVisionConfig
from plait.processing import PlaitProcessor
from plait.processing.sources import find_num_frames

Make = Callable[..., Image.Image]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}


@pytest.fixture
def endless(bert_tokenizer: PreTrainedTokenizerFast) -> PreTrainedTokenizerFast:
    """A tokenizer that knows no limit."""
    bert_tokenizer.model_max_length = int(1e30)
    return bert_tokenizer


def write(folder: Path, name: str, content: dict[str, Any]) -> None:
    (folder / name).write_text(json.dumps(content))


def test_a_text_folder_and_an_image_folder_compose(
    endless: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, picture: Make, tmp_path: Path
) -> None:
    text, image = tmp_path / "text", tmp_path / "image"
    endless.save_pretrained(text)
    BertConfig(**TINY, max_position_embeddings=8).save_pretrained(text)
    image_processor.save_pretrained(image)
    composed = PlaitProcessor.compose(text=str(text), image=image)
    assert type(composed.image_processor) is ViTImageProcessorPil
    out = composed(text=["the cat"] * 2, images=[picture(), None])
    expected = PlaitProcessor(image_processor, endless)(text=["the cat"] * 2, images=[picture(), None])
    assert all(np.array_equal(out[name], expected[name]) for name in expected)


@pytest.mark.parametrize(
    ("config", "limit"),
    [
        (BertConfig(**TINY, max_position_embeddings=20), 20),
        (GPT2Config(n_positions=21), 21),
        (LlamaConfig(**TINY, max_position_embeddings=22), 22),
        (RobertaConfig(**TINY, max_position_embeddings=24, pad_token_id=1), 22),
        (CLIPConfig(text_config={**TINY, "max_position_embeddings": 23}), 23),
        (WhisperConfig(max_target_positions=26), 26),
        (T5Config(), None),
        (PlaitTextConfig(max_position_embeddings=24), 24),
        (PlaitTextConfig(max_position_embeddings=24, position_offset=2), 22),
        (PlaitConfig(text_config={"max_position_embeddings": 25}), 25),
    ],
    ids=lambda value: type(value).__name__,
)
def test_texts_are_cut_at_the_positions_of_the_tower(
    endless: PreTrainedTokenizerFast, config: PreTrainedConfig, limit: int | None, tmp_path: Path
) -> None:
    endless.save_pretrained(tmp_path)
    config.save_pretrained(tmp_path)
    composed = PlaitProcessor.compose(text=tmp_path)
    length = len(composed(text="the " * 40)["input_ids"][0])
    assert length == (42 if limit is None else limit)
    composed.save_pretrained(tmp_path / "saved")
    reloaded = PlaitProcessor.from_pretrained(tmp_path / "saved")
    assert reloaded.tokenizer.model_max_length == composed.tokenizer.model_max_length


def test_a_lower_limit_of_the_tokenizer_stays(bert_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    bert_tokenizer.save_pretrained(tmp_path)
    BertConfig(**TINY, max_position_embeddings=512).save_pretrained(tmp_path)
    assert PlaitProcessor.compose(text=tmp_path).tokenizer.model_max_length == 8


def test_a_ready_tokenizer_is_taken_as_it_is(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil
) -> None:
    composed = PlaitProcessor.compose(text=bert_tokenizer, image=image_processor)
    assert composed.tokenizer is bert_tokenizer
    assert composed.image_processor is image_processor


def test_a_model_that_was_loaded_leads_to_its_tokenizer(endless: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    endless.save_pretrained(tmp_path)
    BertModel(BertConfig(**TINY, max_position_embeddings=16, vocab_size=15)).save_pretrained(tmp_path)
    model = BertModel.from_pretrained(tmp_path)
    assert PlaitProcessor.compose(text=model).tokenizer.model_max_length == 16


@pytest.mark.parametrize("source", [BertConfig(**TINY), PlaitTextConfig(), BertModel(BertConfig(**TINY, vocab_size=9))])
def test_fresh_weights_have_no_tokenizer(source: Any) -> None:
    with pytest.raises(ValueError, match=f"a {type(source).__name__} that was not loaded.*pass a ready tokenizer"):
        PlaitProcessor.compose(text=source)


@pytest.mark.parametrize(
    ("source", "shape"),
    [
        (ViTConfig(image_size=24), (3, 24, 24)),
        (ViTModel(ViTConfig(**TINY, image_size=24, patch_size=8)), (3, 24, 24)),
        (PlaitVisionConfig(image_size=20), (3, 20, 20)),
        (PlaitVisionConfig(image_size=[12, 20]), (3, 12, 20)),
        (PlaitVisionConfig(image_size=20, num_channels=1), (1, 20, 20)),
        (CLIPConfig(vision_config={"image_size": 28}), (3, 28, 28)),
        (PlaitConfig(vision_config={"image_size": 16}), (3, 16, 16)),
    ],
    ids=lambda value: type(value).__name__,
)
def test_fresh_weights_get_pictures_of_their_size_in_minus_one_to_one(source: Any, shape: tuple[int, ...]) -> None:
    composed = PlaitProcessor.compose(image=source)
    pixels = composed(images=[Image.new("RGB", (9, 5), colour) for colour in ("black", "white")])["pixel_values"]
    assert pixels.shape == (2, 1, *shape)
    assert np.allclose(pixels[0], -1)
    assert np.allclose(pixels[1], 1)


def test_a_loaded_model_leads_to_its_image_processor(tmp_path: Path) -> None:
    ViTModel(ViTConfig(**TINY, image_size=8, patch_size=4)).save_pretrained(tmp_path)
    ViTImageProcessorPil(size={"height": 8, "width": 8}, image_mean=[0.1] * 3).save_pretrained(tmp_path)
    assert (
        tuple(PlaitProcessor.compose(image=ViTModel.from_pretrained(tmp_path)).image_processor.image_mean) == (0.1,) * 3
    )


def test_a_preprocessor_config_of_plain_fields_is_read(picture: Make, tmp_path: Path) -> None:
    fields = {"do_resize": True, "size": {"height": 6, "width": 6}, "image_mean": [0.4] * 3, "image_std": [0.2] * 3}
    write(tmp_path, "preprocessor_config.json", fields)
    write(tmp_path, "config.json", {"architecture": "of another library", "image_size": 224})
    for composed in (PlaitProcessor.compose(image=tmp_path), PlaitProcessor.from_pretrained(tmp_path)):
        pixels = composed(images=picture(), return_tensors="pt")["pixel_values"]
        expected = ViTImageProcessorPil(**fields)(picture(), return_tensors="pt")["pixel_values"]
        assert (pixels[0] == expected).all()


def test_options_given_on_loading_reach_plain_fields(picture: Make, tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", {"size": {"height": 6, "width": 6}})
    assert PlaitProcessor.from_pretrained(tmp_path)(images=picture())["pixel_values"].min() < 0
    assert PlaitProcessor.from_pretrained(tmp_path, do_normalize=False)(images=picture())["pixel_values"].min() >= 0


def test_a_preprocessor_config_without_a_type_follows_the_model_type(tmp_path: Path) -> None:
    write(tmp_path, "preprocessor_config.json", {"do_normalize": True, "size": 10})
    write(tmp_path, "config.json", {"model_type": "siglip"})
    found = PlaitProcessor.compose(image=tmp_path).image_processor
    assert type(found) is get_image_processor_class_from_name("SiglipImageProcessorPil")


def test_a_folder_with_only_an_image_size_gets_the_default_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write(tmp_path, "config.json", {"image_size": 14, "num_channels": 3})
    with caplog.at_level(logging.WARNING):
        composed = PlaitProcessor.compose(image=tmp_path)
    assert composed(images=Image.new("RGB", (3, 3)))["pixel_values"].shape == (1, 1, 3, 14, 14)
    assert "no preprocessor_config.json: images are resized to 14x14" in caplog.text


def folder_with(tmp_path: Path, content: dict[str, dict[str, Any]]) -> Path:
    for name, fields in content.items():
        write(tmp_path, name, fields)
    return tmp_path


SOUND = {"preprocessor_config.json": {"feature_extractor_type": "WhisperFeatureExtractor", "sampling_rate": 16000}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({}, "neither a preprocessor_config.json for images nor an image_size; pass a ready image processor"),
        ({"config.json": {"model_type": "bert"}}, "neither a preprocessor_config.json"),
        (SOUND, "neither a preprocessor_config.json for images"),
        ({"config.json": {"image_size": 8, "num_channels": 5}}, "num_channels is 5"),
    ],
)
def test_a_folder_without_pictures_is_a_clear_error(tmp_path: Path, content: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PlaitProcessor.compose(image=folder_with(tmp_path, content))


def test_a_damaged_preprocessor_config_is_named(tmp_path: Path) -> None:
    (tmp_path / "preprocessor_config.json").write_text('{"size": ')
    with pytest.raises(ValueError, match=f"preprocessor_config.json of {tmp_path} is not valid JSON"):
        PlaitProcessor.compose(image=tmp_path)


def test_a_folder_without_a_tokenizer_is_a_clear_error(tmp_path: Path) -> None:
    ViTConfig().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=f"text: {tmp_path} has no tokenizer.*save_pretrained"):
        PlaitProcessor.compose(text=tmp_path)


@pytest.mark.parametrize("name", ["text", "image"])
def test_a_wrong_source_is_a_clear_error(name: str, image_processor: ViTImageProcessorPil) -> None:
    with pytest.raises(TypeError, match=f"{name}: a float is no"):
        PlaitProcessor.compose(**{name: 0.5})
    with pytest.raises(FileNotFoundError, match="no folder './no/such'"):
        PlaitProcessor.compose(**{name: "./no/such"})
    with pytest.raises(ValueError, match="a PlaitProcessor needs"):
        PlaitProcessor.compose()
    with pytest.raises(TypeError, match="text: a ViTImageProcessorPil is no tokenizer"):
        PlaitProcessor.compose(text=image_processor)


def test_a_config_without_an_image_size_is_a_clear_error() -> None:
    with pytest.raises(ValueError, match="a ResNetConfig has neither .* pass a ready image processor"):
        PlaitProcessor.compose(image=ResNetConfig())


def test_a_published_checkpoint_gives_the_parts_it_has(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, tmp_path: Path
) -> None:
    text, image, both = tmp_path / "bert", tmp_path / "vit", tmp_path / "clip"
    for folder, config in ((text, BertConfig()), (image, ViTConfig()), (both, CLIPConfig())):
        config.save_pretrained(folder)
    for folder in (text, both):
        bert_tokenizer.save_pretrained(folder)
    for folder in (image, both):
        image_processor.save_pretrained(folder)
    parts = {folder.name: PlaitProcessor.from_pretrained(folder).get_attributes() for folder in (text, image, both)}
    assert parts == {"bert": ["tokenizer"], "vit": ["image_processor"], "clip": ["image_processor", "tokenizer"]}


def test_a_folder_without_any_part_is_a_clear_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=f"{tmp_path} has neither a tokenizer nor an image processor nor .*; make one"):
        PlaitProcessor.from_pretrained(tmp_path)


def test_a_subfolder_is_read(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, tmp_path: Path
) -> None:
    PlaitProcessor(image_processor, bert_tokenizer).save_pretrained(tmp_path / "inner")
    composed = PlaitProcessor.compose(text=tmp_path, image=tmp_path, subfolder="inner")
    assert composed.get_attributes() == ["image_processor", "tokenizer"]
    assert PlaitProcessor.from_pretrained(tmp_path, subfolder="inner").get_attributes() == composed.get_attributes()


def cache_of(folder: Path, name: str, revisions: dict[str, PlaitProcessor]) -> Path:
    """A Hub cache, as a download leaves it."""
    for number, (revision, processor) in enumerate(revisions.items()):
        commit = f"{number:040x}"
        repository = folder / f"models--{name.replace('/', '--')}"
        processor.save_pretrained(repository / "snapshots" / commit)
        PlaitConfig(text_config={}).save_pretrained(repository / "snapshots" / commit)
        (repository / "refs").mkdir(exist_ok=True)
        (repository / "refs" / revision).write_text(commit)
    return folder


def test_a_hub_id_is_read_at_its_revision(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, tmp_path: Path
) -> None:
    first, second = PlaitProcessor(image_processor, bert_tokenizer), PlaitProcessor(tokenizer=bert_tokenizer)
    options = {"cache_dir": cache_of(tmp_path, "someone/else", {"main": first, "v2": second}), "local_files_only": True}
    main = PlaitProcessor.compose(text="someone/else", image="someone/else", **options)
    assert main.get_attributes() == ["image_processor", "tokenizer"]
    assert PlaitProcessor.from_pretrained("someone/else", **options).get_attributes() == main.get_attributes()
    assert PlaitProcessor.from_pretrained("someone/else", revision="v2", **options).get_attributes() == ["tokenizer"]
    with pytest.raises(ValueError, match=r"image: someone/else \(not a folder: read as a Hub id\) has neither"):
        PlaitProcessor.compose(image="someone/else", revision="v2", **options)


def test_what_is_no_video_checkpoint_says_no_number_of_frames() -> None:
    for source in (None, ViTImageProcessorPil()):
        assert find_num_frames(source, {}) is None
