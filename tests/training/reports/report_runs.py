"""Finished runs of every task on made data, with their reports."""

import json
import wave
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
TEXT = {"config": {**TINY, "max_position_embeddings": 32}}
PICTURE = {"config": {**TINY, "image_size": 16, "patch_size": 8}}
COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
WORDS = ("big", "small", "round", "<b>loud</b>", "quiet")


def write_rows(folder: Path, count: int = 24) -> list[dict[str, Any]]:
    """Squares with texts, sounds, a class, several labels, a number and targets."""
    rows = []
    for number in range(count):
        colour, word = list(COLOURS)[number % 3], WORDS[number % 5]
        pixels = np.full((16, 16, 3), COLOURS[colour], np.uint8)
        pixels[: number % 7] = 255
        Image.fromarray(pixels).save(folder / f"{number}.png")
        with wave.open(str(folder / f"{number}.wav"), "wb") as file:
            file.setparams((1, 2, 8000, 0, "NONE", ""))
            file.writeframes((3000 * np.sin(np.arange(1600) * (number % 3 + 1) / 5)).astype("<i2").tobytes())
        rows.append(
            {
                "words": f"a {word} {colour} square & more {number}",
                "picture": f"{number}.png",
                "sound": f"{number}.wav",
                "kind": colour if number % 6 else "red",
                "tags": [colour, word][: 1 + number % 2],
                "price": 1.5 * (number % 5) + 0.25,
                "caption": f"a {colour} square",
                "question": f"What colour is square {number} ?",
                "context": f"Square {number} is {colour} and {word} .",
                "answers": {"text": [colour], "answer_start": [len(f"Square {number} is ")]},
                "messages": [{"role": "user", "content": word}, {"role": "assistant", "content": colour}],
            }
        )
    return rows


FUSED = {"text": TEXT, "image": PICTURE, "fusion": "early", "fusion_config": TINY}
RECIPES: dict[str, dict[str, Any]] = {
    "classes": {
        "task": "classification",
        "model": FUSED,
        "columns": ("text words", "image picture", "label kind"),
        "metrics": ["accuracy"],
    },
    "labels": {"task": "classification", "model": {"text": TEXT}, "columns": ("text words", "label tags")},
    "numbers": {"task": "classification", "model": {"image": PICTURE}, "columns": ("image picture", "label price")},
    "sounds": {
        "task": "classification",
        "model": {"audio": {"config": {**TINY, "model_type": "plait_spectrogram", "num_mel_bins": 16}}},
        "columns": ("audio sound", "label kind"),
    },
    "captions": {
        "task": "generation",
        "model": {"image": PICTURE, "decoder": TEXT},
        "columns": ("image picture", "target caption"),
        "metrics": ["exact_match"],
        "generation": {"max_new_tokens": 4},
    },
    "search": {
        "task": "retrieval",
        "model": {"text": TEXT, "image": PICTURE},
        "columns": ("image picture", "text caption"),
    },
    "answers": {
        "task": "question_answering",
        "model": {"text": {"config": {**TEXT["config"], "type_vocab_size": 2}}},
        "columns": ("question question", "context context", "answers answers"),
        "max_length": 30,
        "settings": {"doc_stride": 8},
    },
    "chats": {
        "task": "dialogue",
        "model": {"decoder": TEXT},
        "columns": ("messages messages",),
        "generation": {"max_new_tokens": 4},
        "metrics": ["exact_match"],
    },
    "words": {
        "task": "causal_lm",
        "model": {"decoder": TEXT},
        "columns": ("text words",),
        "generation": {"max_new_tokens": 4},
    },
    "masked": {"task": "masked_lm", "model": {"text": TEXT}, "columns": ("text words",)},
    "pretraining": {"task": "pretraining", "model": FUSED, "columns": ("text words", "image picture")},
    "drawings": {
        "task": "image_generation",
        "model": {
            "text": TEXT,
            "freeze": ["text"],
            "options": {"image_size": 16, "patch_size": 8, "denoiser_config": TINY},
        },
        "columns": ("text words", "target_image picture"),
        "settings": {"num_inference_steps": 2, "grid_images": 3},
    },
}


def build_content(name: str, folder: Path, **changes: Any) -> dict[str, Any]:
    """A recipe as plain values; its rows are written to the folder."""
    recipe = dict(RECIPES[name])
    for split in ("train", "validation"):
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in write_rows(folder)))
    columns = dict(column.split() for column in recipe.pop("columns"))
    content = {
        **json.loads(json.dumps(recipe)),
        "data": {
            "source": {split: str(folder / f"{split}.jsonl") for split in ("train", "validation")},
            "columns": columns,
        },
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "probe_products": False,
            "save_strategy": "no",
            "eval_strategy": "epoch",
            "logging_steps": 1,
            "per_device_train_batch_size": 12,
            "num_train_epochs": 2,
            "learning_rate": 1e-2,
        },
        "seed": 0,
        "output_dir": str(folder / "run"),
    }
    if "text" in content["model"] or "decoder" in content["model"]:
        content["tokenizer"] = {"train": {"vocab_size": 340, "min_frequency": 1}}
    return content | changes
