"""What is proposed for a table: columns by their content, the kind of the target, and errors before any work."""

import json
from pathlib import Path
from typing import Any

import pytest

from plait.training.data.tokenizer import train_tokenizer
from plait.training.proposals import towers
from plait.training.proposals.proposal import Proposal, propose
from plait.training.proposals.writing import format_proposal, write_commented_recipe
from plait.training.recipes.errors import RecipeError
from plait.training.recipes.files import parse_yaml
from plait.training.runs.recipe import build_recipe

from .tables import COLOURS, class_folder, picture, reviews, sound, write_csv

TOWERS = {f"model.{part}": f"some/{part}-minilm" for part in ("text", "image")}


@pytest.fixture(autouse=True)
def without_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No connection, no cached and no installed checkpoint, whatever the machine has."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr(towers, "PACKAGES", {})
    monkeypatch.setattr(towers, "list_cached_models", dict)
    monkeypatch.setattr("plait.training.proposals.models.list_cached_models", dict)


def propose_rows(folder: Path, rows: list[dict[str, Any]], target: str | None, **options: Any) -> Proposal:
    """The proposal for rows as a csv file, with towers that nobody has to load."""
    overrides = {**TOWERS, **options.pop("overrides", {})}
    used = {key: value for key, value in overrides.items() if value is not None}
    return propose(str(write_csv(folder / "table.csv", rows)), target, overrides=used, **options)


def find_columns_read(proposal: Proposal) -> dict[str, str]:
    """How each column is read."""
    return {name: used for name, _, used in proposal.columns}


def test_texts_are_read_and_ids_times_constants_and_categories_are_left_out(tmp_path: Path) -> None:
    proposal = propose_rows(tmp_path, reviews(), "mood")
    assert proposal.content["data"]["columns"] == {"text": "body", "label": "mood"}
    assert proposal.content["data"]["labels"] == ["bad", "good"]
    read = find_columns_read(proposal)
    assert all(read[name].startswith("- (") for name in ("id", "shop", "when", "city"))
    assert proposal.content["data"]["test_fraction"] and proposal.content["data"]["validation_fraction"]


def test_wanted_columns_are_joined_with_their_names(tmp_path: Path) -> None:
    proposal = propose_rows(tmp_path, reviews(), "mood", inputs=["body", "city"])
    assert proposal.content["data"]["columns"]["text"] == ["body", "city"]
    assert proposal.content["data"]["templates"] == {"text": "{body}\ncity: {city}"}


TARGETS: dict[str, tuple[list[Any], dict[str, Any]]] = {
    "classes": (["a", "b"] * 30, {"task": "classification", "labels": ["a", "b"]}),
    "whole numbers": ([1, 2, 3] * 20, {"task": "classification", "labels": ["1", "2", "3"]}),
    "truth values": ([True, False] * 30, {"task": "classification", "labels": ["False", "True"]}),
    "prices": ([1000.5 + 3 * n for n in range(60)], {"task": "classification", "regression": True}),
    "years": ([1900 + n for n in range(60)], {"task": "classification", "regression": True}),
    "several": (["a;b", "a", "b;c", "c", "a;c", "b"] * 10, {"labels": ["a", "b", "c"], "label_separator": ";"}),
    "commas in names": (["Rome, Italy", "Oslo, Norway"] * 30, {"labels": ["Oslo, Norway", "Rome, Italy"]}),
    "sentences": ([f"this is what is said of row {n} here" for n in range(60)], {"task": "generation"}),
}


@pytest.mark.parametrize("kind", TARGETS)
def test_the_kind_of_a_target_is_found(kind: str, tmp_path: Path) -> None:
    cells, expected = TARGETS[kind]
    rows = [{"body": row["body"], "answer": cell} for row, cell in zip(reviews(), cells, strict=True)]
    overrides = {"model.decoder": "some/gpt"} if expected.get("task") == "generation" else {}
    content = propose_rows(tmp_path, rows, "answer", overrides=overrides).content
    found = {"task": content["task"], **content["data"]}
    assert {key: found.get(key) for key in expected} == expected
    assert "label_separator" in content["data"] or kind != "several"
    build_recipe(content)


@pytest.mark.parametrize("suffix", [".parquet", ".jsonl", ".csv"])
def test_lists_of_labels_and_of_texts(suffix: str, tmp_path: Path) -> None:
    from datasets import Dataset

    labels = [[("a", "b", "c")[n % 3], "d"] if n % 2 else ["a"] for n in range(60)]
    texts = [[f"it is said of {n} so", f"or of {n} otherwise"] for n in range(60)]
    rows = [{**row, "tags": tags, "said": said} for row, tags, said in zip(reviews(), labels, texts, strict=True)]
    if suffix == ".csv":
        rows = [{**row, "tags": "|".join(row["tags"])} for row in rows]
    file = tmp_path / f"rows{suffix}"
    {".parquet": Dataset.to_parquet, ".jsonl": Dataset.to_json, ".csv": Dataset.to_csv}[suffix](
        Dataset.from_list(rows), str(file)
    )
    several = propose(str(file), "tags", ["body"], TOWERS)
    assert several.content["data"]["labels"] == ["a", "b", "c", "d"]
    assert several.content["metrics"][0] == "f1_micro"
    if suffix != ".csv":
        with pytest.raises(RecipeError, match="--model.decoder"):
            propose(str(file), "said", ["body"], TOWERS)  # no decoder is here, and one row a text teaches no new one
        written = propose(str(file), "said", ["body"], {**TOWERS, "model.decoder": "some/gpt"})
        assert written.content["settings"] == {"references": "each"}


