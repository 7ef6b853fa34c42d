"""Streams: the place is found again to the bit, processes share the rows, files of all kinds are read."""

import io
import json
import os
import tarfile
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from plait import PlaitTrainer, PlaitTrainingArguments
from plait.training.recipes.errors import RecipeError
from plait.training.runs.recipe import build_recipe
from plait.training.runs.train import train
from plait.training.streams.heap import find_trim, trim_heap
from plait.training.streams.opening import open_stream
from plait.training.streams.rows import RowStream, TokenBudget

ROWS = 100


@pytest.fixture(scope="module")
def shards(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shards")
    for shard in range(4):
        numbers = range(shard * 25, shard * 25 + 25)
        (folder / f"train-{shard}.jsonl").write_text("".join(json.dumps({"number": n}) + "\n" for n in numbers))
    return folder


def stream(folder: Path, batch: int = 4, process: int = 0, processes: int = 1, **options: Any) -> RowStream:
    return RowStream(partial(open_stream, folder, 7), batch, 10, 3, process=process, processes=processes, **options)


def read(data: RowStream, batches: int) -> list[list[int]]:
    return [[row["number"] for row in rows] for rows in islice(iter(data), batches)]


def test_every_row_comes_once_a_round_and_in_another_order(shards: Path) -> None:
    rows = sum(read(stream(shards), 50), [])
    assert sorted(rows[:ROWS]) == sorted(rows[ROWS:]) == list(range(ROWS))
    assert rows[:ROWS] != rows[ROWS:] and rows[:ROWS] != sorted(rows[:ROWS])


@pytest.mark.parametrize("done", [1, 2, 24, 25, 26])  # inside a block, at its end, at the end of a round
def test_a_resumed_stream_goes_on_to_the_bit(shards: Path, done: int) -> None:
    whole = list(islice(iter(stream(shards)), 40))
    first = stream(shards)
    first.place = whole[done - 1].place
    resumed = stream(shards)
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert list(islice(iter(resumed), 40 - done)) == whole[done:]


@pytest.mark.parametrize("processes", [2, 4])
def test_processes_share_the_rows(shards: Path, processes: int) -> None:
    each = ROWS // processes
    parts = [sum(read(stream(shards, 1, process, processes), each), []) for process in range(processes)]
    assert sorted(sum(parts, [])) == list(range(ROWS))


def count_tokens(rows: Any) -> list[int]:
    """Row 50 is longer than the budget of the tests."""
    return [40 if number == 50 else 1 + number % 7 for number in rows["number"]]


BUDGET = TokenBudget(12, count_tokens)


@pytest.mark.parametrize("processes", [1, 2])
def test_a_budget_of_tokens_is_filled_and_kept(shards: Path, processes: int) -> None:
    """Every row comes once; a batch has at most 12 tokens with padding, but for a longer row, which is alone."""
    batches: list[list[int]] = []
    for process in range(processes):
        rows = 0
        for batch in iter(stream(shards, 1, process, processes, budget=BUDGET)):
            batches.append([row["number"] for row in batch])
            rows += len(batch)
            if rows == ROWS // processes:
                break
    assert sorted(sum(batches, [])) == list(range(ROWS)) and [50] in batches
    sizes = [len(batch) * max(count_tokens({"number": batch})) for batch in batches if batch != [50]]
    assert max(sizes) <= 12 and sum(sizes) / len(sizes) > 8


@pytest.mark.parametrize("done", [1, 3, 8, 40, 60])
def test_a_resumed_stream_of_a_budget_goes_on_to_the_bit(shards: Path, done: int) -> None:
    whole = list(islice(iter(stream(shards, budget=BUDGET)), 80))
    first, resumed = stream(shards, budget=BUDGET), stream(shards, budget=BUDGET)
    first.place = whole[done - 1].place
    resumed.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert list(islice(iter(resumed), 80 - done)) == whole[done:]
    with pytest.raises(ValueError, match="read with tokens 12, and now with None: resume with 12"):
        stream(shards).load_state_dict(first.state_dict())


def test_freed_memory_is_returned() -> None:
    """Of many small objects between few that stay, which keep the C library from returning it."""
    if find_trim() is None:
        pytest.skip("another C library than glibc")
    kept = [bytes(1000) for _ in range(60_000)][::50]
    before = read_resident_bytes()
    trim_heap()
    assert len(kept) == 1200 and before - read_resident_bytes() > 30 * 2**20


def read_resident_bytes() -> int:
    """The memory of this process, in bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def test_a_stream_of_other_processes_is_refused(shards: Path) -> None:
    with pytest.raises(ValueError, match="read with processes 1, and now with 2: resume with 1"):
        stream(shards, process=1, processes=2).load_state_dict(stream(shards).state_dict())


def test_files_of_a_webdataset_become_rows(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "train-0.tar", "w") as archive:
        for number in range(3):
            buffer = io.BytesIO()
            Image.new("RGB", (4, 4), (number, 0, 0)).save(buffer, "PNG")
            for suffix, content in {"png": buffer.getvalue(), "cls": str(number).encode(), "txt": b"a square"}.items():
                entry = tarfile.TarInfo(f"{number:03}.{suffix}")
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))
    rows = list(open_stream(tmp_path))
    assert [row["cls"] for row in rows] == [0, 1, 2] and rows[0]["txt"] == "a square"
    assert Image.open(io.BytesIO(rows[2]["png"]["bytes"])).getpixel((0, 0)) == (2, 0, 0)


def test_parquet_and_csv_are_read_as_they_are_written(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"text": "a", "label": 1}]).to_parquet(str(tmp_path / "rows.parquet"))
    (tmp_path / "rows.csv").write_text("text,label\n007,NA\n")
    assert list(open_stream(tmp_path / "*.parquet")) == [{"text": "a", "label": 1}]
    assert list(open_stream(tmp_path / "rows.csv")) == [{"text": "007", "label": "NA"}]
    with pytest.raises(RecipeError, match="of one of the suffixes"):
        open_stream(tmp_path / "*")
    with pytest.raises(RecipeError, match="no file is"):
        open_stream(tmp_path / "absent*")


def recipe_of(folder: Path, rows: list[dict[str, str]], **training: Any) -> Any:
    tiny = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for shard in range(2):
        (folder / f"train-{shard}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[shard::2]))
    (folder / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    content = {
        "model": {
            "text": {"config": {**tiny, "max_position_embeddings": 24}},
            "image": {"config": {**tiny, "image_size": 16, "patch_size": 8}},
            "fusion_config": tiny,
        },
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {"train": str(folder / "train-*.jsonl"), "test": str(folder / "test.jsonl")}}
        | {"stream": 4, "labels": sorted({row["label"] for row in rows})},
        "training": {"use_cpu": True, "disable_tqdm": True, "max_steps": 8}
        | {"save_steps": 5, "learning_rate": 1e-2, **training},
        "output_dir": str(folder / "run"),
    }
    return build_recipe(content)


@pytest.mark.parametrize("batch", [{"per_device_train_batch_size": 3}, {"tokens_per_batch": 40}])
def test_a_resumed_run_of_a_stream_ends_with_the_same_weights(
    tmp_path: Path, rows: list[dict[str, str]], batch: dict[str, int]
) -> None:
    """The checkpoint of step 5 lies inside a block of the second round."""
    from safetensors.torch import load_file

    recipe = recipe_of(tmp_path, rows, **batch)
    results = train(recipe, "plait train")
    weights = load_file(tmp_path / "run" / "model.safetensors")
    assert results["test"]["model"].keys() >= {"loss", "accuracy"}
    last = tmp_path / "run" / "checkpoints" / "checkpoint-8"
    assert json.loads((last.with_name("checkpoint-5") / "stream_0.json").read_text())["place"]["reading"] == 1
    last.rename(tmp_path / "aside")
    train(recipe, "plait train", resume=True)
    for name, value in load_file(tmp_path / "run" / "model.safetensors").items():
        assert torch.equal(value, weights[name]), name


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "data.labels is missing: the labels of a stream cannot be counted .* have blue, no, red"),
        ({"max_rows": 5}, "data.max_rows needs all rows beforehand"),
        ({"stream": 0}, "data.stream is 0: expected a buffer of at least 1 row"),
    ],
)
def test_what_a_stream_cannot_do_is_said(
    tmp_path: Path, rows: list[dict[str, str]], changes: dict[str, Any], message: str
) -> None:
    recipe = recipe_of(tmp_path, rows)
    for key, value in changes.items():
        setattr(recipe.data, key, value)
    with pytest.raises(RecipeError, match=message):
        train(recipe, "plait train")


def test_a_stream_has_one_reader(shards: Path, tmp_path: Path) -> None:
    args = PlaitTrainingArguments(str(tmp_path), use_cpu=True, max_steps=2, dataloader_num_workers=2)
    rows: Any = stream(shards)
    with pytest.raises(ValueError, match="a stream has one reader"):
        PlaitTrainer(torch.nn.Linear(1, 1), args, train_dataset=rows)
