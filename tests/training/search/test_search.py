"""Search in folders and tables: the ranking of the model, by an index that is brought up to date."""

import gc
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from PIL import Image
from transformers import BertConfig, BertModel, set_seed

from plait import PlaitForRetrieval, PlaitProcessor
from plait.configuration import PlaitTextConfig, PlaitVisionConfig
from plait.training.cli import main
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import train
from plait.training.search import Searcher, VectorIndex, open_search
from plait.training.search.vector_index import INDEX_FILE, Match

from ..conftest import IMAGE, TEXT

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230), "grey": (99, 99, 99), "dark": (9, 9, 9)}


@pytest.fixture(scope="module")
def make_folder(tmp_path_factory: pytest.TempPathFactory, processor: PlaitProcessor) -> Callable[[int], str]:
    """The folder of a tiny retrieval model, for each seed."""

    def make(seed: int) -> str:
        folder = tmp_path_factory.getbasetemp() / f"retrieval-{seed}"
        if not folder.exists():
            set_seed(seed)
            vocabulary = {"vocab_size": len(processor.tokenizer), "pad_token_id": processor.tokenizer.pad_token_id}
            towers: dict[str, Any] = {
                "text": PlaitTextConfig(**TEXT, **vocabulary),
                "image": PlaitVisionConfig(**IMAGE),
            }
            PlaitForRetrieval.compose(**towers, verbose=False).save_pretrained(folder)
            processor.save_pretrained(folder)
        return str(folder)

    return make


@pytest.fixture
def images(tmp_path: Path) -> Path:
    folder = tmp_path / "images"
    (folder / "deeper").mkdir(parents=True)
    for number, (name, colour) in enumerate(COLOURS.items()):
        Image.new("RGB", (16, 16), colour).save(folder / ("deeper" if number == 1 else "") / f"{name}.png")
    return folder


def list_files(matches: list[Match]) -> list[str]:
    return [match.place["file"] for match in matches]


def test_the_ranking_is_that_of_the_models_vectors(make_folder: Callable[[int], str], images: Path) -> None:
    search = open_search(make_folder(0), images)
    model, processor = search.model, search.processor
    paths = sorted(str(path) for path in images.rglob("*.png"))
    vectors = model.encode(paths, processor, "image", show_progress=False)
    for query, side in (("is it red ?", "text"), (str(images / "grey.png"), "image")):
        scores = (vectors @ model.encode([query], processor, side)[0]).numpy()
        expected = [str(Path(paths[place]).relative_to(images)) for place in np.argsort(-scores, kind="stable")]
        found = search(**{side: query}, top_k=3)
        assert list_files(found) == expected[:3]
        assert [match.score for match in found] == pytest.approx(np.sort(scores)[::-1][:3], abs=2e-6)
    assert list_files(search(image=str(images / "grey.png"), top_k=1)) == ["grey.png"]
    assert len(search("is it red ?", top_k=99)) == len(COLOURS)
    with pytest.raises(ValueError, match="no audio side"):
        search(audio="a.wav")
    with pytest.raises(ValueError, match="there is no query: give one of text, image"):
        search()


def test_an_index_that_is_updated_is_one_that_is_made_anew(make_folder: Callable[[int], str], images: Path) -> None:
    """What is new is encoded alone; what has the same content is the same, under whatever name; unreadable files are
    left out and named."""
    folder, counts = make_folder(0), []
    first = open_search(folder, images)
    assert (first.change.added, first.change.removed) == (5, 0)
    Image.new("RGB", (16, 16), (200, 200, 10)).save(images / "yellow.png")
    (images / "copy.png").write_bytes((images / "red.png").read_bytes())
    (images / "blue.png").unlink()
    Image.new("RGB", (16, 16), (1, 200, 200)).save(images / "grey.png")  # another image under the same name
    (images / "broken.png").write_bytes(b"no image")
    updated = open_search(folder, images)
    assert (updated.change.added, updated.change.removed) == (2, 2)
    assert [place["file"] for place, _ in updated.change.problems] == ["broken.png"]
    anew = open_search(folder, images, index_folder=images.parent / "other")
    assert updated.index.places == anew.index.places and updated.index.keys == anew.index.keys
    np.testing.assert_allclose(updated.index.vectors, anew.index.vectors, atol=1e-6)
    read = VectorIndex.load(images / ".plait-index")
    assert read.keys == updated.index.keys and np.array_equal(read.vectors, updated.index.vectors)
    assert len(list((images / ".plait-index").iterdir())) == 2
    (images / "copy.png").rename(images / "a.png")
    moved = open_search(folder, images)
    assert moved.change.added == moved.change.removed == 0
    assert "a.png" in list_files(open_search(folder, images, update=False)("is it red ?"))
    counts.append(len(moved.index))
    assert counts == [6]


