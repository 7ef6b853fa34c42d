"""Retrieval from its recipe to its answers, and over two processes."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from datasets import Dataset
from safetensors.torch import load_file

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.cli import main
from plait.training.commands import run_recipe as train
from plait.training.data.feature_cache import cache_features
from plait.training.optimization.gradient_cache import cached_backward
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import build_recipe
from plait.training.tasks.collator import PlaitDataCollator

from ..trainer.test_processes import LAUNCHERS, launch

TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}
COLOURS = ("red", "green", "blue")


def captions(pictures: dict[str, Path]) -> list[dict[str, Any]]:
    """Two captions for each picture; the first has none in one more row."""
    return [
        {"image": str(pictures[colour]), "text": [f"a {colour} square", f"it is {colour} all over"]}
        for colour in COLOURS
    ]


def recipe_of(folder: Path, rows: list[dict[str, Any]], **changes: Any) -> dict[str, Any]:
    file = folder / "data.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    content: dict[str, Any] = {
        "task": "retrieval",
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 16}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "options": {"retrieval_config": {"projection_dim": 8}},
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {split: str(file) for split in ("train", "validation")}},
        "training": {
            "use_cpu": True,
            "disable_tqdm": True,
            "save_strategy": "no",
            "per_device_train_batch_size": 6,
            "learning_rate": 1e-2,
            "num_train_epochs": 30,
        },
        "seed": 0,
        "output_dir": str(folder / "run"),
    }
    content["model"] |= changes.pop("model", {})
    content["training"] |= changes.pop("training", {})
    return content | changes


def scores_of(folder: Path) -> dict[str, dict[str, float]]:
    return json.loads((folder / "metrics.json").read_text())["validation"]


def test_captions_find_their_pictures(
    tmp_path: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    lasting = {"num_train_epochs": 100, "lr_scheduler_type": "constant"}
    train(build_recipe(recipe_of(tmp_path, captions(pictures), training=lasting)), "test")
    scores = scores_of(tmp_path / "run")
    assert scores["model"]["text_to_image_recall@1"] == scores["model"]["image_to_text_recall@1"] == 1
    assert scores["model"]["text_to_image_mrr"] == 1 and scores["model"]["image_to_text_median_rank"] == 1
    assert scores["chance"]["text_to_image_recall@1"] == pytest.approx(1 / 3)
    assert scores["chance"]["image_to_text_recall@1"] == pytest.approx(1 / 3)
    capsys.readouterr()
    run, red = str(tmp_path / "run"), str(pictures["red"])
    assert main(["predict", run, "--text", "a red square", "--text", "a blue square", "--image", red]) == 0
    right, wrong = (json.loads(line)["similarity"] for line in capsys.readouterr().out.splitlines())
    assert right > wrong
    assert main(["predict", run, "--text", "a red square"]) == 0
    assert len(json.loads(capsys.readouterr().out)["embedding"]) == 8
    assert main(["evaluate", run, "--data.source", str(tmp_path / "data.jsonl")]) == 0
    assert "text_to_image_recall@1" in capsys.readouterr().out
    model, processor = (part.from_pretrained(run) for part in (PlaitForRetrieval, PlaitProcessor))
    found = model.encode([f"a {colour} square" for colour in COLOURS], processor)
    shown = model.encode([str(pictures[colour]) for colour in COLOURS], processor, "image")
    assert (found @ shown.T).argmax(1).tolist() == [0, 1, 2]


def test_a_gradient_cache_trains_the_same_weights(tmp_path: Path, pictures: dict[str, Path]) -> None:
    weights = []
    for name, training in (("whole", {}), ("chunks", {"gradient_cache_rows": 2, "gradient_accumulation_steps": 1})):
        (tmp_path / name).mkdir()
        training = {"num_train_epochs": 3, "optim": "sgd", **training}
        content = recipe_of(tmp_path / name, captions(pictures), training=training)
        train(build_recipe(content), "test")
        weights.append(load_file(tmp_path / name / "run" / "model.safetensors"))
    for name, value in weights[0].items():
        torch.testing.assert_close(weights[1][name], value, rtol=0, atol=1e-5, msg=name)


def test_outputs_of_locked_towers_are_kept(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """The same scores with and without the cache."""
    scores = []
    for number, cached in enumerate((["text", "image"], [])):
        folder = tmp_path / str(number)
        folder.mkdir()
        settings = {"cache_features": cached, "feature_cache_dir": str(tmp_path / "features"), "num_train_epochs": 4}
        locked = {"freeze": ["text", "image"]}
        train(build_recipe(recipe_of(folder, confusing(pictures), model=locked, training=settings)), "test")
        scores.append(scores_of(folder / "run")["model"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-6)
    assert list((tmp_path / "features").glob("text-*"))


def test_questions_find_their_answers_with_one_tower(tmp_path: Path) -> None:
    rows = [{"text": f"where is {name} ?", "document": f"{name} is in {city} ."} for name, city in CITIES.items()]
    model = {"image": None, "options": {"document": "shared", "retrieval_config": {"projection_dim": 8}}}
    content = recipe_of(tmp_path, rows, model=model)
    content["data"]["columns"] = {"text": "text", "document": "document"}
    train(build_recipe(content), "test")
    assert scores_of(tmp_path / "run")["model"]["text_to_document_recall@1"] == 1


CITIES = {"Anna": "Rome", "Ben": "Paris", "Cara": "Berlin", "Dan": "London"}


def test_equal_captions_and_pictures_have_equal_numbers(pictures: dict[str, Path], processor: PlaitProcessor) -> None:
    shown = zip("aabc", ("red", "green", "red", "blue"), strict=True)
    rows = [{"text": text, "image": str(pictures[colour])} for text, colour in shown]
    groups = PlaitDataCollator(processor, task="retrieval")(rows)["groups"]
    assert groups.shape == (4, 2) and (groups >= 0).all()
    assert groups[0, 0] == groups[1, 0] and len(groups[:, 0].unique()) == 3
    assert groups[0, 1] == groups[2, 1] and len(groups[:, 1].unique()) == 3


def confusing(pictures: dict[str, Path]) -> list[dict[str, Any]]:
    """Captions with what the pictures do not show: a list of texts, one, none."""
    rows = captions(pictures)
    rows[0]["negative"] = ["a blue square", "a green square", "a red circle"]
    rows[1]["negative"] = ["a green circle"]
    rows[2]["negative"] = []
    return rows


def test_hard_negatives_come_from_a_column(pictures: dict[str, Path], processor: PlaitProcessor) -> None:
    """A text or a list, as many columns as the row with most; numbered as the texts are; some of them drawn anew."""
    rows = [{"text": row["text"][0], "image": row["image"], "negative": row["negative"]} for row in confusing(pictures)]
    rows[1]["negative"] = rows[1]["negative"][0]
    collator = PlaitDataCollator(processor, task="retrieval")
    batch = collator.build_training_batch(rows)
    assert batch["negative_input_ids"].shape[:2] == batch["negative_groups"].shape == (3, 3)
    assert batch["negative_attention_mask"].any(-1).tolist() == [[True] * 3, [True, False, False], [False] * 3]
    assert (batch["negative_groups"] >= 0).tolist() == batch["negative_attention_mask"].any(-1).tolist()
    alone = processor(text=["a green circle"], return_tensors="pt")["input_ids"][0]
    assert torch.equal(batch["negative_input_ids"][1, 0, : len(alone)], alone)
    assert batch["negative_groups"][0, 0] == batch["groups"][2, 0] and batch["groups"].shape == (3, 2)
    few = PlaitDataCollator(processor, task="retrieval", settings={"negatives": 1})
    drawn = set()
    for epoch in range(12):
        few.set_epoch(epoch)
        drawn.add(int(few.build_training_batch(rows)["negative_groups"][0]))
        assert torch.equal(
            few.build_training_batch(rows)["negative_groups"], few.build_training_batch(rows)["negative_groups"]
        )
    assert drawn == set(batch["negative_groups"][0].tolist())
    assert "negative_input_ids" not in collator([{**row, "negative": None} for row in rows])


def test_a_locked_tower_reads_hard_negatives_once(
    tmp_path: Path, pictures: dict[str, Path], processor: PlaitProcessor
) -> None:
    """The loss of kept outputs is that of the texts; what was not kept is read as ever."""
    known = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
    towers = {"text": PlaitTextConfig(**TINY, **known), "image": PlaitVisionConfig(image_size=16, patch_size=8, **TINY)}
    space = {"projection_dim": 8}
    model = PlaitForRetrieval.compose(**towers, freeze=["text"], retrieval_config=space, verbose=False).train()
    rows = [{**row, "text": row["text"][0]} for row in confusing(pictures)]
    collator = PlaitDataCollator(processor, task="retrieval")
    plain = model(**collator(rows)).loss
    store = cache_features(model, processor, [Dataset.from_list(rows)], "text", folder=tmp_path)
    assert len(store) == 5  # two of the four are other rows' own texts
    collator.features["text"] = store
    batch = collator(rows)
    assert batch["encoder_outputs"]["negative"]["mask"].any(-1).sum(1).tolist() == [3, 1, 0]
    assert "negative_input_ids" not in batch
    torch.testing.assert_close(model(**batch).loss, plain)
    torch.testing.assert_close(cached_backward(model, batch, 2), plain.detach())
    rows[2]["negative"] = ["a green triangle"]
    assert "negative_input_ids" in collator(rows)


def test_training_with_hard_negatives_pushes_them_away(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """What no caption says is otherwise as likely as what one says."""
    lasting = {"num_train_epochs": 60, "lr_scheduler_type": "constant"}
    chances = []
    for name, rows in (("with", confusing(pictures)), ("without", captions(pictures))):
        (tmp_path / name).mkdir()
        train(build_recipe(recipe_of(tmp_path / name, rows, training=lasting)), "test")
        model, processor = (
            part.from_pretrained(tmp_path / name / "run") for part in (PlaitForRetrieval, PlaitProcessor)
        )
        assert scores_of(tmp_path / name / "run")["model"]["text_to_image_recall@1"] == 1
        labels = ["a red square", "a red circle"]
        chances.append(float(model.zero_shot([str(pictures["red"])], labels, processor, templates=["{}"])[0, 0]))
    assert chances[0] > 0.9 and chances[0] > chances[1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"training": {"per_device_train_batch_size": 1}}, "a pair needs others in its batch"),
        ({"model": {"fusion": "early"}}, "retrieval keeps its towers apart"),
        ({"metrics": ["recall@1"]}, "recall@1"),
        ({"settings": {"negatives": 0}}, "settings.negatives is 0"),
        ({"training": {"gradient_cache_rows": 0}}, "gradient_cache_rows is 0"),
    ],
)
def test_mistakes_are_found_before_any_work(
    tmp_path: Path, pictures: dict[str, Path], changes: dict[str, Any], message: str
) -> None:
    with pytest.raises((RecipeError, ValueError), match=message):
        train(build_recipe(recipe_of(tmp_path, captions(pictures), **changes)), "test")


def test_data_in_which_nothing_differs_are_refused(tmp_path: Path, pictures: dict[str, Path]) -> None:
    same = [{**row, "text": "a square"} for row in captions(pictures)]
    with pytest.raises(RecipeError, match="the same text, 'a square'"):
        train(build_recipe(recipe_of(tmp_path, same)), "test")
    (tmp_path / "other").mkdir()
    with pytest.raises(RecipeError, match="two of text, image, audio, video and document"):
        train(build_recipe(recipe_of(tmp_path / "other", [{"text": "a"}, {"text": "b"}])), "test")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([None, [], None], "no row of 'train' has a hard negative"),
        ([{"a": 3}, {"a": 4}, {"a": 5}], "row 0 of 'train' has {'a': 3}, neither"),
    ],
)
def test_hard_negatives_that_are_none_are_refused(
    tmp_path: Path, pictures: dict[str, Path], values: list[Any], message: str
) -> None:
    rows = [{**row, "negative": value} for row, value in zip(captions(pictures), values, strict=True)]
    with pytest.raises(RecipeError, match=message):
        train(build_recipe(recipe_of(tmp_path, rows)), "test")


def test_a_picture_without_a_caption_is_there_to_be_found_wrongly(tmp_path: Path, pictures: dict[str, Path]) -> None:
    rows = captions(pictures)
    rows[2]["text"] = []
    train(build_recipe(recipe_of(tmp_path, rows, training={"num_train_epochs": 2})), "test")
    assert "text_to_image_recall@1" in scores_of(tmp_path / "run")["model"]


@pytest.mark.slow
def test_two_processes_with_a_gradient_cache_equal_one(tmp_path: Path, pictures: dict[str, Path]) -> None:
    """Negatives are those of both processes, and their gradients pass between them; hard ones too, of which only one
    process has any."""
    rows: list[dict[str, Any]] = [
        {"text": f"{name} number {number}", "image": str(pictures[name])} for number in range(4) for name in COLOURS[:2]
    ]
    for number, row in enumerate(rows):
        row["negative"] = [f"no {row['text']}", "nothing"][: max(0, number % 4 - 1)]
    plain = {"optim": "sgd", "learning_rate": 0.1, "logging_steps": 1, "num_train_epochs": 2}
    plain |= {"train_sampling_strategy": "sequential", "lr_scheduler_type": "constant"}
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(recipe_of(tmp_path, rows, training=plain)))
    size = "--training.per_device_train_batch_size"
    launch([], path, tmp_path / "one", size, "4")
    launch(LAUNCHERS["torchrun"], path, tmp_path / "two", size, "2")
    launch(LAUNCHERS["torchrun"], path, tmp_path / "cached", size, "2", "--training.gradient_cache_rows", "1")
    one = load_file(tmp_path / "one" / "model.safetensors")
    for run in ("two", "cached"):
        for name, value in load_file(tmp_path / run / "model.safetensors").items():
            torch.testing.assert_close(value, one[name], rtol=0, atol=1e-5, msg=f"{run} {name}")
