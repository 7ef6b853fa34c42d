"""Makes tiny recipes of every task with their data, and the run folders that `plait train` fills from them.

A folder holds the data (`*.jsonl`, `images/`, `tokenizer/`), the run itself (`run/`) and what `plait predict` answers
(`predictions/`). Paths in a recipe are relative to that folder, in which the commands run.
"""

import json
import os
import runpy
import shutil
import sys
from collections.abc import Iterator
from contextlib import chdir, contextmanager
from pathlib import Path
from typing import Any

import yaml
from PIL import Image

from .tiny_processors import make_tokenizer

COLOURS = {"red": (220, 30, 30), "blue": (40, 60, 230)}
QUESTIONS = ("what colour is it ?", "is it red ?")
ENGLISH, GERMAN = "a big red dog cat runs".split(), "ein gross rot Hund Katze rennt".split()
NAMES = {"Anna": "Rome", "Ben": "Paris", "Cara": "Berlin"}
WORDS = [*"what where does live colour is it ? blue square that yes no".split(), *ENGLISH, *GERMAN]
WORDS += [word for pair in NAMES.items() for word in pair]
TINY: dict[str, Any] = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
TINY |= {"initializer_range": 0.2}
TEXT = {"config": {**TINY, "max_position_embeddings": 48}}
SEGMENTS = {"config": {**TEXT["config"], "type_vocab_size": 2}}
EMBEDDINGS = {"num_hidden_layers": 0, "output_norm": False}  # a tower without layers: most files need no more
WORD = {"config": {**TEXT["config"], **EMBEDDINGS}}
IMAGE = {"config": {**TINY, **EMBEDDINGS, "image_size": 8, "patch_size": 4}}
# a large epsilon keeps the steps of gradients that are only rounding small
TRAINING: dict[str, Any] = {"use_cpu": True, "disable_tqdm": True, "report_to": "none", "save_strategy": "no"}
TRAINING |= {"per_device_train_batch_size": 3, "learning_rate": 1e-2, "adam_epsilon": 1e-2, "max_steps": 4}
TRAINING |= {"probe_products": False, "logging_steps": 1}
SAVING = {"save_strategy": "steps", "save_steps": 2, "average_decay": 0.9, "learning_rates": {"image": 2e-3}}
TRAINED = {"train": {"vocab_size": 280, "min_frequency": 1}}
GIVEN = {"from_pretrained": "tokenizer"}
SPECIAL = "[PAD] [CLS] [SEP] [MASK] [UNK]".split()
COLUMNS = {"text": "question", "image": "file", "label": "answer"}
PROJECTED = {"retrieval_config": {"projection_dim": 6}}
# what each run is asked, where it is not the rows that it was trained on: a model's folder and arguments
ASKED: dict[str, list[tuple[str, ...]]] = {
    "masked_lm": [("run", "--text", "a [MASK] dog", "--text", "red [MASK]")],
    "several_tasks": [
        ("run/answers", "--data", "answers.jsonl"),
        ("run/words", "--text", "a [MASK] square", "--text", "it is [MASK]"),
    ],
}

Rows = list[dict[str, Any]]


def make_questions() -> Rows:
    """Returns questions about squares of each colour, with their answers."""
    answers = {(question, colour): colour if question.startswith("what") else ("yes" if colour == "red" else "no")
               for question in QUESTIONS for colour in COLOURS}  # fmt: skip
    return [
        {"question": question, "file": f"images/{colour}.png", "answer": answer}
        for (question, colour), answer in answers.items()
    ]


def make_captions() -> Rows:
    """Returns squares with two captions each."""
    return [
        {"image": f"images/{colour}.png", "text": [f"a {colour} square", f"a square that is {colour}"]}
        for colour in COLOURS
    ]


def make_translations() -> Rows:
    """Returns sentences and their translations, word by word."""
    pairs = list(zip(ENGLISH, GERMAN, strict=True))
    rows = [[pairs[(number * (place + 3)) % len(pairs)] for place in range(2 + number % 3)] for number in range(6)]
    return [{"text": " ".join(a for a, _ in row), "target": " ".join(b for _, b in row)} for row in rows]