def test_an_index_belongs_to_its_model(make_folder: Callable[[int], str], images: Path) -> None:
    open_search(make_folder(0), images)
    with pytest.raises(RecipeError, match="is an index of another model: --rebuild makes it anew"):
        open_search(make_folder(1), images)
    assert len(open_search(make_folder(1), images, rebuild=True).index) == 5
    with pytest.raises(RecipeError, match="another model"):
        open_search(make_folder(0), images)


@pytest.mark.parametrize("damage", ["cut vectors", "cut json", "no vectors", "other rows"])
def test_a_damaged_index_is_named(make_folder: Callable[[int], str], images: Path, damage: str) -> None:
    open_search(make_folder(0), images)
    place = images / ".plait-index"
    (vectors,) = place.glob("*.safetensors")
    content = json.loads((place / INDEX_FILE).read_text())
    if damage == "cut vectors":
        vectors.write_bytes(vectors.read_bytes()[:-9])
    elif damage == "no vectors":
        vectors.unlink()
    elif damage == "cut json":
        (place / INDEX_FILE).write_text(json.dumps(content)[:-9])
    else:
        (place / INDEX_FILE).write_text(json.dumps({**content, "keys": content["keys"][:-1]}))
    with pytest.raises(RecipeError, match="is a damaged index .*: --rebuild makes it anew"):
        open_search(make_folder(0), images)
    assert gc.isenabled()
    assert len(open_search(make_folder(0), images, rebuild=True).index) == 5


