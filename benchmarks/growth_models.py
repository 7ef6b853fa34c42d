"""The cases of growth.py in which a model's input grows: length, and images a row."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from growth import Case, Work
from transformers import set_seed

from plait import PlaitForCausalLM, PlaitForClassification, PlaitModel
from plait.configuration import PlaitDecoderConfig, PlaitTextConfig, PlaitVisionConfig

SHAPE = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
VOCABULARY, LONGEST = 8192, 8192
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
ATTENTION = (2.0, 1.0)  # every token attends to every other: quadratic in time, and no table of them is kept


def make_ids(*lengths: int) -> dict[str, torch.Tensor]:
    """Makes rows of tokens of these lengths, padded to the longest."""
    mask = (torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(1, VOCABULARY, mask.shape, generator=torch.Generator().manual_seed(0))
    return {"input_ids": ids * mask, "attention_mask": mask}


def make_text_config(kind: type[PlaitTextConfig], **changes: Any) -> PlaitTextConfig:
    """Makes a tower or decoder of texts of any length up to LONGEST."""
    return kind(**SHAPE, vocab_size=VOCABULARY, max_position_embeddings=LONGEST + 1, pad_token_id=0, **changes)


def make_decoder() -> PlaitForCausalLM:
    """Makes a language model."""
    set_seed(0)
    return PlaitForCausalLM.compose(decoder=make_text_config(PlaitDecoderConfig), verbose=False).eval()


def encode_text(size: int, folder: Path) -> Work:
    """Prepares the encoding of two texts, one half as long as the other."""
    set_seed(0)
    model = PlaitModel.compose(text=make_text_config(PlaitTextConfig), verbose=False).eval()
    inputs = make_ids(size, size // 2)

    def work() -> None:
        with torch.inference_mode():
            model(**inputs)

    return work


def train_text(size: int, folder: Path) -> Work:
    """Prepares the forward and backward pass of the same in a language model, with its loss over 8,192 tokens."""
    model, inputs = make_decoder().train(), make_ids(size, size // 2)
    labels = inputs["input_ids"].masked_fill(inputs["attention_mask"] == 0, -100)

    def work() -> None:
        model.zero_grad(set_to_none=True)
        model(**inputs, labels=labels).loss.backward()

    return work


def generate_text(size: int, folder: Path) -> Work:
    """Prepares the generation of that many tokens."""
    model, inputs = make_decoder(), make_ids(8)
    return lambda: model.generate(**inputs, do_sample=False, min_new_tokens=size, max_new_tokens=size)


def read_images(size: int, folder: Path, fusion: str) -> Work:
    """Prepares four rows with a text and that many images each, of 16 tokens."""
    set_seed(0)
    vision = PlaitVisionConfig(**{**SHAPE, "num_hidden_layers": 1}, image_size=32, patch_size=8)
    text = make_text_config(PlaitTextConfig)
    options: Any = {"fusion": fusion, "fusion_config": SHAPE, "labels": ["a", "b"]}
    model = PlaitForClassification.compose(text=text, image=vision, **options, verbose=False)
    inputs = {**make_ids(8, 8, 8, 8), "pixel_values": torch.randn(4, size, 3, 32, 32)}
    model.eval()

    def work() -> None:
        with torch.inference_mode():
            model(**inputs)

    return work


IMAGES = (1, 2, 4, 8, 16, 32, 64)
CASES: dict[str, Case] = {
    "encode": Case("length", "encode two texts", LENGTHS, encode_text, ATTENTION),
    "train": Case("length", "language model, forward + backward", LENGTHS, train_text, ATTENTION),
    "generate": Case("length", "generate, one text", (64, 128, 256, 512, 1024, 2048), generate_text, ATTENTION),
    "images-early": Case(
        "images a row", "`early` fusion, 4 rows", IMAGES, partial(read_images, fusion="early"), ATTENTION
    ),
    "images-cross": Case(
        "images a row", "`cross_attention`, 4 rows", IMAGES, partial(read_images, fusion="cross_attention")
    ),
}
