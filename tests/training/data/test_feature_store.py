"""Made outputs in the files of a feature store: what is written, found again and put together."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors import safe_open
from safetensors.torch import save_file

from plait.training.data import feature_cache
from plait.training.data.feature_cache import CachedFeatures, FeatureStore, name_folder, split_row_texts
from plait.training.data.inputs import compute_text_key
from plait.training.data.tower_digest import FEATURE_FORMAT


def made(length: int, start: float, pooled: bool = True) -> CachedFeatures:
    tokens = torch.arange(length * 2.0).view(length, 2) + start
    return CachedFeatures(tokens, tokens.sum(0) if pooled else None)


OUTPUTS = {"a": made(2, 1), "b": made(1, 10), "c": made(3, 20)}


@pytest.fixture
def store(tmp_path: Path) -> FeatureStore:
    store = FeatureStore(tmp_path / "deep" / "folder")
    assert len(store) == 0 and not store.has_keys([]) and not store.has_keys([None])
    store.add(["a", "b"], [OUTPUTS["a"], OUTPUTS["b"]])
    store.add(["c"], [OUTPUTS["c"]])
    assert len(store) == 0
    store.refresh()
    return store


def test_outputs_come_back(store: FeatureStore) -> None:
    assert len(store) == 3 and len(store.shards) == 2 and store.index.keys() == OUTPUTS.keys()
    for key, output in OUTPUTS.items():
        found = store[key]
        assert torch.equal(found.tokens, output.tokens) and torch.equal(found.pooled, output.pooled)
    with pytest.raises(KeyError):
        store["d"]
    assert store.has_keys(["a", None, "c"]) and store.has_keys([]) and not store.has_keys(["a", "d"])


def test_files_are_named_by_their_keys_and_say_their_format(store: FeatureStore) -> None:
    names = {file.name for file in store.folder.iterdir()}
    assert len(names) == 2 and all(name.endswith(".safetensors") and len(name) == 24 + 12 for name in names)
    store.add(["a", "b"], [OUTPUTS["a"], OUTPUTS["b"]])
    assert {file.name for file in store.folder.iterdir()} == names
    found = set()
    for file in store.folder.iterdir():
        with safe_open(file, "pt") as content:
            assert content.metadata()["format"] == FEATURE_FORMAT
            found.add(tuple(json.loads(content.metadata()["keys"])))
    assert found == {("a", "b"), ("c",)}


def test_a_batch_is_padded_and_means_are_over_a_rows_inputs(store: FeatureStore) -> None:
    batch = store.gather([["a", "b"], [], ["c"], ["a", "b"], ["b", "a"]])
    assert batch["mask"].tolist() == [[True] * 3, [False] * 3, [True] * 3, [True] * 3, [True] * 3]
    joined = torch.cat((OUTPUTS["a"].tokens, OUTPUTS["b"].tokens))
    turned = torch.cat((OUTPUTS["b"].tokens, OUTPUTS["a"].tokens))
    expected = torch.stack((joined, torch.zeros(3, 2), OUTPUTS["c"].tokens, joined, turned))
    assert torch.equal(batch["last_hidden_state"], expected)
    mean = (OUTPUTS["a"].pooled + OUTPUTS["b"].pooled) / 2
    assert torch.equal(batch["pooler_output"], torch.stack((mean, torch.zeros(2), OUTPUTS["c"].pooled, mean, mean)))
    short = store.gather([["b"], []])
    assert short["mask"].tolist() == [[True], [False]] and short["last_hidden_state"].shape == (2, 1, 2)


def test_a_tower_without_a_pooled_vector(tmp_path: Path) -> None:
    store = FeatureStore(tmp_path)
    store.add(["a"], [made(2, 1, pooled=False)])
    store.refresh()
    assert store["a"].pooled is None and store.gather([["a"]]).keys() == {"last_hidden_state", "mask"}


def test_a_file_of_another_kind_is_named(store: FeatureStore) -> None:
    for metadata in ({"format": "older", "keys": "[]"}, None):
        save_file({"tokens": torch.zeros(1)}, store.folder / "0.safetensors", metadata)
        with pytest.raises(ValueError, match=r"0.safetensors is not a file of features of this version"):
            store.refresh()


def test_names_of_folders() -> None:
    assert name_folder("text", "0123456789" * 4) == "text-012345678901234567890123"


@pytest.mark.parametrize(
    ("row", "texts"),
    [
        ({"text": "a"}, ["a", None]),
        ({"text": ["a", "b"]}, ["a", "b", None]),
        ({"text": "a", "negative": "c"}, ["a", "c"]),
        ({"text": None, "negative": ["c", "d"]}, [None, "c", "d"]),
    ],
)
def test_texts_and_hard_negatives_of_a_row(row: dict[str, Any], texts: list[str | None]) -> None:
    assert split_row_texts({**row, "text_pair": "p"}) == [{"text": text, "text_pair": "p"} for text in texts]


def test_every_text_has_its_first_place() -> None:
    data = [Dataset.from_dict({"text": ["a", "b", "a", None]}), Dataset.from_dict({"text": ["c", "b"]})]
    found = feature_cache._find_distinct_inputs(data, "text", 7)
    places = {"a": (0, 0, 0), "b": (0, 1, 0), "c": (1, 0, 0)}
    assert found == {compute_text_key({"text": text}, 7): place for text, place in places.items()}
    negatives = {"text": ["a", "b"], "negative": [["c", "d"], None]}
    with_negatives = feature_cache._find_distinct_inputs([Dataset.from_dict(negatives)], "text", None)
    assert list(with_negatives.values()) == [(0, 0, 0), (0, 0, 1), (0, 0, 2), (0, 1, 0)]
    documents = Dataset.from_dict({**negatives, "document": ["e", "f"]})
    assert list(feature_cache._find_distinct_inputs([documents], "text", None).values()) == [(0, 0, 0), (0, 1, 0)]
    with pytest.raises(ValueError, match="nothing to cache: the data have no image column, only text"):
        feature_cache._find_distinct_inputs(data, "image", None)