def test_the_rows_of_a_table(
    make_folder: Callable[[int], str], images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By either side, with all their columns; written as a table, or as a grid of their images."""
    lines = [{"id": f"0{n}", "picture": f"images/{path.relative_to(images)}", "said": f"is it {path.stem} ?"}
             for n, path in enumerate(sorted(images.rglob("*.png")))]  # fmt: skip
    table = tmp_path / "rows.jsonl"
    table.write_text("".join(json.dumps(line) + "\n" for line in lines))
    given = ["search", make_folder(0), "--index", str(table), "--data.columns", "{image: picture, text: said}"]
    output = tmp_path / "found.jsonl"
    assert main([*given, "--query", "is it red ?", "--query", "green", "--top-k", "2", "--output", str(output)]) == 0
    found = [json.loads(line) for line in output.read_text().splitlines()]
    assert [(line["query"], line["rank"]) for line in found] == [
        ("is it red ?", 1), ("is it red ?", 2), ("green", 1), ("green", 2)
    ]  # fmt: skip
    for line in found:
        assert {name: line[name] for name in lines[0]} == lines[line["row"]]
    assert (tmp_path / "rows.jsonl.plait-index" / INDEX_FILE).is_file()
    assert main([*given, "--side", "text", "--index-folder", str(tmp_path / "texts"), "--query", "is it red ?"]) == 0
    said = capsys.readouterr()
    assert re.search(r"1   1\.0000  row \d: .*is it red", said.out) and "5 items of" in said.err
    grid = tmp_path / "grid.png"
    assert main([*given, "--image", str(images / "red.png"), "--top-k", "3", "--output", str(grid)]) == 0
    assert Image.open(grid).size[0] > Image.open(grid).size[1]


def test_the_clips_of_a_table(tmp_path: Path, processor: PlaitProcessor, capsys: pytest.CaptureFixture[str]) -> None:
    """Audio and video columns are searched as images are, and a run of texts and clips can be trained and measured."""
    rate, folder, rows = 4000, tmp_path / "run", []
    for number, name in enumerate(COLOURS):
        wave = np.sin(np.arange(rate // 4) * (0.2 + 0.4 * number)).astype(np.float32)
        soundfile.write(tmp_path / f"{name}.wav", wave, rate)
        rows.append({"clip": f"{name}.wav", "said": f"it is {name}"})
    table = tmp_path / "clips.jsonl"
    table.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tiny: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    recipe = {
        "task": "retrieval",
        "model": {
            "text": {"config": tiny},
            "audio": {"config": {**tiny, "num_mel_bins": 8}},
            "options": {"initializer_range": 0.5},
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": str(table), "columns": {"text": "said", "audio": "clip"}, "validation_fraction": 0.4},
        "training": {"max_steps": 2, "per_device_train_batch_size": 3, "disable_tqdm": True, "report_to": "none"},
        "output_dir": str(folder),
        "report": False,
    }
    results = train(build_recipe(recipe), "test")
    assert 0 <= results["validation"]["model"]["text_to_audio_recall@1"] <= 1
    search = open_search(str(folder), table)
    assert search.index.side == "audio" and len(search.index) == len(rows)
    own = [search(audio=str(tmp_path / row["clip"]), top_k=1)[0] for row in rows]
    assert [match.place["clip"] for match in own] == [row["clip"] for row in rows]
    assert all(match.score == pytest.approx(1, abs=1e-5) for match in own)
    assert main(["search", str(folder), "--index", str(table), "--query", "it is red", "--top-k", "2"]) == 0
    assert "5 items of" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--index", "{folder}/nowhere", "--query", "a"], "there is no such folder or file"),
        (["--index", "{images}", "--image", "nowhere.png"], "--image nowhere.png: no such file"),
        (["--index", "{images}", "--query", "a", "--side", "audio"], "--side audio: the model has text, image"),
        (["--index", "{images}", "--query", "a", "--top-k", "0"], "--top-k is 0: expected at least 1"),
        (["--index", "{images}", "--query", "a", "--output", "a.txt"], "--output a.txt: give a query, and one of"),
        (["--index", "{images}/red.png", "--query", "a"], "give a folder, or a table"),
        (["--index", "{folder}/empty", "--query", "a"], "has no file that the model reads"),
    ],
)
def test_mistakes_are_named(
    make_folder: Callable[[int], str],
    images: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    message: str,
) -> None:
    (images.parent / "empty").mkdir()
    filled = [argument.format(images=images, folder=images.parent) for argument in arguments]
    assert main(["search", make_folder(0), *filled]) == 2
    assert message in capsys.readouterr().err


def test_a_searcher_is_made_of_loaded_parts(make_folder: Callable[[int], str], images: Path) -> None:
    search = open_search(make_folder(0), images)
    again = Searcher(search.model, search.processor, search.index)
    assert again("is it red ?") == search("is it red ?")


def test_a_checkpoint_that_is_no_run_searches_texts(tmp_path: Path, processor: PlaitProcessor) -> None:
    """A text encoder alone is a retrieval model of one side, whatever class has saved it."""
    config = BertConfig(vocab_size=len(processor.tokenizer), hidden_size=16, num_hidden_layers=1, num_attention_heads=2)
    BertModel(config).save_pretrained(tmp_path / "bert")
    processor.tokenizer.save_pretrained(tmp_path / "bert")
    (tmp_path / "texts.csv").write_text("id,text\n1,is it red ?\n2,blue\n")
    search = open_search(str(tmp_path / "bert"), tmp_path / "texts.csv")
    assert [match.place["id"] for match in search("blue", top_k=2)] == ["2", "1"]
