"""Texts and pictures together: rows, shapes, saving, the Auto classes, workers."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import DataLoader
from transformers import (
    AutoConfig,
    AutoProcessor,
    AutoTokenizer,
    BatchFeature,
    BertConfig,
    BertForMaskedLM,
    PreTrainedTokenizerFast,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.configuration import PlaitConfig
from plait.processing import PlaitProcessor

Make = Callable[..., Image.Image]


def same(first: BatchFeature, second: BatchFeature) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.fixture
def batch(picture: Make) -> dict[str, Any]:
    return {
        "text": ["the cat", None, "what colour is the dog", ""],
        "images": [picture(0), [picture(1, 7, 20), picture(2)], None, [None, picture(3, 8, 8)]],
    }


def test_names_shapes_and_types_of_a_batch(processor: PlaitProcessor, batch: dict[str, Any]) -> None:
    out = processor(**batch, return_tensors="pt")
    assert {name: (tuple(value.shape), value.dtype) for name, value in out.items()} == {
        "input_ids": ((4, 7), torch.int64),
        "token_type_ids": ((4, 7), torch.int64),
        "attention_mask": ((4, 7), torch.int64),
        "pixel_values": ((4, 2, 3, 8, 8), torch.float32),
        "image_present": ((4, 2), torch.bool),
    }
    assert set(processor.model_input_names) == set(out)
    assert out["image_present"].tolist() == [[True, False], [True, True], [False, False], [False, True]]
    assert not out["pixel_values"][~out["image_present"]].any()


@pytest.mark.parametrize("tensors", [None, "np"])
def test_other_forms_hold_the_same_numbers(processor: PlaitProcessor, batch: dict[str, Any], tensors: str) -> None:
    expected = processor(**batch, return_tensors="pt")
    out = processor(**batch, return_tensors=tensors)
    assert out.keys() == expected.keys()
    assert all(np.array_equal(np.asarray(out[name]), expected[name].numpy()) for name in out)


def test_a_picture_is_what_its_image_processor_makes_of_it(
    processor: PlaitProcessor, image_processor: ViTImageProcessorPil, batch: dict[str, Any]
) -> None:
    pixels = processor(**batch, return_tensors="pt")["pixel_values"]
    second = image_processor(batch["images"][1], return_tensors="pt")["pixel_values"]
    assert torch.equal(pixels[1], second)


def test_every_row_alone_equals_itself_in_the_batch(processor: PlaitProcessor, batch: dict[str, Any]) -> None:
    together = processor(**batch, return_tensors="pt")
    for row, (text, images) in enumerate(zip(batch["text"], batch["images"], strict=True)):
        alone = processor(text=[text], images=[images], return_tensors="pt")
        real, real_alone = together["attention_mask"][row].bool(), alone["attention_mask"][0].bool()
        for name in ("input_ids", "token_type_ids"):
            assert torch.equal(together[name][row][real], alone[name][0][real_alone])
        present, present_alone = together["image_present"][row], alone["image_present"][0]
        assert torch.equal(present[: len(present_alone)], present_alone)
        assert torch.equal(together["pixel_values"][row][present], alone["pixel_values"][0][present_alone])


def test_one_of_each_needs_no_list(processor: PlaitProcessor, picture: Make) -> None:
    single = processor(text="the cat", images=picture(), return_tensors="pt")
    assert same(single, processor(text=["the cat"], images=[picture()], return_tensors="pt"))
    assert same(single, processor(text=("the cat",), images=([picture()],), return_tensors="pt"))


def test_an_array_of_pictures_is_a_list_of_them(processor: PlaitProcessor) -> None:
    tensor = torch.rand(4, 3, 9, 9)
    rows = processor(images=tensor, return_tensors="pt")
    assert rows["image_present"].shape == (4, 1)
    assert same(rows, processor(images=list(tensor), return_tensors="pt"))
    pairs = processor(images=tensor.unflatten(0, (2, 2)), return_tensors="pt")
    assert same(pairs, processor(images=[list(tensor[:2]), list(tensor[2:])], return_tensors="pt"))


def test_rows_without_any_picture_keep_the_shape_of_one(processor: PlaitProcessor) -> None:
    out = processor(images=[None, [], [None]], return_tensors="pt")
    assert out["pixel_values"].shape == (3, 1, 3, 8, 8)
    assert not out["image_present"].any()
    assert not out["pixel_values"].any()


@pytest.mark.parametrize(
    ("text", "images", "message"),
    [
        (["the", "cat", "dog"], [None, None], "text has 3 rows, images has 2"),
        ("the", [None, None], r"text has 1 rows, images has 2.*\[\[a, b\], \[c\]\]"),
        (["the"], [], "images is an empty list"),
        (None, None, "pass text, images, audio, videos, or several"),
        (None, 5, r"images: 5 \(int\) is neither an image nor a list"),
        (None, [None, 5], r"images, row 1: 5 \(int\) is not an image"),
        (None, [[[None]]], r"images, row 0: \[None\] \(list\) is not an image"),
    ],
)
def test_rows_that_do_not_fit_are_a_clear_error(
    processor: PlaitProcessor, text: Any, images: Any, message: str
) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        processor(text=text, images=images)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"text_pair": "the cat"}, "text_pair was passed without text"),
        ({"num_images": [1]}, "num_images was passed without text"),
        ({"sampling_rate": 16000}, "sampling_rate was passed without audio"),
        ({"max_target_length": 5}, "max_target_length was passed without text_target"),
    ],
)
def test_what_means_nothing_alone_is_a_clear_error(
    processor: PlaitProcessor, picture: Make, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        processor(images=picture(), **options)


def test_options_reach_their_part_flat_or_grouped(processor: PlaitProcessor, batch: dict[str, Any]) -> None:
    size = {"height": 4, "width": 6}
    flat = processor(**batch, max_length=4, size=size, return_tensors="pt")
    groups = {"text_kwargs": {"max_length": 4}, "images_kwargs": {"size": size}}
    grouped = processor(**batch, **groups, return_tensors="pt")
    assert flat["input_ids"].shape == (4, 4)
    assert flat["pixel_values"].shape[-2:] == (4, 6)
    assert same(flat, grouped)
    assert groups == {"text_kwargs": {"max_length": 4}, "images_kwargs": {"size": {"height": 4, "width": 6}}}


def test_the_order_of_channels_can_be_given(processor: PlaitProcessor) -> None:
    both = np.random.default_rng(0).integers(0, 256, (3, 5, 3), dtype=np.uint8)
    first = processor(images=both, images_kwargs={"input_data_format": "channels_first"}, return_tensors="pt")
    assert same(first, processor(images=np.moveaxis(both, 0, -1), return_tensors="pt"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_lenght": 4}, "no option 'max_lenght'; did you mean 'max_length'"),
        ({"text_kwargs": {"sise": 4}}, "text_kwargs has no option 'sise'"),
        ({"images_kwargs": {"sise": 4}}, "images_kwargs has no option 'sise'; did you mean 'size'"),
        ({"max_length": 4, "text_kwargs": {"max_length": 5}}, "'max_length' is given twice"),
        ({"return_overflowing_tokens": True}, "no option 'return_overflowing_tokens'"),
        ({"data_format": "channels_last"}, "no option 'data_format'"),
        ({"audio": [None]}, "no feature_extractor, so it cannot read audio.*audio="),
    ],
)
def test_an_unknown_option_is_never_ignored(processor: PlaitProcessor, options: dict[str, Any], message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        processor(text="the cat", **options)


def test_a_part_may_be_missing(
    bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, picture: Make
) -> None:
    texts, images = PlaitProcessor(tokenizer=bert_tokenizer), PlaitProcessor(image_processor)
    assert (
        set(texts(text="the cat")) == set(texts.model_input_names) == {"input_ids", "token_type_ids", "attention_mask"}
    )
    assert set(images(images=picture())) == set(images.model_input_names) == {"pixel_values", "image_present"}
    with pytest.raises(ValueError, match="no image_processor, so it cannot read images.*image="):
        texts(text="the cat", images=picture())
    with pytest.raises(ValueError, match="no tokenizer, so it cannot read text.*text="):
        images(text="the cat", images=picture())
    with pytest.raises(ValueError, match="no tokenizer"):
        images.batch_decode([[1]])
    with pytest.raises(ValueError, match="a tokenizer, an image processor, a feature extractor, or several"):
        PlaitProcessor()
    with pytest.raises(TypeError, match="image_processor"):
        PlaitProcessor(bert_tokenizer)


@pytest.mark.parametrize("parts", [("image_processor", "tokenizer"), ("image_processor",), ("tokenizer",)])
@pytest.mark.parametrize("beside_a_model", [False, True])
def test_saved_and_reloaded_it_gives_the_same(
    processor: PlaitProcessor, batch: dict[str, Any], tmp_path: Path, parts: tuple[str, ...], beside_a_model: bool
) -> None:
    saved = PlaitProcessor(**{part: getattr(processor, part) for part in parts})
    if beside_a_model:
        PlaitConfig(text_config={"max_position_embeddings": 5}, vision_config={}, fusion_config={}).save_pretrained(
            tmp_path
        )
    saved.save_pretrained(tmp_path)
    inputs = {
        name: batch[name] for name, part in (("text", "tokenizer"), ("images", "image_processor")) if part in parts
    }
    expected = saved(**inputs, return_tensors="pt")
    for reloaded in (PlaitProcessor.from_pretrained(tmp_path), AutoProcessor.from_pretrained(tmp_path)):
        assert type(reloaded) is PlaitProcessor
        assert reloaded.get_attributes() == list(parts)
        assert same(reloaded(**inputs, return_tensors="pt"), expected)
        assert reloaded.to_dict() == saved.to_dict()
        assert repr(reloaded).startswith("PlaitProcessor")


def test_tokenizer_and_image_processor_load_alone(
    processor: PlaitProcessor, batch: dict[str, Any], tmp_path: Path
) -> None:
    PlaitConfig(text_config={}, vision_config={}, fusion_config={}).save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    image_processor = AutoImageProcessor.from_pretrained(tmp_path)
    assembled = PlaitProcessor(image_processor, tokenizer)
    assert same(assembled(**batch, return_tensors="pt"), processor(**batch, return_tensors="pt"))


def test_the_config_decides_where_no_processor_class_is_named(processor: PlaitProcessor, tmp_path: Path) -> None:
    PlaitConfig(text_config={}).save_pretrained(tmp_path)
    processor.tokenizer.save_pretrained(tmp_path)
    config = AutoConfig.from_pretrained(tmp_path)
    assert type(AutoProcessor.from_pretrained(tmp_path, config=config)) is PlaitProcessor


FRESH = """
import json, sys
import numpy as np
from PIL import Image
from plait.processing import register
from transformers import AutoProcessor
modules = {name.split(".")[0] for name in sys.modules}
register()
processor = AutoProcessor.from_pretrained(sys.argv[1])
out = processor(text=["the cat", None], images=[None, Image.new("RGB", (5, 9), "red")])
print(json.dumps([sorted(modules), {name: np.asarray(value).tolist() for name, value in out.items()}]))
"""


def test_a_fresh_process_gives_the_same_and_imports_little(processor: PlaitProcessor, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    run = subprocess.run([sys.executable, "-c", FRESH, str(tmp_path)], check=True, capture_output=True, text=True)
    modules, values = json.loads(run.stdout)
    out = processor(text=["the cat", None], images=[None, Image.new("RGB", (5, 9), "red")])
    assert values == {name: np.asarray(value).tolist() for name, value in out.items()}
    assert not {"torchvision", "datasets", "matplotlib"} & set(modules)


def test_a_fallback_pad_token_survives_saving(
    gpt_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil, tmp_path: Path
) -> None:
    processor = PlaitProcessor(image_processor, gpt_tokenizer)
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path)
    texts = ["the <end>", "what colour is the cat", None]
    assert same(reloaded(text=texts, return_tensors="pt"), processor(text=texts, return_tensors="pt"))


def test_options_of_the_parts_can_be_given_on_loading(processor: PlaitProcessor, picture: Make, tmp_path: Path) -> None:
    processor.save_pretrained(tmp_path)
    reloaded = AutoProcessor.from_pretrained(tmp_path, padding_side="left", do_normalize=False)
    assert reloaded(text=["the", "the cat"])["attention_mask"][0] == [0, 1, 1, 1]
    assert reloaded(images=picture())["pixel_values"].min() >= 0


def test_a_ready_tokenizer_is_not_changed(gpt_tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    before = deepcopy(gpt_tokenizer)
    PlaitProcessor(tokenizer=gpt_tokenizer)(text=["the cat", None, "the"])
    assert gpt_tokenizer.special_tokens_map == before.special_tokens_map
    assert gpt_tokenizer.model_max_length == before.model_max_length
    assert gpt_tokenizer.backend_tokenizer.to_str() == before.backend_tokenizer.to_str()


def test_inputs_are_not_changed(processor: PlaitProcessor, batch: dict[str, Any]) -> None:
    texts, images = list(batch["text"]), [list(row) if isinstance(row, list) else row for row in batch["images"]]
    processor(**batch)
    assert batch == {"text": texts, "images": images}


def test_it_works_in_the_workers_of_a_data_loader(processor: PlaitProcessor, picture: Make) -> None:
    rows = [{"text": text, "images": picture(row)} for row, text in enumerate(["the cat", None, "the dog", "is"])]
    copy = pickle.loads(pickle.dumps(processor))

    def collate(batch: list[dict[str, Any]]) -> BatchFeature:
        columns = {name: [row[name] for row in batch] for name in ("text", "images")}
        return copy(**columns, return_tensors="pt")

    loader = DataLoader(rows, batch_size=2, num_workers=1, collate_fn=collate)
    for number, out in enumerate(loader):
        assert same(out, collate(rows[2 * number : 2 * number + 2]))


def test_a_result_moves_to_a_device_and_a_type(processor: PlaitProcessor, batch: dict[str, Any]) -> None:
    out = processor(**batch, return_tensors="pt").to("meta", torch.bfloat16)
    assert {value.device.type for value in out.values()} == {"meta"}
    assert (out["pixel_values"].dtype, out["input_ids"].dtype, out["image_present"].dtype) == (
        torch.bfloat16,
        torch.int64,
        torch.bool,
    )


TEMPLATE = (
    "{% for message in messages %}{% for part in message['content'] %}"
    "{% if part['type'] == 'text' %}{{ part['text'] }}{% endif %}{% endfor %}{% endfor %}"
)


def test_a_chat_template_of_the_tokenizer_works(processor: PlaitProcessor, picture: Make, tmp_path: Path) -> None:
    processor.tokenizer.chat_template = TEMPLATE
    chatting = PlaitProcessor(processor.image_processor, processor.tokenizer)
    chatting.save_pretrained(tmp_path)
    content = [{"type": "image", "image": picture()}, {"type": "text", "text": "the cat"}]
    for each in (chatting, AutoProcessor.from_pretrained(tmp_path)):
        out = each.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=True, return_dict=True, return_tensors="pt"
        )
        assert same(out, processor(text=["the cat"], images=[[picture()]], return_tensors="pt"))


def test_pipelines_take_its_parts(processor: PlaitProcessor, picture: Make) -> None:
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    fill = pipeline("fill-mask", BertForMaskedLM(BertConfig(vocab_size=15, **sizes)), tokenizer=processor.tokenizer)
    assert len(fill("the [MASK]", top_k=3)) == 3
    vit = ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, num_labels=2, **sizes))
    classify = pipeline("image-classification", vit, image_processor=processor.image_processor)
    assert {found["label"] for found in classify(picture())} == {"LABEL_0", "LABEL_1"}
