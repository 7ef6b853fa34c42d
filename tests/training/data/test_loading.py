"""Rows from anywhere, under one set of names."""

import csv
import json
import shutil
from pathlib import Path

import pytest
from datasets import ClassLabel, Dataset, Features, Image, Value

from plait.training.data.inputs import find_image_groups
from plait.training.data.labels import MULTI, REGRESSION, SINGLE, LabelSpec
from plait.training.data.loading import load_data
from plait.training.data.squad import is_squad
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.schema import DataRecipe

Rows = list[dict[str, str]]
COLUMNS = {"text": "question", "image": "picture", "label": "answer"}


def renamed(rows: Rows) -> Rows:
    return [{"question": row["text"], "picture": row["image"], "answer": row["label"]} for row in rows]


def write(path: Path, rows: list[dict]) -> Path:
    if path.suffix == ".parquet":
        Dataset.from_list(rows).to_parquet(path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv", ".tsv"])
def test_files_with_mapped_columns(tmp_path: Path, rows: Rows, suffix: str) -> None:
    file = write(tmp_path / f"data{suffix}", renamed(rows))
    data = load_data(DataRecipe(source=str(file), columns=COLUMNS))
    assert data.labels == LabelSpec(("blue", "green", "no", "red", "yes"), SINGLE)
    assert data.train.column_names == ["text", "image", "label"]
    found = [{**row, "label": data.labels.names[row["label"]]} for row in data.train]
    assert found == rows


def test_a_folder_of_files_by_split(tmp_path: Path, rows: Rows) -> None:
    for split in ("train", "val", "test"):
        write(tmp_path / f"{split}.csv", rows)
    data = load_data(DataRecipe(source=str(tmp_path)))
    assert {split: len(part) for split, part in data.splits.items()} == {"train": 9, "validation": 9, "test": 9}


def test_files_by_split_and_sharded_files(tmp_path: Path, rows: Rows) -> None:
    (tmp_path / "parts").mkdir()
    for number in range(2):
        write(tmp_path / "parts" / f"train-{number}.csv", rows)
    assert len(load_data(DataRecipe(source=str(tmp_path / "parts"))).train) == 18
    file = str(write(tmp_path / "one.csv", rows))
    data = load_data(DataRecipe(source={"train": file, "held": file}, splits={"validation": "held"}))
    assert sorted(data.splits) == ["train", "validation"]


def test_a_folder_of_pictures_by_class(tmp_path: Path, pictures: dict[str, Path]) -> None:
    for name, path in pictures.items():
        (tmp_path / "classes" / name).mkdir(parents=True)
        shutil.copy(path, tmp_path / "classes" / name / "0.png")
    data = load_data(DataRecipe(source=str(tmp_path / "classes")))
    assert data.labels.names == ("blue", "green", "red")
    assert data.train[0]["image"]["path"].endswith(f"{data.labels.names[data.train[0]['label']]}/0.png")


def test_pictures_inside_a_parquet_file_stay_closed(tmp_path: Path, rows: Rows) -> None:
    features = Features({"text": Value("string"), "image": Image(), "label": Value("string")})
    read = [{**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in rows]
    Dataset.from_list(read, features=features).to_parquet(tmp_path / "data.parquet")
    data = load_data(DataRecipe(source=str(tmp_path / "data.parquet")))
    assert data.train[0]["image"] == read[0]["image"]


def test_relative_paths_of_pictures(tmp_path: Path, rows: Rows, pictures: dict[str, Path]) -> None:
    short = [{**row, "image": Path(row["image"]).name} for row in rows]
    shutil.copytree(pictures["red"].parent, tmp_path / "inside")
    inside = load_data(DataRecipe(source=str(write(tmp_path / "inside" / "data.csv", short)))).train
    assert [row["image"] for row in inside] == [str(tmp_path / "inside" / row["image"]) for row in short]
    outside = DataRecipe(source=str(write(tmp_path / "data.csv", short)), image_root=str(pictures["red"].parent))
    assert [row["image"] for row in load_data(outside).train] == [row["image"] for row in rows]


def test_plain_text_lines_and_words(tmp_path: Path) -> None:
    (tmp_path / "words.txt").write_text("one two three\n\nfour five\n")
    source = str(tmp_path / "words.txt")
    assert load_data(DataRecipe(source=source), needs_labels=False).train["text"][:] == ["one two three", "four five"]
    data = load_data(DataRecipe(source=source, words_per_row=2), needs_labels=False)
    assert data.train["text"][:] == ["one two", "three four", "five"]


def test_class_labels_are_read_by_name_and_not_by_number(tmp_path: Path) -> None:
    """Two files may number the same classes differently."""
    for split, names in (("train", ["a", "b"]), ("test", ["b", "a"])):
        features = Features({"text": Value("string"), "label": ClassLabel(names=names)})
        Dataset.from_dict({"text": ["x", "y"], "label": ["a", "b"]}, features=features).to_parquet(
            tmp_path / f"{split}.parquet"
        )
    data = load_data(DataRecipe(source=str(tmp_path)))
    assert data.train["label"][:] == data.test["label"][:] == [0, 1]


@pytest.mark.parametrize(
    ("values", "expected", "encoded"),
    [
        ([3, 10, 3], LabelSpec(("3", "10"), SINGLE), [0, 1, 0]),
        ([True, False, True], LabelSpec(("False", "True"), SINGLE), [1, 0, 1]),
        ([0.5, 1.5, 2.0], LabelSpec((), REGRESSION), [0.5, 1.5, 2.0]),
        ([["b"], ["a", "b"], []], LabelSpec(("a", "b"), MULTI), [[1], [0, 1], []]),
    ],
)
def test_kinds_of_labels(tmp_path: Path, values: list, expected: LabelSpec, encoded: list) -> None:
    Dataset.from_dict({"text": ["x"] * 3, "label": values}).to_parquet(tmp_path / "data.parquet")
    data = load_data(DataRecipe(source=str(tmp_path / "data.parquet")))
    assert data.labels == expected
    assert data.train["label"][:] == encoded


def test_order_of_labels_from_recipe_and_pretrained_model(tmp_path: Path) -> None:
    file = str(write(tmp_path / "data.csv", [{"text": "x", "label": "b"}, {"text": "y", "label": "a"}]))
    assert load_data(DataRecipe(source=file, labels=["b", "a", "c"])).labels.names == ("b", "a", "c")
    assert load_data(DataRecipe(source=file), label_order=("b", "a")).labels.names == ("b", "a")
    assert load_data(DataRecipe(source=file), label_order=("b", "other")).labels.names == ("a", "b")


def test_limits_are_seeded(tmp_path: Path, rows: Rows) -> None:
    recipe = DataRecipe(source=str(write(tmp_path / "data.csv", rows)), max_rows=4)
    first, again, other = (load_data(recipe, seed).train["text"][:] for seed in (1, 1, 2))
    assert len(first) == 4
    assert first == again
    assert first != other
    assert len(load_data(DataRecipe(source=recipe.source, max_rows={"test": 4})).train) == 9


def test_validation_split_never_parts_a_picture(tmp_path: Path, rows: Rows) -> None:
    recipe = DataRecipe(source=str(write(tmp_path / "data.csv", rows)), validation_fraction=0.34)
    data = load_data(recipe)
    assert len(data.train) + len(data.validation) == 9
    assert len(data.validation) == 3
    assert not set(find_image_groups(data.train)) & set(find_image_groups(data.validation))


QUESTIONS = [
    {"context": f"text {n // 4}", "question": f"what {n} ?", "answers": ["text"], "answer_start": [0]}
    for n in range(40)
]
ASKED = ("question", "context", "answers", "answer_start")


def test_splits_never_part_the_questions_of_a_context(tmp_path: Path) -> None:
    Dataset.from_list(QUESTIONS).to_parquet(tmp_path / "data.parquet")
    recipe = DataRecipe(source=str(tmp_path / "data.parquet"), test_fraction=0.2, validation_fraction=0.25)
    data, again = (load_data(recipe, seed=3, needs_labels=False, roles=ASKED) for _ in range(2))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 24, "test": 8, "validation": 8}
    contexts = {split: set(rows["context"]) for split, rows in data.splits.items()}
    assert sum(map(len, contexts.values())) == len(set.union(*contexts.values())) == 10
    assert data.test["question"][:] == again.test["question"][:]
    other = load_data(recipe, seed=4, needs_labels=False, roles=ASKED)
    assert set(other.test["context"]) != contexts["test"]


def test_nothing_left_to_train_on_is_an_error(tmp_path: Path) -> None:
    Dataset.from_list(QUESTIONS[:4]).to_parquet(tmp_path / "data.parquet")
    with pytest.raises(RecipeError, match=r"test_fraction is 0.5: of 1 groups of rows none is left"):
        load_data(DataRecipe(source=str(tmp_path / "data.parquet"), test_fraction=0.5), needs_labels=False, roles=ASKED)


def test_a_json_file_of_another_encoding_is_looked_at_without_an_error(tmp_path: Path) -> None:
    file = tmp_path / "table.json"
    file.write_bytes('{"text": "caf\u00e9"}'.encode("latin-1"))
    assert not is_squad(file)
    file.write_bytes('{"version": "\u00e9", "data": [{"paragraphs": []}]}'.encode())
    assert is_squad(file)


def test_files_as_squad_is_published(tmp_path: Path) -> None:
    asked = [
        {"id": 1, "question": "who ?", "answers": [{"text": "Ann", "answer_start": 0, "x": 1}]},
        {"id": 2, "question": "where ?", "answers": [], "is_impossible": True, "plausible_answers": []},
    ]
    content = {"version": "2.0", "data": [{"title": "a", "paragraphs": [{"context": "Ann ran.", "qas": asked}]}]}
    file = tmp_path / "squad.json"
    file.write_text(json.dumps(content))
    rows = load_data(DataRecipe(source=str(file)), needs_labels=False, roles=ASKED).train.to_list()
    assert rows[0] == {"context": "Ann ran.", "question": "who ?", "answers": {"text": ["Ann"], "answer_start": [0]}}
    assert rows[1]["answers"] == {"text": [], "answer_start": []}
    del content["data"][0]["paragraphs"][0]["qas"][0]["question"]
    file.write_text(json.dumps(content))
    with pytest.raises(RecipeError, match=r"squad.json is not in SQuAD's form: KeyError 'question'"):
        load_data(DataRecipe(source=str(file)), needs_labels=False, roles=ASKED)


@pytest.mark.parametrize("lines", [False, True])
def test_a_table_with_a_column_of_paragraphs_is_a_table(lines: bool, tmp_path: Path) -> None:
    row = {"context": "Ann ran.", "question": "who ?", "paragraphs": ["Ann ran."]}
    file = tmp_path / "table.json"
    file.write_text(json.dumps(row) + "\n" if lines else json.dumps([row]))
    (found,) = load_data(DataRecipe(source=str(file)), needs_labels=False, roles=ASKED).train.to_list()
    assert found == {"context": "Ann ran.", "question": "who ?"}


def test_a_validation_split_that_is_there_is_kept(tmp_path: Path, rows: Rows) -> None:
    for split in ("train", "validation"):
        write(tmp_path / f"{split}.csv", rows)
    data = load_data(DataRecipe(source=str(tmp_path), validation_fraction=0.34))
    assert (len(data.train), len(data.validation)) == (9, 9)


def test_picture_groups_by_id_path_and_bytes(tmp_path: Path, rows: Rows) -> None:
    by_path = find_image_groups(Dataset.from_list(rows))
    features = Features({"text": Value("string"), "image": Image(decode=False), "label": Value("string")})
    read = [{**row, "image": {"bytes": Path(row["image"]).read_bytes(), "path": None}} for row in rows]
    by_bytes = find_image_groups(Dataset.from_list(read, features=features))
    by_id = find_image_groups(Dataset.from_list([{**row, "image_id": number // 3} for number, row in enumerate(rows)]))
    for groups in (by_path, by_bytes, by_id):
        assert [groups.index(group) for group in groups] == [0, 0, 0, 3, 3, 3, 6, 6, 6]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"columns": {"text": "question", "label": "answer"}}, "no column question, answer; it has text, image, label"),
        ({"splits": {"validation": "dev"}}, "no split 'dev'; there are train"),
        ({"columns": {"text": "text"}}, "no column is mapped to label; mapped are text"),
        ({"max_rows": 0}, "max_rows is 0"),
        ({"validation_fraction": 2.0}, "validation_fraction is 2.0"),
        ({"test_fraction": 0.0}, "test_fraction is 0.0"),
        ({"labels": ["red", "yes"]}, "unknown label 'no' in row 2 of 'train'; training has red, yes"),
        ({"source": "nowhere.csv"}, "no file or folder nowhere.csv"),
        ({"source": "./nowhere"}, "no file or folder ./nowhere"),
        ({"source": None}, "data.source is missing"),
    ],
)
def test_mistakes_are_named(tmp_path: Path, rows: Rows, changes: dict, message: str) -> None:
    reordered = [rows[1], rows[0], *rows[4:]]
    file = str(write(tmp_path / "data.csv", reordered))
    with pytest.raises(RecipeError, match=message):
        load_data(DataRecipe(**{"source": file, **changes}))


def test_a_label_that_training_did_not_have(tmp_path: Path) -> None:
    write(tmp_path / "train.csv", [{"text": "x", "label": "a"}, {"text": "y", "label": "b"}])
    write(tmp_path / "test.csv", [{"text": "x", "label": "a"}, {"text": "y", "label": "z"}])
    with pytest.raises(RecipeError, match=r"unknown label 'z' in row 1 of 'test'; training has a, b"):
        load_data(DataRecipe(source=str(tmp_path)))


def test_empty_and_missing_values(tmp_path: Path) -> None:
    (tmp_path / "empty.jsonl").write_text("")
    (tmp_path / "gap.jsonl").write_text('{"text": "x", "label": null}\n{"text": "y", "label": null}\n')
    (tmp_path / "same.jsonl").write_text('{"text": "x", "label": "a"}\n{"text": "y", "label": "a"}\n')
    (tmp_path / "broken.parquet").write_bytes(b"not parquet")
    (tmp_path / "folder").mkdir()
    for name, message in {
        "empty.jsonl": "empty",
        "gap.jsonl": "no row of the training split has a label",
        "same.jsonl": "at least two classes are needed",
        "broken.parquet": "cannot be read",
        "folder": "neither train/validation/test files nor images",
    }.items():
        with pytest.raises(RecipeError, match=message):
            load_data(DataRecipe(source=str(tmp_path / name)))


def test_a_hub_data_set_that_cannot_be_had(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(RecipeError, match="data.source: nobody/nothing: "):
        load_data(DataRecipe(source="nobody/nothing"))


def test_a_number_that_is_no_number(tmp_path: Path) -> None:
    file = write(tmp_path / "data.csv", [{"text": "x", "label": "1.5"}, {"text": "y", "label": "much"}])
    with pytest.raises(RecipeError, match="the label 'much' in row 1 of 'train' is no number"):
        load_data(DataRecipe(source=str(file), regression=True))


def test_easy_vqa_source() -> None:
    pytest.importorskip("easy_vqa")
    data = load_data(DataRecipe(source="easy_vqa"))
    assert {split: len(rows) for split, rows in data.splits.items()} == {"train": 38575, "test": 9673}
    assert len(data.labels.names) == 13
    assert len(set(find_image_groups(data.train))) == 4000
    row = data.train[0]
    assert Path(row["image"]).is_file()
    assert row["image_id"].startswith("train-")


def test_rows_of_one_group_stay_together(tmp_path: Path) -> None:
    file = write(
        tmp_path / "data.csv", [{"text": f"{n}", "label": "ab"[n % 2], "group": f"{n // 4}"} for n in range(24)]
    )
    data = load_data(DataRecipe(source=str(file), validation_fraction=0.3), roles=("text", "label", "group"))
    train, validation = (set(data.splits[split]["group"]) for split in ("train", "validation"))
    assert validation and not train & validation
