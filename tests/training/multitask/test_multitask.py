"""Several tasks over one body: batches of one task each, drawn by temperature; measured one by one; saved apart."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification

from plait import PlaitConfig, PlaitForClassification, PlaitForPreTraining, PlaitModel
from plait.training.commands import run_recipe as train
from plait.training.multitask.model import copy_head
from plait.training.multitask.sampler import TaskBatchSampler, TaskRows, compute_task_shares
from plait.training.recipes.errors import RecipeError, RunError
from plait.training.runs.loading import load_model_recipe
from plait.training.runs.predict import predict
from plait.training.runs.recipe import build_recipe

TINY = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "initializer_range": 0.2}


@pytest.fixture
def content(tmp_path: Path, rows: list[dict[str, str]], pictures: dict[str, Path]) -> dict[str, Any]:
    """Questions about squares, sentences with hidden words, and squares with captions."""
    captions = [{"text": f"a {name} square", "image": str(path)} for name, path in pictures.items()]
    sentences = [{"text": row["text"]} for row in rows]
    for name, made in (("answers", rows), ("words", sentences), ("pairs", captions)):
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in made))
    sources = {name: {split: str(tmp_path / f"{name}.jsonl") for split in ("train", "validation")}
               for name in ("answers", "words", "pairs")}  # fmt: skip
    training = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "learning_rate": 5e-3}
    training |= {"per_device_train_batch_size": 3, "num_train_epochs": 3, "logging_steps": 1}
    return {
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 24}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 320, "min_frequency": 1}},
        "tasks": {
            "answers": {"task": "classification", "data": {"source": sources["answers"]}, "metrics": ["accuracy"]},
            "words": {"task": "masked_lm", "data": {"source": sources["words"]}, "weight": 0.5}
            | {"settings": {"mlm_probability": 0.5}},
            "pairs": {"task": "pretraining", "data": {"source": sources["pairs"]}}
            | {"settings": {"objectives": {"contrastive": 1.0, "matching": 1.0}}},
        },
        "temperature": 2.0,
        "training": training,
        "output_dir": str(tmp_path / "run"),
    }


def test_a_run_trains_measures_and_saves_every_task(
    content: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PLAIT_REPORT", "1")
    results = train(build_recipe(content), "plait train")
    written = sorted((tmp_path / "run").glob("*/report/report.json"))
    reports = {file.parts[-3]: json.loads(file.read_text()) for file in written}
    assert set(reports) == {"answers", "words", "pairs"}
    assert not [report["errors"] for report in reports.values() if report["errors"]]
    assert reports["answers"]["metrics"]["validation"] == results["answers validation"]
    assert set(results) == {"answers validation", "words validation", "pairs validation"}
    assert {"loss", "accuracy"} <= set(results["answers validation"]["model"])
    assert {"majority", "blind"} <= set(results["answers validation"])
    assert "perplexity" in results["words validation"]["model"]
    assert {"contrastive", "matching_accuracy"} <= set(results["pairs validation"]["model"])
    steps = [entry for entry in json.loads((tmp_path / "run" / "history.json").read_text()) if "learning_rate" in entry]
    named = [{key for key in entry if key in ("loss_answers", "loss_words", "loss_pairs")} for entry in steps]
    assert len(steps) == 21 and all(len(names) == 1 for names in named)  # 21 rows a epoch, a batch of one task each
    assert set().union(*named) == {"loss_answers", "loss_words", "loss_pairs"}
    for entry in steps:
        weight = 0.5 if "loss_words" in entry else 1.0
        alone = next(entry[key] for key in ("loss_answers", "loss_words", "loss_pairs") if key in entry)
        assert entry["loss"] == pytest.approx(weight * alone, abs=2e-4)
        if "loss_pairs" in entry:
            parts = entry["loss_pairs/contrastive"] + entry["loss_pairs/matching"]
            assert alone == pytest.approx(parts, abs=1e-4)
    bodies = []
    loaders = {
        "answers": AutoModelForSequenceClassification,
        "words": AutoModelForMaskedLM,
        "pairs": PlaitForPreTraining,
    }
    for name, loader in {**loaders, "pairs": PlaitForPreTraining}.items():
        model, info = loader.from_pretrained(tmp_path / "run" / name, output_loading_info=True)
        assert not info["missing_keys"] and not info["unexpected_keys"]
        bodies.append(model.model.state_dict())
    for body in bodies[1:]:
        assert body.keys() == bodies[0].keys()
        assert all(torch.equal(value, bodies[0][name]) for name, value in body.items())
    folder = str(tmp_path / "run" / "answers")
    answers = list(predict(folder, [{"text": "is it red ?", "image": None}], load_model_recipe(folder, {})))
    assert answers[0]["label"] in ("blue", "green", "no", "red", "yes")


@pytest.mark.parametrize("temperature", [0.5, 1.0, 3.0, 1e9])
def test_batches_are_drawn_by_temperature(temperature: float) -> None:
    data = TaskRows({"small": list(range(40)), "large": list(range(400))})
    sampler = TaskBatchSampler(data, 4, temperature, 0, lambda: 0)
    counts: Counter[str] = Counter()
    for epoch in range(30):
        sampler.epoch = lambda epoch=epoch: epoch
        for batch in sampler:
            (name,) = {data[row][0] for row in batch}
            counts[name] += 1
    share = 40 ** (1 / temperature) / (40 ** (1 / temperature) + 400 ** (1 / temperature))
    assert compute_task_shares([40, 400], temperature) == pytest.approx([share, 1 - share])
    assert counts["small"] / counts.total() == pytest.approx(share, abs=0.03)
    assert counts.total() == 30 * (440 // 4)


def test_a_task_goes_through_all_its_rows_before_any_comes_again() -> None:
    data = TaskRows({"only": list("abcdefghij")})
    drawn = [data[row][1] for batch in TaskBatchSampler(data, 2, 1.0, 0, lambda: 3) for row in batch]
    assert sorted(drawn) == list("abcdefghij")
    assert drawn != [data[row][1] for batch in TaskBatchSampler(data, 2, 1.0, 0, lambda: 4) for row in batch]


def test_processes_share_the_batches_of_one_task() -> None:
    data = TaskRows({"a": list(range(30)), "b": list(range(50))})
    whole = list(TaskBatchSampler(data, 4, 1.0, 0, lambda: 0))
    parts = [list(TaskBatchSampler(data, 2, 1.0, 0, lambda: 0, 2, process)) for process in (0, 1)]
    assert whole == [first + second for first, second in zip(*parts, strict=True)]


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("temperature", 0, "temperature is 0"),
        ("tasks.answers.task", "clasification", "tasks.answers: task is 'clasification'; did you mean"),
        ("tasks.answers.wight", 1, "tasks.answers has no key 'wight'; did you mean 'weight'"),
        ("tasks.words.weight", -1, "tasks.words.weight is -1"),
        ("metrics", ["accuracy"], "metrics belongs to one of the tasks"),
        ("data.source", "x.csv", "data belongs to one of the tasks"),
        ("training.tokens_per_batch", 100, "training.tokens_per_batch cannot be used with several tasks"),
        ("training.metric_for_best_model", "auto", "'auto', but there are several tasks"),
        ("tasks.answers.data.columns", {"text": "question"}, "tasks.answers: data.columns"),
        ("model.fusion", "late", "late fusion does not keep"),
        ("model.freeze", ["audio", "head"], "model.freeze: the model has no part 'audio', but text"),
        ("training.per_device_train_batch_size", 1, "leave one alone"),
    ],
)
def test_mistakes_name_the_task(content: dict[str, Any], key: str, value: Any, message: str) -> None:
    *parents, last = key.split(".")
    place = content
    for parent in parents:
        place = place.setdefault(parent, {})
    place[last] = value
    with pytest.raises(RecipeError, match=message):
        train(build_recipe(content), "plait train")


class OtherClassification(PlaitForClassification):
    """Another class with a head of the same names and sizes."""


def build_classifier(model_class: type[PlaitForClassification] = PlaitForClassification) -> PlaitForClassification:
    model = model_class(PlaitConfig(text_config={**TINY, "vocab_size": 20, "max_position_embeddings": 8}, num_labels=3))
    torch.nn.init.normal_(model.classifier.weight)
    return model


def test_a_checkpoint_gives_its_head_to_heads_of_its_class() -> None:
    source, same, other = build_classifier(), build_classifier(), build_classifier(OtherClassification)
    kept, body = other.classifier.weight.clone(), {name: p.clone() for name, p in same.model.named_parameters()}
    copy_head(source, [other, same])
    assert torch.equal(same.classifier.weight, source.classifier.weight)
    assert torch.equal(other.classifier.weight, kept)
    assert all(torch.equal(p, body[name]) for name, p in same.model.named_parameters())
    bare = PlaitModel(source.config)
    copy_head(bare, [same])
    assert torch.equal(same.classifier.weight, source.classifier.weight)


def test_rows_of_all_tasks_are_numbered_one_task_after_the_other() -> None:
    data = TaskRows({"a": ["x", "y"], "b": ["z"]})
    assert [data[number] for number in range(len(data))] == [("a", "x"), ("a", "y"), ("b", "z")]
    for outside in (-1, 3):
        with pytest.raises(IndexError):
            data[outside]


def test_an_epoch_has_the_batches_that_all_rows_fill_and_at_least_one() -> None:
    data = TaskRows({"a": list(range(9)), "b": list(range(8))})
    for rows, processes, count in ((1, 1, 17), (4, 1, 4), (4, 2, 2), (17, 1, 1), (18, 1, 1), (9, 2, 1)):
        sampler = TaskBatchSampler(data, rows, 1.0, 0, lambda: 0, processes)
        assert len(sampler) == count == len(list(sampler))


@pytest.mark.parametrize("temperature", [0, -1.0, float("nan")])
def test_no_temperature_at_or_below_zero(temperature: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0"):
        compute_task_shares([1, 2], temperature)
    assert compute_task_shares([1, 3], float("inf")) == [0.5, 0.5]


def test_every_pass_over_a_task_has_an_order_of_its_own() -> None:
    sampler = TaskBatchSampler(TaskRows({"first": "ab", "second": list(range(30))}), 2, 1.0, 0, lambda: 0)
    rows = sampler.iterate_rows(1, seed=5)
    one, two = ([next(rows) for _ in range(30)] for _ in range(2))
    assert sorted(one) == sorted(two) == list(range(2, 32)) and one != two


def test_a_divergence_names_the_task_and_its_rows(content: dict[str, Any], tmp_path: Path) -> None:
    content["training"] |= {"learning_rate": 1e30, "num_train_epochs": 1}
    message = r"of step \d+ is \S+ \(task (answers|words|pairs), rows \d, \d, \d of the training data\): lower"
    with pytest.raises(RunError, match=message):
        train(build_recipe(content), "plait train")
    assert not list(tmp_path.glob("run/*/model.safetensors"))