def make_contexts() -> Rows:
    """Returns questions whose answers stand in a context."""
    rows = []
    for name, city in NAMES.items():
        context = f"Nothing happens here . {name} lives in {city} . Nobody comes ."
        answers = {"text": [city], "answer_start": [context.index(city)]}
        rows.append({"question": f"Where does {name} live ?", "context": context, "answers": answers})
    return rows


def make_chats() -> Rows:
    """Returns dialogues of a question and an answer."""
    asked = [(f"Where does {name} live ?", city) for name, city in NAMES.items()]
    roles = ("user", "assistant")
    return [{"messages": [{"role": r, "content": c} for r, c in zip(roles, turns, strict=True)]} for turns in asked]


def make_recipe(task: str, rows: Rows, model: dict[str, Any], **keys: Any) -> tuple[dict[str, Any], dict[str, Rows]]:
    """Returns a recipe as plain values, and the rows of its data by file."""
    source = dict.fromkeys(("train", "validation"), "rows.jsonl")
    recipe = {"task": task, "model": model, "tokenizer": GIVEN, "data": {"source": source}, "seed": 3}
    recipe |= {"training": TRAINING, "output_dir": "run"}
    recipe["data"] |= keys.pop("data", {})
    return {**recipe, **keys}, {"rows.jsonl": rows}


def make_tasks_recipe() -> tuple[dict[str, Any], dict[str, Rows]]:
    """Returns the recipe of one model that learns to classify, to fill in words and to match images."""
    renamed = [{role: row[name] for role, name in COLUMNS.items()} for row in make_questions()]
    files = {"answers.jsonl": renamed, "words.jsonl": [{"text": row["text"][0]} for row in make_captions()]}
    files["pairs.jsonl"] = [{"text": row["text"][1], "image": row["image"]} for row in make_captions()]
    sources = {file: {"source": dict.fromkeys(("train", "validation"), file)} for file in files}
    objectives = {"objectives": {"contrastive": 1.0, "matching": 1.0, "masked_image": 0.5}}
    tasks: dict[str, Any] = {
        "answers": {"task": "classification", "data": sources["answers.jsonl"]},
        "words": {"task": "masked_lm", "data": sources["words.jsonl"], "settings": {"mlm_probability": 0.5}},
        "pairs": {"task": "pretraining", "data": sources["pairs.jsonl"], "settings": objectives, "weight": 0.5},
    }
    tasks["answers"]["metrics"] = ["accuracy"]
    model = {"text": WORD, "image": IMAGE, "fusion_config": TINY, "options": PROJECTED}
    training = {**TRAINING, "per_device_train_batch_size": 2}
    shared = {"model": model, "tokenizer": GIVEN, "training": training, "temperature": 2.0, "seed": 3}
    return {**shared, "tasks": tasks, "output_dir": "run"}, files


