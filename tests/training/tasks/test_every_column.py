"""Every column that a recipe may map, in every task: the model reads it, or the recipe is an error."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from datasets import Dataset
from PIL import Image
from transformers import set_seed

from plait import PlaitProcessor
from plait.training.data.columns import map_roles, name_columns
from plait.training.data.inputs import collect_rows
from plait.training.data.labels import SINGLE, LabelSpec
from plait.training.data.loading import DataSplits, load_data
from plait.training.data.sources import SOURCES
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe, Recipe
from plait.training.runs.assembly import build_arguments, build_collator, build_processor_and_model
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.base import Task
from plait.training.tasks.registry import TASKS, find_task

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.5}
TEXT = {"config": {**TINY, "max_position_embeddings": 96, "type_vocab_size": 2}}
DECODER = {"config": {**TINY, "max_position_embeddings": 96}}
IMAGE = {"config": {**TINY, "image_size": 8, "patch_size": 4}}
AUDIO = {"config": {**TINY, "num_mel_bins": 8, "max_position_embeddings": 50}}
FUSION = {"fusion_config": TINY, "options": {"initializer_range": 0.5}}
MODELS: dict[str, dict[str, Any]] = {
    "classification": {"text": TEXT, "image": IMAGE, "audio": AUDIO, **FUSION},
    "masked_lm": {"text": TEXT, "image": IMAGE, **FUSION},
    "generation": {"text": TEXT, "image": IMAGE, "audio": AUDIO, "decoder": DECODER, "options": FUSION["options"]},
    "causal_lm": {"decoder": DECODER},
    "dialogue": {"decoder": DECODER},
    "dialogue with images": {"image": IMAGE, "decoder": DECODER},
    "preference": {"decoder": DECODER},
    "preference with images": {"image": IMAGE, "decoder": DECODER},
    "question_answering": {"text": TEXT, "image": IMAGE, **FUSION},
    "pretraining": {"text": TEXT, "image": IMAGE, **FUSION},
    "retrieval": {"text": TEXT, "image": IMAGE},
    "retrieval of sound": {"text": TEXT, "audio": AUDIO},
    "retrieval of documents": {"text": TEXT, "options": {"document": "shared"}},
    "image_generation": {
        "text": TEXT,
        "image": IMAGE,
        "audio": AUDIO,
        "fusion_config": TINY,
        "options": {"image_size": 8, "patch_size": 4, "hidden_size": 16, "num_hidden_layers": 1},
    },
    "image_autoencoding": {"options": {"autoencoder_config": {"hidden_sizes": [8, 16], "group_size": 4}}},
}
WORDS = ["a red dog", "the blue cat", "one green bird", "two small cats"]
OTHER = "some quite different words"


def image(folder: Path, number: int) -> str:
    pixels = np.random.default_rng(number).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / f"{number}.png")
    return str(folder / f"{number}.png")


def sound(number: int) -> list[float]:
    return np.random.default_rng(number).normal(size=4000).astype(np.float32).tolist()


def columns_of(folder: Path) -> dict[str, list[Any]]:
    """Columns of every kind, with several of each text."""
    made: dict[str, list[Any]] = {}
    for place in range(3):
        made[f"words {place}"] = [f"{words} {place}" for words in WORDS]
        made[f"image {place}"] = [image(folder, 4 * place + row) for row in range(4)]
        made[f"audio {place}"] = [sound(4 * place + row) for row in range(4)]
    made["rate"] = [16000] * 4
    made["class"] = ["x", "y", "x", "y"]
    made["chat"] = [[{"role": "user", "content": w}, {"role": "assistant", "content": w}] for w in WORDS]
    made["context"] = [f"here is {words} and no more" for words in WORDS]
    made["answers"], made["start"] = WORDS, [8] * 4
    made["spans"] = [{"text": [words], "answer_start": [8]} for words in WORDS]
    return made


def change(columns: dict[str, list[Any]], name: str) -> dict[str, list[Any]]:
    """The columns with another value in the first row of one of them."""
    first = columns[name][0]
    if name == "answers":
        return {**columns, "answers": ["red dog", *WORDS[1:]], "start": [10, 8, 8, 8]}
    if name == "start":
        return {**columns, "context": [WORDS[0] + " is here", *columns["context"][1:]], "start": [0, 8, 8, 8]}
    if name == "spans":
        value: Any = {"text": ["red dog"], "answer_start": [10]}
    elif name == "context":
        value = "here is a red dog and more of it"
    elif name == "chat":
        value = [{"role": "user", "content": OTHER}, *first[1:]]
    elif name.startswith("image"):
        value = columns[name][-1]
    elif isinstance(first, list):
        value = first[::-1]
    else:
        value = {"rate": 8000, "class": "y"}.get(name, OTHER)
    return {**columns, name: [value, *columns[name][1:]]}


# task, the columns it is given, and the columns whose change must show (all of them by default)
CASES: list[tuple[str, dict[str, str | list[str]], list[str]]] = []


def case(task: str, watched: list[str] | None = None, **mapping: str | list[str]) -> None:
    names = [name for value in mapping.values() for name in ([value] if isinstance(value, str) else value)]
    CASES.append((task, mapping, names if watched is None else watched))


W = [f"words {place}" for place in range(3)]
for many in (["words 0"], W[:2], W):
    one: Any = many if len(many) > 1 else many[0]
    case("classification", text=one, label="class")
    case("masked_lm", many, text=one)
    case("generation", text=one, target="context")
    case("generation", many, image="image 0", target=one)
    case("causal_lm", text=one)
    case("dialogue", prompt=one, target="context")
    case("dialogue", many, prompt="context", target=one)
    case("question_answering", many, question=one, context="context", answers="spans")
    case("pretraining", many, text=one, image="image 0")
    case("retrieval", many, text=one, image="image 0")
    case("retrieval", many, text="context", image="image 0", negative=one)
    case("image_generation", text=one, target_image="image 0")
    case("retrieval of documents", many, text="context", document=one)
    case("retrieval of documents", many, text=one, document="context")
case("retrieval of sound", ["words 0", "audio 0", "rate"], text="words 0", audio="audio 0", sampling_rate="rate")
TARGETS = {
    "classification": {"label": "class"},
    "generation": {"target": "context"},
    "image_generation": {"target_image": "image 2"},
}
for task in ("classification", "masked_lm", "generation", "image_generation"):
    rest = TARGETS.get(task, {})
    case(task, W[:2], text="words 0", text_pair="words 1", **rest)
    case(task, W, text="words 0", text_pair=["words 1", "words 2"], **rest)
    case(task, ["image 0"], text="words 0", image="image 0", **rest)
    case(task, ["image 0", "image 1"], text="words 0", image=["image 0", "image 1"], **rest)
for task, rest in TARGETS.items():
    case(task, ["audio 0", "rate"], audio="audio 0", sampling_rate="rate", **rest)
    case(task, ["audio 0", "audio 1"], audio=["audio 0", "audio 1"], sampling_rate="rate", **rest)
case(
    "question_answering",
    ["image 0", "context", "words 0"],
    question="words 0",
    context="context",
    answers="spans",
    image="image 0",
)
case(
    "question_answering",
    ["answers", "start"],
    question="words 0",
    context="context",
    answers="answers",
    answer_start="start",
)
case("dialogue", messages="chat")
case("dialogue with images", image="image 0", target="words 0")
case("dialogue with images", image=["image 0", "image 1"], prompt="words 1", target="words 0")
case("dialogue with images", image="image 0", messages="chat")
ANSWERS: Any = {"chosen": "context", "rejected": "words 2"}
case("preference", prompt="words 0", **ANSWERS)
case("preference", messages="chat", **ANSWERS)
case("preference with images", ["image 0", "image 1"], image=["image 0", "image 1"], prompt="words 1", **ANSWERS)
case("image_autoencoding", target_image="image 0")
case("pretraining", ["image 0", "image 1"], text="context", image=["image 0", "image 1"])
case("retrieval", ["image 0", "image 1"], text="words 0", image=["image 0", "image 1"])


class Setup(NamedTuple):
    """The parts of a task's run, built once."""

    recipe: Recipe
    task: Task
    processor: PlaitProcessor
    model: Any


