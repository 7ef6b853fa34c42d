"""Tiny tokenizers, image processors and pictures, made here."""

from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from plait.processing import PlaitProcessor, register

WORDS = "[PAD] [UNK] [CLS] [SEP] [MASK] is the cat dog red blue where what colour".split()


def word_level(words: list[str]) -> Tokenizer:
    tokenizer = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token=words[1]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return tokenizer


@pytest.fixture(scope="session", autouse=True)
def registered() -> None:
    register()


@pytest.fixture
def bert_tokenizer() -> PreTrainedTokenizerFast:
    """[CLS] text [SEP], with segment ids, at most 8 tokens."""
    tokenizer = word_level(WORDS)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    names = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", "sep_token": "[SEP]"}
    inputs = ["input_ids", "token_type_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, model_max_length=8, model_input_names=inputs, mask_token="[MASK]", **names
    )


@pytest.fixture
def gpt_tokenizer() -> PreTrainedTokenizerFast:
    """No special token is added, and there is no pad token."""
    tokenizer = word_level(["<end>", "<unk>", *WORDS[5:]])
    inputs = ["input_ids", "attention_mask"]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", eos_token="<end>", model_input_names=inputs
    )


@pytest.fixture
def image_processor() -> ViTImageProcessorPil:
    return ViTImageProcessorPil(size={"height": 8, "width": 8})


@pytest.fixture
def processor(bert_tokenizer: PreTrainedTokenizerFast, image_processor: ViTImageProcessorPil) -> PlaitProcessor:
    return PlaitProcessor(image_processor=image_processor, tokenizer=bert_tokenizer)


@pytest.fixture
def picture() -> Callable[..., Image.Image]:
    """`picture(seed, width, height)`: a smooth made picture, RGB."""

    def make(seed: int = 0, width: int = 12, height: int = 10) -> Image.Image:
        coarse = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
        return Image.fromarray(coarse).resize((width, height), Image.Resampling.BICUBIC)

    return make


@pytest.fixture
def file_bytes() -> Callable[..., bytes]:
    """`file_bytes(picture, format, **options)`: the picture as the bytes of a file."""

    def make(image: Image.Image, file_format: str = "PNG", **options: object) -> bytes:
        buffer = BytesIO()
        image.save(buffer, file_format, **options)
        return buffer.getvalue()

    return make