def test_media_are_known_by_content_not_by_name(tmp_path: Path) -> None:
    from datasets import Dataset

    paths = []
    for number in range(40):
        file = tmp_path / f"file{number}.dat"
        file.write_bytes(picture(tuple(COLOURS.values())[number % 3]) if number else b"no picture")
        paths.append(file.name)
    rows = {"x": paths, "z": [sound(200 + n) for n in range(40)], "label": ["a", "b"] * 20}
    Dataset.from_dict(rows).to_parquet(str(tmp_path / "rows.parquet"))
    proposal = propose(str(tmp_path / "rows.parquet"))
    assert proposal.content["data"]["columns"] == {"image": "x", "audio": "z", "label": "label"}
    assert proposal.content["data"]["on_error"] == "skip"
    assert {part: type(tower) for part, tower in proposal.content["model"].items() if part in ("image", "audio")} == {
        "image": dict,
        "audio": dict,
    }  # small and new, and said so
    assert "new plait_cnn" in format_proposal(proposal) and "new plait_rnn" in format_proposal(proposal)


@pytest.mark.parametrize(("suffix", "modality"), [(".png", "image"), (".wav", "audio")])
def test_a_folder_of_classes(suffix: str, modality: str, tmp_path: Path) -> None:
    made = {
        "image": {name: [picture(colour, 20 + n) for n in range(4)] for name, colour in COLOURS.items()},
        "audio": {name: [sound(pitch + n) for n in range(4)] for name, pitch in {"low": 150, "high": 900}.items()},
    }[modality]
    proposal = propose(str(class_folder(tmp_path / "classes", suffix, made)))
    assert proposal.content["data"]["columns"] == {modality: modality, "label": "label"}
    assert proposal.content["data"]["labels"] == sorted(made)


def test_rare_classes_and_missing_values_are_said(tmp_path: Path) -> None:
    rows = reviews()
    rows[7] |= {"mood": "odd"}
    rows[8] |= {"mood": ""}
    rows[9] |= {"body": ""}
    proposal = propose_rows(tmp_path, rows, "mood")
    data = proposal.content["data"]
    assert data["labels"] == ["bad", "good"] and data["leave_out"] == {"mood": ["odd"]} and data["on_error"] == "skip"
    shown = format_proposal(proposal)
    assert shown.count("1 missing") == 2 and "odd" in shown


def test_a_decoder_means_texts_to_write(tmp_path: Path) -> None:
    rows = [{**row, "mood": f"it was {row['mood']}"} for row in reviews()]
    assert propose_rows(tmp_path, rows, "mood").content["task"] == "classification"
    content = propose_rows(tmp_path, rows, "mood", overrides={"model.decoder": "some/gpt"}).content
    assert content["task"] == "generation" and content["data"]["columns"]["target"] == "mood"
    build_recipe(content)


def test_overrides_are_kept_and_the_recipe_says_why(tmp_path: Path) -> None:
    overrides = {"training.num_train_epochs": 2, "seed": 7, "model.freeze": []}
    proposal = propose_rows(tmp_path, reviews(), "mood", overrides=overrides)
    assert "cache_features" not in proposal.content["training"]  # a tower that is trained has none
    read = parse_yaml(write_commented_recipe(proposal))
    assert read == json.loads(json.dumps(proposal.content))
    assert read["training"]["num_train_epochs"] == 2 and read["seed"] == 7
    assert write_commented_recipe(proposal).count("#") > 10
    build_recipe(read)