@pytest.fixture(scope="module")
def columns(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    return columns_of(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def set_up(tmp_path_factory: pytest.TempPathFactory, columns: dict[str, list[Any]]) -> Callable[[str], Setup]:
    @cache
    def build(name: str) -> Setup:
        task, folder = find_task(name.partition(" ")[0]), tmp_path_factory.mktemp("run")
        sizes: dict[str, Any] = {"audio": {"chunk_length": 1, "n_samples": 16000, "nb_max_frames": 100}}
        if name == "image_autoencoding":
            sizes = {"target_image_size": 8}
        content = {
            "task": task.name,
            "model": MODELS[name],
            "processor": sizes if "audio" in MODELS[name] or name == "image_autoencoding" else {},
            "tokenizer": {"train": {"vocab_size": 400, "min_frequency": 1}},
            "data": {"source": "columns of a test"},
            "settings": {"doc_stride": 4} if name == "question_answering" else {},
            "generation": {"max_new_tokens": 4} if task.generates else {},
            "training": {"use_cpu": True},
        }
        recipe = build_recipe(content)
        plain = {
            "text": "context",
            "document": "context",
            "image": "image 0",
            "target_image": "image 1",
            "target": "context",
            "prompt": "context",
            "label": "class",
        }
        plain |= {"chosen": "context", "rejected": "words 0"}
        plain |= {"question": "words 0", "context": "context", "answers": "spans"}
        train = Dataset.from_dict(
            {
                role: columns[plain[role]]
                for role in plain
                if role in task.roles and (role != "image" or role in MODELS[name])
            }
        )
        data = DataSplits({"train": train}, LabelSpec(("x", "y"), SINGLE) if task.needs_labels else None)
        args = build_arguments(recipe, folder)
        processor, model = build_processor_and_model(recipe, task, folder, args, data, verbose=False)
        if task.name == "image_generation":  # what a new denoiser adds is zero, whatever its condition
            for parameter in model.get_submodule("denoiser").parameters():
                parameter.data.add_(torch.randn(parameter.shape) * 0.3)
        return Setup(recipe, task, processor, model)

    return build


PARTS = {"inputs": 1.0, "rejected": 2.0}  # of a batch of preferences


def measure(setup: Setup, mapping: dict[str, str | list[str]], columns: dict[str, list[Any]]) -> float:
    """The loss of a training batch of these columns."""
    recipe, task = replace(setup.recipe, data=replace(setup.recipe.data, columns=mapping)), setup.task
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(SOURCES, "columns of a test", lambda: {"train": Dataset.from_dict(columns)})
        data = load_data(recipe.data, needs_labels=task.needs_labels, roles=task.roles)
    task.check_columns(data.splits["train"].column_names, "train")
    task.check_inputs(data.splits["train"].column_names, setup.model)
    rows = task.prepare(data.splits["train"], "train", setup.processor, recipe)
    collator = build_collator(recipe, task, setup.processor, data.labels)
    set_seed(0)
    with torch.no_grad():
        if task.name == "preference":
            batch = task.build_evaluation_batch(collator, collect_rows(rows))
            return sum(weight * float(setup.model(**batch[name]).loss) for name, weight in PARTS.items())
        return float(setup.model(**collator.build_training_batch(collect_rows(rows))).loss)


@pytest.mark.parametrize(("task", "mapping", "watched"), CASES, ids=[f"{task} {mapping}" for task, mapping, _ in CASES])
def test_a_change_of_any_mapped_column_changes_the_loss(
    set_up: Callable[[str], Setup],
    columns: dict[str, list[Any]],
    task: str,
    mapping: dict[str, str | list[str]],
    watched: list[str],
) -> None:
    setup = set_up(task)
    before = measure(setup, mapping, columns)
    assert before == measure(setup, mapping, columns)
    for name in watched:
        assert measure(setup, mapping, change(columns, name)) != before, name


def test_every_role_of_every_task_is_among_the_cases() -> None:
    """Except the columns that name items or groups, and the videos, which are read as the other media are."""
    others = {"image_id", "audio_id", "video_id", "video", "group"}
    for name, task in TASKS.items():
        tried = {role for case_task, mapping, _ in CASES if case_task.partition(" ")[0] == name for role in mapping}
        assert set(task.roles) - others == tried, name


def name_all(recipe: DataRecipe, roles: Sequence[str], columns: dict[str, list[Any]]) -> Dataset:
    return name_columns(Dataset.from_dict(columns), recipe, "train", roles)


def test_two_columns_are_a_pair_and_more_are_joined(columns: dict[str, list[Any]]) -> None:
    rows = {"a": ["one", None, "", "x"], "b": ["two", "pair", "three", None], "c": ["1", "2", None, ""]}
    pair = name_all(DataRecipe(columns={"text": ["a", "b"]}), ("text", "text_pair"), rows)
    assert pair["text"][:] == ["one", "", "", "x"] and pair["text_pair"][:] == ["two", "pair", "three", ""]
    alone = name_all(DataRecipe(columns={"text": ["a", "b"]}), ("text",), rows)
    assert alone["text"][:] == ["one\ntwo", "pair", "three", "x"]
    joined = name_all(DataRecipe(columns={"text": ["a", "b", "c"]}), ("text", "text_pair"), rows)
    assert joined["text"][:] == ["one\ntwo\n1", "pair\n2", "three", "x"]
    template = {"text": "{b}: {a} ({a})"}
    chosen = name_all(DataRecipe(columns={"text": ["a", "b"]}, templates=template), ("text", "text_pair"), rows)
    assert chosen.column_names == ["text"] and chosen["text"][0] == "two: one (one)"
    empty = name_all(DataRecipe(columns={"text": ["c", "d", "e"]}), ("text",), {"c": [""], "d": [None], "e": [""]})
    assert empty["text"][:] == [None]


@pytest.mark.parametrize(
    ("recipe", "message"),
    [
        ({"columns": {"text_pair": "words 0"}}, "text_pair is read only beside text: map a column to text"),
        ({"columns": {"text": "words 0", "sampling_rate": "rate"}}, "sampling_rate is read only beside audio"),
        ({"columns": {"text": "words 0", "image_id": "rate"}}, "image_id is read only beside image"),
        (
            {"columns": {"text": "words 0", "label": ["class", "rate"]}},
            r"label is \['class', 'rate'\]: label takes one",
        ),
        ({"columns": {"text": []}}, "text names no column"),
        ({"columns": {"text": "words 0", "text_pair": "words 0"}}, "words 0 is mapped to text and text_pair"),
        ({"columns": {"text": ["words 0", "words 0"]}}, "words 0 is mapped to text and text_pair"),
        ({"columns": {"text": "words 0"}, "templates": {"txt": "{words 0}"}}, "data.templates has no key 'txt'"),
        (
            {"columns": {"text": ["words 0", "words 1"]}, "templates": {"text": "{words 0}"}},
            "name each column",
        ),
        ({"columns": {"text": "words 0"}, "templates": {"text": "{words 0} {x}"}}, "name each column"),
        ({"columns": {"text": "words 0", "label": "class"}, "words_per_row": 2}, "to which label cannot belong"),
    ],
)
def test_a_column_that_nothing_reads_is_an_error(
    columns: dict[str, list[Any]], recipe: dict[str, Any], message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(SOURCES, "columns of a test", lambda: {"train": Dataset.from_dict(columns)})
    with pytest.raises(RecipeError, match=message):
        load_data(DataRecipe(source="columns of a test", **recipe))


@pytest.mark.parametrize(
    ("task", "mapping", "message"),
    [
        (
            "classification",
            {"text": "words 0", "video": "image 0", "label": "class"},
            "nothing reads video",
        ),
        ("masked_lm", {"text": "words 0", "video": "image 0"}, "nothing reads video"),
        ("retrieval of documents", {"text": "words 0", "image": "image 0"}, "nothing reads image, .* no image tower"),
        ("dialogue", {"messages": "chat", "prompt": "context"}, "nothing reads prompt, as every row .* has messages"),
        (
            "question_answering",
            {"question": "words 0", "context": "context", "answers": "spans", "answer_start": "start"},
            "nothing reads answer_start",
        ),
    ],
)
def test_a_column_that_the_model_or_the_task_does_not_read_is_an_error(
    set_up: Callable[[str], Setup], columns: dict[str, list[Any]], task: str, mapping: dict[str, Any], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        measure(set_up(task), mapping, columns)


def test_without_a_mapping_a_column_beside_an_absent_one_is_not_read() -> None:
    known = ("text", "text_pair", "audio", "sampling_rate", "label")
    assert map_roles(DataRecipe(), ["text_pair", "sampling_rate", "label"], known) == {"label": "label"}
    assert list(map_roles(DataRecipe(), known, known)) == list(known)
