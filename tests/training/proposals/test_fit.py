"""`plait.fit` and `plait train TABLE`: from rows to a folder that answers."""

from pathlib import Path

import pytest
import yaml

import plait
from plait.training.cli import main
from plait.training.recipes.errors import RecipeError
from plait.training.runs.evaluate import evaluate
from plait.training.runs.loading import load_model_recipe

from .tables import COLOURS, class_folder, picture, reviews, write_csv

TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 32}
RECIPE = {
    "model.text": {"config": {**TEXT, "initializer_range": 0.2}},
    "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
    "training.num_train_epochs": 8,
    "training.learning_rate": 0.01,
    "training.disable_tqdm": True,
    "training.report_to": "none",
}


def test_a_list_of_rows_becomes_a_model_that_learned(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    fitted = plait.fit(reviews(200), "mood", output_dir="run", recipe=RECIPE, verbose=False)
    assert fitted.metrics["accuracy"] > 0.9 > fitted.baselines["majority"]["accuracy"]
    answers = fitted.predict(
        [{"body": "this long film is a sad joke on day 9"}, {"body": "a warm soup was worth it on day 9"}]
    )
    assert [answer["label"] for answer in answers] == ["bad", "good"]
    # the folder stands by itself: its recipe names the rows, and the reasons lie beside
    again = evaluate("run", load_model_recipe("run", {}), "test")
    assert again["accuracy"] == pytest.approx(fitted.metrics["accuracy"])
    assert yaml.safe_load((tmp_path / "run/proposal.yaml").read_text())["task"] == "classification"
    with pytest.raises(RecipeError, match="run exists"):
        plait.fit(reviews(200), "mood", output_dir="run", recipe=RECIPE, verbose=False)


def test_pandas_and_datasets_are_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import pandas
    from datasets import Dataset

    from plait.training.proposals.memory import collect_splits

    rows = [{**row, "n": None if number == 3 else number} for number, row in enumerate(reviews(20))]
    tables = [collect_splits(data)["train"] for data in (rows, pandas.DataFrame(rows), Dataset.from_list(rows))]
    assert [[list(table["body"]), list(table["n"])] for table in tables] == [
        [list(tables[0]["body"]), list(tables[0]["n"])]
    ] * 3
    with pytest.raises(RecipeError, match="list of dicts"):
        collect_splits(3)
    with pytest.raises(RecipeError, match="no rows"):
        collect_splits([])


def test_a_folder_of_pictures_from_the_command_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    contents = {
        name: [picture(tuple(c + n for c in colour), 20) for n in range(12)] for name, colour in COLOURS.items()
    }
    folder = str(class_folder(tmp_path / "pictures", ".png", contents))
    image = {
        "config": {"model_type": "plait_cnn", "image_size": 20, "embedding_size": 8, "hidden_sizes": [8], "depths": [1]}
    }
    options = ["--model.image", yaml.safe_dump(image, default_flow_style=True), "--training.num_train_epochs", "2"]
    options += ["--training.disable_tqdm", "true", "--training.report_to", "none"]
    assert main(["new", folder, *options]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["data"]["columns"] == {"image": "image", "label": "label"}
    assert not Path("runs").exists()  # `new` trains nothing
    assert main(["train", folder, *options]) == 0
    assert "saved in runs/pictures-label" in capsys.readouterr().out
    assert (tmp_path / "runs/pictures-label/metrics.json").is_file()
    assert main(["train", folder, *options, "--output_dir", "runs/pictures-label"]) != 0
    refused = capsys.readouterr()
    assert "runs/pictures-label exists" in refused.err and "to change it" not in refused.out  # before any plan
    assert main(["new", folder, *options]) == 0
    assert "output_dir: runs/pictures-label-2" in capsys.readouterr().out  # a folder is never overwritten


def test_a_missing_target_is_a_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = str(write_csv(tmp_path / "rows.csv", reviews(20)))
    assert main(["train", file, "--target", "mod"]) == 2
    assert "did you mean 'mood'" in capsys.readouterr().err


FILES = {
    "a header alone": (b"text,label\n", "has no rows, only a header"),
    "another separator": (b"text;label\na b;x\nc d;y\n", "separated by ';'.*commas"),
    "another encoding": ("text,label\ncaf\xe9,x\n".encode("latin-1"), "save it as UTF-8"),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_table_says_what_to_do(kind: str, tmp_path: Path) -> None:
    content, expected = FILES[kind]
    file = tmp_path / "rows.csv"
    file.write_bytes(content)
    with pytest.raises(RecipeError, match=expected):
        plait.fit(file, "label")


def test_a_recipe_is_not_taken_for_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "image_text", "--target", "label"]) == 2
    assert "image_text is a recipe" in capsys.readouterr().err
