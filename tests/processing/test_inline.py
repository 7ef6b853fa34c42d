"""Pictures inside a text: image tokens, their number, and the model that they must fit."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast, ViTConfig
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.modeling import PlaitForCausalLM, PlaitForClassification
from plait.modeling.backbone.image_tokens import count_image_tokens
from plait.processing import PlaitProcessor

Make = Callable[..., Image.Image]
VIT = ViTConfig(
    image_size=8, patch_size=4, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
)


def gpt(vocab_size: int) -> GPT2Config:
    tokens = {"bos_token_id": 0, "eos_token_id": 0}
    return GPT2Config(vocab_size=vocab_size, n_embd=16, n_layer=1, n_head=2, n_positions=40, **tokens)


@pytest.fixture
def inline(gpt_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil) -> PlaitProcessor:
    """Three tokens a picture."""
    return PlaitProcessor.compose(
        image=image_processor, decoder=gpt_tokenizer, image_token="<image>", num_image_tokens=3
    )


def test_an_image_token_becomes_as_many_as_its_picture_has(inline: PlaitProcessor, picture: Make) -> None:
    texts = ["<image> the cat", "where <image> is <image>", "the dog"]
    out = inline(text=texts, images=[picture(0), [picture(1), None, picture(2)], None], return_tensors="pt")
    places = out["input_ids"] == inline.image_token_id
    assert places.sum(1).tolist() == [3, 6, 0]
    assert out["image_present"].tolist() == [[True, False, False], [True, False, True], [False, False, False]]
    without = [[token for token in row.tolist() if token != inline.image_token_id] for row in out["input_ids"]]
    decoded = inline.batch_decode(without, skip_special_tokens=True)
    assert decoded == ["the cat", "where is", "the dog"]
    assert inline.batch_decode(out["input_ids"], skip_special_tokens=True) == decoded


def test_pairs_may_hold_images_too(inline: PlaitProcessor, picture: Make) -> None:
    out = inline(text="<image> the", text_pair="cat <image>", images=[[picture(), picture()]])
    assert out["input_ids"][0].count(inline.image_token_id) == 6


def test_a_number_of_images_may_stand_for_them(inline: PlaitProcessor, picture: Make) -> None:
    texts = ["<image> the cat", "the dog"]
    counted = inline(text=texts, num_images=[1, 0], return_tensors="pt")
    assert torch.equal(
        counted["input_ids"], inline(text=texts, images=[picture(), None], return_tensors="pt").input_ids
    )
    assert "pixel_values" not in counted
    for wrong in ({"num_images": [1]}, {"num_images": [1, 0], "images": [picture(), None]}):
        with pytest.raises(ValueError, match="num_images has . rows, text 2: .* and no images"):
            inline(text=texts, **wrong)


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        (["the", "<image> the"], [0, 0], r"text, row 1: 1 image token\(s\) '<image>' in the text, but 0 image\(s\)"),
        (["the cat"], [1], r"row 0: 0 image token\(s\) .* but 1 image\(s\): write one image token for each image"),
        ([None], [1], "row 0: 0 image"),
        (["<image><image>"], [1], "row 0: 2 image"),
    ],
)
def test_tokens_without_images_and_the_reverse_are_a_clear_error(
    inline: PlaitProcessor, picture: Make, text: list[str | None], images: list[int], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        inline(text=text, images=[[picture()] * count for count in images])
    with pytest.raises(ValueError, match="1 image"):
        inline(text="<image>")


def test_an_image_is_never_cut(inline: PlaitProcessor, picture: Make) -> None:
    kept = inline(text="<image> the cat", images=picture(), max_length=3, truncation=True)
    assert kept["input_ids"] == [[inline.image_token_id] * 3]
    with pytest.raises(
        ValueError, match=r"text, row 0: truncated at 4 tokens, but all 3 tokens of its 1 image\(s\) are needed, not 2"
    ):
        inline(text="the cat <image>", images=picture(), max_length=4, truncation=True)
    inline.tokenizer.model_max_length = 4
    with pytest.raises(ValueError, match="truncated at 4 tokens"):
        inline(text="the cat <image>", images=picture())


def test_the_token_is_added_to_a_copy(gpt_tokenizer: PreTrainedTokenizerFast, inline: PlaitProcessor) -> None:
    assert "<image>" not in gpt_tokenizer.get_vocab()
    assert inline.image_token_id == len(gpt_tokenizer)
    assert "<image>" in inline.tokenizer.all_special_tokens
    gpt_tokenizer.add_special_tokens({"extra_special_tokens": ["<a>", "<image>", "<b>"]})
    own = PlaitProcessor(tokenizer=gpt_tokenizer, image_token="<image>", num_image_tokens=3)
    assert own.image_token_id == gpt_tokenizer.convert_tokens_to_ids("<image>")
    more = PlaitProcessor(tokenizer=gpt_tokenizer, image_token="<picture>")
    assert {"<a>", "<image>", "<b>", "<picture>"} <= set(more.tokenizer.all_special_tokens)
    word = PlaitProcessor(tokenizer=gpt_tokenizer, image_token="cat")
    assert word.image_token_id == gpt_tokenizer.convert_tokens_to_ids("cat")
    assert len(word.tokenizer) == len(gpt_tokenizer)


def test_it_survives_saving(inline: PlaitProcessor, picture: Make, tmp_path: Path) -> None:
    inline.save_pretrained(tmp_path)
    expected = inline(text=["<image> the", "cat"], images=[picture(), None], return_tensors="pt")
    for processor in (PlaitProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert (processor.image_token, processor.num_image_tokens) == ("<image>", 3)
        assert processor.image_token_id == inline.image_token_id
        out = processor(text=["<image> the", "cat"], images=[picture(), None], return_tensors="pt")
        assert all(torch.equal(out[name], expected[name]) for name in expected)
        assert processor.to_dict() == inline.to_dict()


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"image_token": "<image>"}, "image_token '<image>' stands in a text: pass a tokenizer"),
        ({"num_image_tokens": 3, "tokenizer": None}, "num_image_tokens is 3, and image_token is None"),
    ],
)
def test_fields_that_make_no_sense_are_a_clear_error(
    image_processor: ViTImageProcessorPil, fields: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        PlaitProcessor(image_processor, **fields)


def test_the_number_may_be_set_later(inline: PlaitProcessor, picture: Make) -> None:
    inline.num_image_tokens = None
    with pytest.raises(ValueError, match=r"num_image_tokens is not set: .* = model.num_image_tokens"):
        inline(text="<image> the cat", images=picture())
    inline.num_image_tokens = 2
    assert inline(text="<image>", images=picture())["input_ids"] == [[inline.image_token_id] * 2]


@pytest.mark.parametrize("connector", ["linear", "mlp", "resampler"])
@pytest.mark.parametrize("vocabulary", ["equal", "longer", "shorter", "has the token"])
def test_the_recipe_fits_any_tokenizer(
    gpt_tokenizer: PreTrainedTokenizerFast, picture: Make, tmp_path: Path, vocabulary: str, connector: str
) -> None:
    if vocabulary == "has the token":
        gpt_tokenizer.add_special_tokens({"extra_special_tokens": ["<image>", "<video>"]})
    gpt_tokenizer.save_pretrained(tmp_path)
    size = len(gpt_tokenizer) + {"longer": 5, "shorter": -2}.get(vocabulary, 0)
    GPT2LMHeadModel(gpt(size)).save_pretrained(tmp_path)

    model = PlaitForCausalLM.compose(
        image=VIT, decoder=tmp_path, connector=connector, fusion_config={"num_queries": 3}, verbose=False
    )
    processor = PlaitProcessor.compose(
        image=VIT, decoder=tmp_path, image_token="<image>", num_image_tokens=model.num_image_tokens
    )
    model.set_image_token_id(processor.image_token_id)

    assert model.config.image_token_id == processor.image_token_id < model.config.get_text_config().vocab_size
    assert model.num_image_tokens == model.model.num_image_tokens == (3 if connector == "resampler" else 5)
    batch = processor(text=["<image> the cat", "what <image>"], images=[picture(0), picture(1)], return_tensors="pt")
    first = model(**batch).logits
    batch["pixel_values"] = batch["pixel_values"].flip(0)
    assert (first - model(**batch).logits).abs().max() > 0
    model.save_pretrained(tmp_path / "saved")
    processor.save_pretrained(tmp_path / "saved")
    again = PlaitForCausalLM.from_pretrained(tmp_path / "saved")
    assert again.config.image_token_id == PlaitProcessor.from_pretrained(tmp_path / "saved").image_token_id


def test_the_processor_may_come_first(gpt_tokenizer: PreTrainedTokenizerFast, picture: Make) -> None:
    processor = PlaitProcessor.compose(image=VIT, decoder=gpt_tokenizer, image_token="<image>")
    model = PlaitForCausalLM.compose(
        image=VIT, decoder=gpt(len(gpt_tokenizer)), image_token_id=processor.image_token_id, verbose=False
    )
    model.agree_with(processor)
    assert processor.num_image_tokens == model.num_image_tokens
    batch = processor(text="<image> the", images=picture(), return_tensors="pt")
    assert model.generate(**batch, min_new_tokens=2, max_new_tokens=2, do_sample=False).shape == (1, 8)


def test_a_model_with_another_token_says_so(gpt_tokenizer: PreTrainedTokenizerFast, picture: Make) -> None:
    model = PlaitForCausalLM.compose(image=VIT, decoder=gpt(len(gpt_tokenizer) + 5), verbose=False)
    processor = PlaitProcessor.compose(image=VIT, decoder=gpt_tokenizer, image_token="<image>", num_image_tokens=5)
    assert model.config.image_token_id != processor.image_token_id
    with pytest.raises(ValueError, match="row 0 has 0 image tokens .* images have 5 .*model.set_image_token_id"):
        model(**processor(text="<image> the", images=picture(), return_tensors="pt"))
    model.set_image_token_id(processor.image_token_id)
    processor.num_image_tokens = 4
    with pytest.raises(ValueError, match="row 0 has 4 image tokens .* images have 5 .*num_image_tokens is the model's"):
        model(**processor(text="<image> the", images=picture(), return_tensors="pt"))


def test_a_model_without_a_place_for_images_says_so(gpt_tokenizer: PreTrainedTokenizerFast) -> None:
    alone = PlaitForCausalLM.compose(decoder=gpt(20), verbose=False)
    assert not hasattr(alone, "num_image_tokens")
    with pytest.raises(ValueError, match="no image tower"):
        count_image_tokens(alone.config)
    with pytest.raises(ValueError, match="image_token_id 3: a model with images in its text"):
        alone.set_image_token_id(3)
    model = PlaitForCausalLM.compose(image=VIT, decoder=gpt(20), verbose=False)
    with pytest.raises(ValueError, match="image_token_id None"):
        model.set_image_token_id(PlaitProcessor(tokenizer=gpt_tokenizer).image_token_id)
    assert PlaitForClassification.compose(image=VIT, labels=2, verbose=False).model.num_image_tokens == 5


def test_offsets_are_those_of_the_text_as_it_was_given(inline: PlaitProcessor, picture: Make) -> None:
    texts = ["<image> the cat", "is <image> red <image> dog", "where"]
    images = [picture(0), [picture(1), picture(2)], None]
    out = inline(text=texts, images=images, return_offsets_mapping=True)
    for text, ids, offsets in zip(texts, out["input_ids"], out["offset_mapping"], strict=True):
        for token, (start, end) in zip(ids, offsets, strict=True):
            if token != inline.tokenizer.pad_token_id:
                assert text[start:end].strip() == inline.tokenizer.convert_ids_to_tokens(token)
            else:
                assert (start, end) == (0, 0)
    with pytest.raises(ValueError, match="return_offsets_mapping: not for pairs"):
        inline(text="<image>", text_pair="the", images=picture(), return_offsets_mapping=True)


def test_a_model_agrees_with_the_size_that_the_processor_makes(
    gpt_tokenizer: PreTrainedTokenizerFast, picture: Make
) -> None:
    """A tower's config may name another size than its processor makes: what counts is what the tower gets."""
    model = PlaitForCausalLM.compose(image=VIT, decoder=gpt(len(gpt_tokenizer)), verbose=False)
    processor = PlaitProcessor.compose(image=VIT, decoder=gpt_tokenizer, image_token="<image>")
    assert processor.image_processor is not None
    processor.image_processor.size = {"height": 16, "width": 16}
    model.agree_with(processor)
    assert processor.num_image_tokens == 17 and model.num_image_tokens == 5
    assert model.config.image_token_id == processor.image_token_id
    batch = processor(text=["<image> the cat"], images=[picture()], return_tensors="pt")
    assert torch.isfinite(model(**batch).logits).all()
