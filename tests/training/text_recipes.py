"""Tiny recipes of every task that reads or writes text, with made data: what the tests of those tasks run over."""

import json
from pathlib import Path
from typing import Any

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 48}
TEXT = {**TINY, "initializer_range": 0.2}
ENGLISH, GERMAN = "a big red dog cat runs sleeps here", "ein gross rot Hund Katze rennt schläft hier"
WORDS = dict(zip(ENGLISH.split(), GERMAN.split(), strict=True))
COLOURS = ("red", "green", "blue")
NAMES = {"Anna": "Rome", "Ben": "Paris", "Cara": "Berlin", "Dan": "London"}
FILLER = "Nothing happens in this place and nobody comes . "


def sentence(number: int) -> list[str]:
    """One of many sentences of two to six words."""
    words = list(WORDS)
    return [words[(number * (place + 3) + place * place) % len(words)] for place in range(2 + number % 5)]


def pairs(count: int) -> list[dict[str, Any]]:
    """Sentences and their translations, word by word."""
    return [
        {"text": " ".join(words), "target": " ".join(WORDS[word] for word in words)}
        for words in map(sentence, range(count))
    ]


def captions(pictures: dict[str, Path]) -> list[dict[str, Any]]:
    """A caption or two for each square."""
    return [
        {"image": str(pictures[colour]), "target": [f"a {colour} square", f"a square that is {colour}"]}
        for colour in COLOURS
    ]


def questions(filler: int = 2) -> list[dict[str, Any]]:
    """Where somebody lives, in contexts whose answer stands deeper and deeper."""
    rows = []
    for depth, (name, city) in enumerate(NAMES.items()):
        context = FILLER * (depth * filler) + f"{name} lives in {city} . " + FILLER * 2
        answers = {"text": [city], "answer_start": [context.index(city)]}
        rows.append({"question": f"Where does {name} live ?", "context": context, "answers": answers})
    return rows


def chats() -> list[dict[str, Any]]:
    """Two turns: a name, and where that one lives."""
    rows = []
    for name, city in NAMES.items():
        asked = (f"Who is there ? {name[0]}", name, "And from where ?", city)
        roles = ("user", "assistant", "user", "assistant")
        rows.append({"messages": [{"role": r, "content": text} for r, text in zip(roles, asked, strict=True)]})
    return rows


MODELS: dict[str, dict[str, Any]] = {
    "translation": {"text": {"config": TEXT}, "decoder": {"config": TEXT}},
    "captioning": {
        "image": {"config": {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 16}},
        "decoder": {"config": TEXT},
    },
    "causal_lm": {"decoder": {"config": TEXT}},
    "dialogue": {"decoder": {"config": TEXT}},
    "question_answering": {"text": {"config": {**TEXT, "type_vocab_size": 2}}},
}
TASKS = {name: name if name in ("causal_lm", "dialogue", "question_answering") else "generation" for name in MODELS}
METRICS = {
    "translation": ["bleu", "exact_match"],
    "captioning": ["cider", "exact_match"],
    "dialogue": ["exact_match"],
    "question_answering": ["exact_match", "token_f1"],
    "causal_lm": [],
}


def rows_for(name: str, pictures: dict[str, Path]) -> list[dict[str, Any]]:
    """The made data of one recipe."""
    if name == "causal_lm":
        return [{"text": row["text"]} for row in pairs(12)]
    made = {"translation": lambda: pairs(12), "captioning": lambda: captions(pictures)}
    return (made | {"dialogue": chats, "question_answering": questions})[name]()


def recipe_for(name: str, folder: Path, pictures: dict[str, Path], **training: Any) -> dict[str, Any]:
    """A recipe as plain values, its data written to the folder; the same rows are trained on and measured."""
    file = folder / f"{name}.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows_for(name, pictures)))
    content = {
        "task": TASKS[name],
        "model": json.loads(json.dumps(MODELS[name])),
        "tokenizer": {"train": {"vocab_size": 340, "min_frequency": 1, "lowercase": False}},
        "data": {"source": {split: str(file) for split in ("train", "validation")}},
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "per_device_train_batch_size": 12,
            "learning_rate": 5e-3,
            "lr_scheduler_type": "constant_with_warmup",
            "warmup_steps": 5,
            "num_train_epochs": 160,
            **training,
        },
        "metrics": METRICS[name],
        "output_dir": str(folder / f"run-{name}"),
    }
    if TASKS[name] not in ("question_answering",):
        content["generation"] = {"max_new_tokens": 16, "do_sample": False}
    if name == "question_answering":
        content |= {"max_length": 44, "settings": {"doc_stride": 12}}
    return content