SAME = [{"body": "x y z u v", "mood": "ab"[n % 2]} for n in range(40)]
WORDS = [{"body": f"a text {n}", "mood": f"{n}.5" if n else "n/a"} for n in range(40)]
AMOUNTS = [{"body": f"a text {n}", "mood": f"$ {n},000"} for n in range(40)]
FILES = [{"picture": f"{n}.png", "mood": "ab"[n % 2]} for n in range(40)]
KINDS = [{"body": f"a text {n}", "mood": f"kind {n % 25}"} for n in range(40)]
ERRORS: dict[str, tuple[dict[str, Any], str]] = {
    "a target that does not exist": ({"target": "moood"}, "no column 'moood'.*did you mean 'mood'"),
    "no target": ({"target": None}, "Name it with --target.*--target city"),
    "a single class": ({"target": "shop"}, "every label is 'here'.*two classes"),
    "all texts the same": ({"rows": SAME}, "every cell of body is the same"),
    "words among numbers": ({"rows": WORDS}, "39 cells are numbers, 1 are not, such as 'n/a'"),
    "amounts": ({"rows": AMOUNTS}, "write plain numbers"),
    "empty target": ({"rows": [{"body": f"a text {n}", "mood": ""} for n in range(4)]}, "every cell is empty"),
    "target among inputs": ({"inputs": ["body", "mood"]}, "it is the target"),
    "unknown input": ({"inputs": ["bdy"]}, "no column 'bdy'.*'body'"),
    "missing files": ({"rows": FILES}, "names of image files, none of them in .*image_root"),
    "ambiguous texts": ({"rows": KINDS}, "--task classification or --task generation"),
    "no tower": ({"overrides": {"model.text": None}}, "pass --model.text .*, such as sentence-transformers"),
    "another task": ({"overrides": {"task": "dialogue"}}, "plait train RECIPE"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_before_any_work_say_what_to_do(name: str, tmp_path: Path) -> None:
    options, expected = ERRORS[name]
    options = dict(options)
    rows, target = options.pop("rows", reviews()), options.pop("target", "mood")
    with pytest.raises(RecipeError, match=f"(?s){expected}"):
        propose_rows(tmp_path, rows, target, **options)


def test_pairs_without_a_target_may_become_a_search(tmp_path: Path) -> None:
    rows = []
    for number, row in enumerate(reviews(40)):
        (tmp_path / f"{number}.png").write_bytes(picture((number, 0, 0)))
        rows.append({"picture": f"{number}.png", "words": row["body"]})
    with pytest.raises(RecipeError, match="--task retrieval .*pretraining"):
        propose_rows(tmp_path, rows, None)
    content = propose_rows(tmp_path, rows, None, overrides={"task": "retrieval"}).content
    assert content["data"]["columns"] == {"text": "words", "image": "picture"}
    build_recipe(content)


@pytest.mark.parametrize("period", [2, 4, 5])
def test_cells_that_are_missing_at_even_distances_hide_no_column(tmp_path: Path, period: int) -> None:
    texts = [f"a {'red blue green'.split()[n % 3]} thing, seen {n} times http://t.co/x{n}" for n in range(120)]
    rows = [{"text": text if n % period else None, "label": "ab"[n % 2]} for n, text in enumerate(texts)]
    columns = {name: held for name, held, _ in propose_rows(tmp_path, rows, "label").columns}
    assert columns["text"].startswith("text, ") and f"{120 // period} missing" in columns["text"]


@pytest.mark.parametrize(
    ("none_label", "labels", "said"),
    [
        (None, ["a", "b", "none"], "10 of 60 rows have an empty cell: their labels are unknown"),
        ("none", ["a", "b"], "says none of the labels with [] or none"),
        ("", ["a", "b", "none"], "10 of 60 rows have an empty cell: none of the labels"),
    ],
)
def test_what_an_empty_cell_of_several_labels_means_is_said(
    none_label: str | None, labels: list[str], said: str, tmp_path: Path
) -> None:
    cells = ["a;b", "a", "", "b", "none", "[]"] * 10
    rows = [{"body": row["body"], "tags": cell} for row, cell in zip(reviews(), cells, strict=True)]
    proposal = propose_rows(tmp_path, rows, "tags", overrides={"data.none_label": none_label})
    assert proposal.content["data"]["labels"] == labels
    shown = format_proposal(proposal)
    assert said in shown
    assert ("'none' is a label like the others (--data.none_label none" in shown) == ("none" in labels)
    build_recipe(proposal.content)


def test_a_number_is_called_regression_and_max_rows_is_in_the_plan(tmp_path: Path) -> None:
    rows = [{"body": row["body"], "price": number % 7} for number, row in enumerate(reviews())]
    overrides = {"task": "regression", "data.max_rows": {"train": 20, "test": 1000}}
    proposal = propose_rows(tmp_path, rows, "price", overrides=overrides)
    assert build_recipe(proposal.content).data.regression
    shown = format_proposal(proposal)
    assert "task regression" in shown and "task classification" not in shown
    assert "rows: at most 20 train, 1,000 test" in shown


def test_texts_that_the_vocabulary_does_not_fit_are_said(tmp_path: Path) -> None:
    """A tokenizer that was trained on the reviews reads them in whole words, others in pieces or not at all."""
    tokenizer = train_tokenizer([row["body"] for row in reviews(200)], 32, vocab_size=400, min_frequency=1)
    tokenizer.save_pretrained(tmp_path / "tower")
    notes = {}
    for name, text in {"own": "{}", "strange": "Donaudampfschifffahrt {} Gesellschaftskapitaen"}.items():
        rows = [{"body": text.format(row["body"]), "mood": row["mood"]} for row in reviews()]
        if name == "strange":
            rows = [{**row, "body": " ".join(word[::-1] for word in row["body"].split())} for row in rows]
        proposal = propose_rows(tmp_path, rows, "mood", overrides={"model.text": str(tmp_path / "tower")})
        notes[name] = [note for note in proposal.notes if "does not fit these texts" in note]
    assert notes["own"] == [] and len(notes["strange"]) == 1
    assert "tokens a word" in notes["strange"][0] and str(tmp_path / "tower") in notes["strange"][0]
