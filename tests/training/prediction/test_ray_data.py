"""Batches of columns get what `plait predict` writes to a table."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

import plait
from plait.training.prediction.ray_data import build_answer_columns
from plait.training.recipes.errors import RecipeError

from .test_tables import COLUMNS, run, write

Rows = list[dict[str, Any]]


def as_columns(rows: Rows) -> dict[str, np.ndarray]:
    """As Ray has them: texts as objects, and images of one size as one array."""
    columns = {name: [row[name] for row in rows] for name in rows[0]}
    return {
        name: np.array(values, dtype=object if isinstance(values[0], (str, bytes)) else None)
        for name, values in columns.items()
    }


def as_rows(columns: Mapping[str, Any]) -> Rows:
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


@pytest.fixture
def paths(given: Rows, pictures: dict[str, Path], tmp_path: Path) -> Rows:
    """The rows, with whole paths."""
    for path in pictures.values():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return [{**row, "picture": str(tmp_path / row["picture"])} for row in given]


@pytest.fixture
def written(folder: str, paths: Rows, tmp_path: Path) -> Rows:
    """What `plait predict` writes."""
    run(folder, write(tmp_path / "in.csv", paths), tmp_path / "out.parquet", batch_size=5)
    return pq.read_table(tmp_path / "out.parquet").to_pylist()


def test_a_batch_gets_the_columns_of_a_written_table(folder: str, paths: Rows, written: Rows) -> None:
    """Whatever its size, as arrays or lists, with images as files, pixels or bytes."""
    predictor = plait.ray.predictor(folder, COLUMNS, batch_size=2)()
    pixels = [{**row, "picture": np.asarray(Image.open(row["picture"]))} for row in paths]
    contents = [{**row, "picture": Path(row["picture"]).read_bytes()} for row in paths]
    for rows in (paths, pixels, contents):
        found: Rows = []
        for start in range(0, len(rows), 4):
            columns: Any = as_columns(rows[start : start + 4])
            if start:
                columns = {name: list(values) for name, values in columns.items()}
            answered = predictor(columns)
            assert all(answered[name] is values for name, values in columns.items())
            found += as_rows(answered)
        for one, other in zip(found, written, strict=True):
            numbers = {name for name, value in other.items() if isinstance(value, float)}
            assert list(one) == list(other) and len(numbers) == 6
            assert {name: one[name] for name in numbers} == pytest.approx({name: other[name] for name in numbers})
            assert {**one, "picture": ""} == {**other, **{name: one[name] for name in numbers}, "picture": ""}


def test_a_row_that_cannot_be_read_is_named_or_left_without_an_answer(folder: str, paths: Rows) -> None:
    paths[3]["picture"] = "absent.png"
    with pytest.raises(RecipeError, match=r"row 3 of the data.*absent\.png"):
        plait.ray.predictor(folder, COLUMNS)()(as_columns(paths))
    skips = plait.ray.predictor(folder, {**COLUMNS, "data.on_error": "skip"})()
    found = as_rows(skips(as_columns(paths)))
    assert "absent.png" in found[3]["error"] and found[3]["score"] is None
    assert all(row["error"] is None and row["score"] > 0 for row in found[:3] + found[4:])
    whole = skips(as_columns(paths[:3]))  # all blocks have the same columns
    assert list(whole) == list(found[0]) and list(whole["error"]) == [None] * 3


def test_what_cannot_be_answered_is_said(folder: str, paths: Rows) -> None:
    predictor = plait.ray.predictor(folder, COLUMNS)()
    with pytest.raises(TypeError, match="a batch is a list: expected columns"):
        predictor(paths)  # pyright: ignore[reportArgumentType]
    with pytest.raises(RecipeError, match="has no column said"):
        predictor({"picture": [paths[0]["picture"]]})
    with pytest.raises(RecipeError, match="the column said holds arrays"):
        predictor({"said": [np.zeros(3)], "picture": [paths[0]["picture"]]})
    with pytest.raises(RecipeError, match="absent"):
        plait.ray.predictor("absent")
    assert predictor({"said": [], "picture": []}) == {"said": [], "picture": []}


def test_answers_become_columns_of_their_type() -> None:
    """Vectors a matrix, names of several labels lists, and a name that is taken another."""
    answers = [
        {"vector": [0.5, 1.0], "label": ["a", "b"], "score": 0.5},
        {"vector": [2.0, 3.0], "label": [], "score": 1},
    ]
    columns = build_answer_columns(answers, ["label"], ["error"])
    assert columns["vector"].tolist() == [[0.5, 1.0], [2.0, 3.0]] and columns["score"].dtype == float
    assert list(columns["predicted_label"]) == [["a", "b"], []] and list(columns["error"]) == [None, None]


@pytest.mark.slow
def test_ray_answers_what_is_written(
    folder: str, paths: Rows, written: Rows, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two actors, each with the model, which is named by a path relative to the folder of the program."""
    ray = pytest.importorskip("ray")
    monkeypatch.chdir(Path(folder).parent)
    monkeypatch.setenv("RAY_worker_niceness", "0")  # else a busy machine starves the actors
    ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)  # an actor each, and two to read
    try:
        data = ray.data.from_items(paths, override_num_blocks=3)
        answered = data.map_batches(plait.ray.predictor(Path(folder).name, COLUMNS), batch_size=2, concurrency=2)
        found = sorted(answered.take_all(), key=lambda row: row["id"])
    finally:
        ray.shutdown()
    for one, other in zip(found, written, strict=True):
        assert set(one) == set(other) and one["predicted_label"] == other["predicted_label"]
        assert one["score"] == pytest.approx(other["score"], abs=2e-6)