def tiny_runs() -> dict[str, tuple[dict[str, Any], dict[str, Rows]]]:
    """Returns all recipes with the rows of their data, by the name of their folder."""
    both = {"text": WORD, "image": IMAGE}
    objectives = {"objectives": {"contrastive": 1.0, "matching": 1.0, "masked_lm": 0.5}}
    writing = {"generation": {"max_new_tokens": 4, "min_new_tokens": 2, "do_sample": False}}
    captions = [{"image": row["image"], "target": row["text"]} for row in make_captions()]
    sentences = [{"text": row["text"]} for row in make_translations()]
    pairs = [{"text": row["text"][0], "image": row["image"]} for row in make_captions()]
    return {
        "classification": make_recipe(
            "classification",
            make_questions(),
            {"text": TEXT, "image": IMAGE, "fusion": "cross_attention", "query": "text", "fusion_config": TINY},
            tokenizer=TRAINED,
            data={"columns": COLUMNS},
            metrics=["accuracy", "f1_macro"],
        ),
        "interrupted": make_recipe(
            "classification",
            make_questions(),
            {**both, "fusion": "late_mean", "fusion_config": TINY},
            data={"columns": COLUMNS},
            training={**TRAINING, **SAVING},
        ),
        "translation": make_recipe(
            "generation",
            make_translations(),
            {"text": TEXT, "decoder": TEXT},
            metrics=["bleu", "exact_match"],
            **writing,
        ),
        "captioning": make_recipe(
            "generation",
            captions,
            {"image": IMAGE, "decoder": TEXT},
            metrics=["exact_match"],
            settings={"references": "each"},
            **writing,
        ),
        "question_answering": make_recipe(
            "question_answering",
            make_contexts(),
            {"text": SEGMENTS},
            tokenizer=TRAINED,
            metrics=["exact_match", "token_f1"],
            max_length=40,
            settings={"doc_stride": 8},
        ),
        "causal_lm": make_recipe("causal_lm", sentences, {"decoder": TEXT}, tokenizer=TRAINED, **writing),
        "dialogue": make_recipe("dialogue", make_chats(), {"decoder": TEXT}, metrics=["exact_match"], **writing),
        "masked_lm": make_recipe("masked_lm", sentences, {"text": TEXT}, settings={"mlm_probability": 0.4}),
        "retrieval": make_recipe(
            "retrieval",
            make_captions(),
            {**both, "options": PROJECTED},
        ),
        "pretraining": make_recipe(
            "pretraining",
            pairs,
            {**both, "fusion_config": TINY, "options": PROJECTED},
            settings=objectives,
        ),
        "several_tasks": make_tasks_recipe(),
    }


def write_data(name: str, folder: Path) -> None:
    """Writes what the run of this name reads: its rows, its images, its tokenizer."""
    recipe, files = tiny_runs()[name]
    for file, rows in files.items():
        (folder / file).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    if "images/" in str(files):
        (folder / "images").mkdir()
        for colour, value in COLOURS.items():
            Image.new("RGB", (8, 8), value).save(folder / "images" / f"{colour}.png")
    if recipe["tokenizer"] == GIVEN:
        make_tokenizer([*SPECIAL, *WORDS], length=24).save_pretrained(str(folder / "tokenizer"))


@contextmanager
def arguments_of_process(arguments: tuple[str, ...]) -> Iterator[None]:
    """Gives the process these arguments while it lasts."""
    before, sys.argv = sys.argv, ["plait", *arguments]
    try:
        yield
    finally:
        sys.argv = before


def run_command(folder: Path, *arguments: str) -> None:
    """Runs `python -m plait` with these arguments in a folder, within this process.

    Raises RuntimeError where the command fails.
    """
    with chdir(folder), arguments_of_process(arguments):
        try:
            runpy.run_module("plait", run_name="__main__", alter_sys=False)
        except SystemExit as ended:
            if ended.code != 0:
                raise RuntimeError(f"plait {' '.join(arguments)} ended with {ended.code}") from ended


def predict(folder: Path, output: Path) -> None:
    """Writes what the models of a run answer: a file a model, with paths relative to the run."""
    output.mkdir()
    for model, *asked in ASKED.get(folder.name, [("run", "--data", "rows.jsonl")]):
        file = output / f"{Path(model).name}.jsonl"
        run_command(folder, "predict", model, *asked, "--output", str(file))
        file.write_text(file.read_text(encoding="utf-8").replace(f"{folder}{os.sep}", ""), encoding="utf-8")


def save_run(folder: Path) -> None:
    """Trains the recipe of this folder's name, and writes what its models answer."""
    write_data(folder.name, folder)
    recipe, _ = tiny_runs()[folder.name]
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    run_command(folder, "train", "recipe.yaml")
    (folder / "recipe.yaml").unlink()  # the run has its own
    predict(folder, folder / "predictions")
    shutil.rmtree(folder / "run" / "checkpoints" / "checkpoint-4", ignore_errors=True)  # one with steps to go is left
    for pickled in folder.rglob("training_args.bin"):
        pickled.unlink()  # nothing reads it, and no text editor either
