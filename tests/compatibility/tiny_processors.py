"""Makes the processors that are saved beside tiny models, and the rows that they read."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import plait

from .tiny_models import list_tiny_models

SPECIAL = ("[PAD]", "[CLS]", "[SEP]", "[MASK]", "[UNK]")
WORDS = (*SPECIAL, *"is the cat dog red blue where what colour a".split())
OTHER_WORDS = (*SPECIAL, *"ist die katze der hund rot blau".split())
TEXTS = ["what colour is the cat", "where is a dog"]
RATE = 16000  # samples a second


def make_tokenizer(words: Sequence[str] = WORDS, length: int = 12) -> PreTrainedTokenizerFast:
    """Returns a tokenizer of these words that wraps a text as [CLS] text [SEP]."""
    numbers = {word: number for number, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(numbers, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    ends = [(name, numbers[name]) for name in ("[CLS]", "[SEP]")]
    tokenizer.post_processor = processors.TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)
    names = {"pad": "[PAD]", "cls": "[CLS]", "sep": "[SEP]", "mask": "[MASK]", "unk": "[UNK]"}
    names |= {"bos": "[CLS]", "eos": "[SEP]"}
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_max_length=length,
        model_input_names=["input_ids", "attention_mask"],
        **{f"{name}_token": token for name, token in names.items()},
    )


def make_images() -> list[np.ndarray]:
    """Returns two images of different sizes, as bytes (height, width, channels)."""
    generator = np.random.default_rng(0)
    return [
        generator.integers(0, 256, (6, 7, 3), dtype=np.uint8),
        generator.integers(0, 256, (9, 5, 3), dtype=np.uint8),
    ]


def make_clips() -> list[np.ndarray]:
    """Returns two tones of 40 and 55 milliseconds."""
    return [np.sin(np.arange(count) / 9).astype(np.float32) / 2 for count in (640, 880)]


def make_videos() -> list[np.ndarray]:
    """Returns two videos of five and six frames, as bytes (frames, height, width, channels)."""
    generator = np.random.default_rng(1)
    return [generator.integers(0, 256, (count, 5, 6, 3), dtype=np.uint8) for count in (5, 6)]


@cache
def list_processors() -> dict[str, tuple[Any, dict[str, Any]]]:
    """Returns processors with the rows that they are given, by the folder in which they are saved."""
    compose = plait.PlaitProcessor.compose
    configs = {name: plait.PlaitConfig(**tiny.config) for name, tiny in list_tiny_models().items()}
    image, video = (configs[name] for name in ("model_image_patches", "model_video_frames"))
    inline = compose(image=image, decoder=make_tokenizer(length=24), image_token="<image>", num_image_tokens=5)
    inline.chat_template = "{% for message in messages %}{{ message['content'] }} {% endfor %}"
    listening = [name for name, config in configs.items() if name.startswith("model_audio") and "layer" not in name]
    text = {"text": TEXTS}
    made = {
        "classification_text_image": (compose(text=make_tokenizer(), image=image), {**text, "images": make_images()}),
        "model_text_post_norm": (compose(text=make_tokenizer()), text),
        "model_image_patches": (compose(image=image), {"images": make_images()}),
        "model_video_frames": (compose(video=video, num_frames=3), {"videos": make_videos()}),
        "generation_text": (
            compose(text=make_tokenizer(), decoder=make_tokenizer(OTHER_WORDS)),
            {**text, "text_target": ["die katze ist rot", "der hund"]},
        ),
        "generation_image": (
            compose(image=image, decoder=make_tokenizer()),
            {"images": make_images(), "text_target": TEXTS},
        ),
        "causal_lm_image": (inline, {"text": [f"<image> {row}" for row in TEXTS], "images": make_images()}),
    }
    heard = {"audio": make_clips(), "sampling_rate": RATE}
    return made | {name: (compose(audio=configs[name].audio_config), heard) for name in listening}


def make_sentence_processor() -> Any:
    """Returns the processor of the embedder: texts and images."""
    image = plait.PlaitConfig(**list_tiny_models()["model_image_patches"].config)
    return plait.PlaitProcessor.compose(text=make_tokenizer(), image=image)


def make_word_vectors() -> tuple[list[str], torch.Tensor]:
    """Returns words and their vectors."""
    words = ["the", "red", "cat", "sat", "."]
    return words, torch.randn(len(words), 6, generator=torch.Generator().manual_seed(4))
