"""The weights of a sentence encoder's modules: safetensors, and pickles only if they are asked for."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from plait.modeling.checkpoints.sentence_modules import (
    read_dense,
    read_module_weights,
    read_sentence_modules,
    write_sentence_modules,
)


def save(folder: Path, pickled: float | None, safe: float | None) -> str:
    (folder / "2_Dense").mkdir()
    for number, name, write in (
        (pickled, "pytorch_model.bin", torch.save),
        (safe, "model.safetensors", save_file),
    ):
        if number is not None:
            write({"linear.weight": torch.full((2, 2), number)}, folder / "2_Dense" / name)
    return str(folder)


@pytest.mark.parametrize(("options", "expected"), [({}, 1.0), ({"use_safetensors": False}, 2.0)])
def test_a_pickle_is_read_only_if_asked_for(options: dict[str, bool], expected: float, tmp_path: Path) -> None:
    weights = read_module_weights(save(tmp_path, pickled=2.0, safe=1.0), "2_Dense", options)
    assert float(weights["linear.weight"][0, 0]) == expected


def test_safetensors_stand_in_for_a_pickle_that_is_not_there(tmp_path: Path) -> None:
    weights = read_module_weights(save(tmp_path, pickled=None, safe=3.0), "2_Dense", {"use_safetensors": False})
    assert float(weights["linear.weight"][0, 0]) == 3.0


def test_a_pickle_alone_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"model\.safetensors: save it again"):
        read_module_weights(save(tmp_path, pickled=2.0, safe=None), "2_Dense", {})


def test_modules_are_written_as_they_are_read(tmp_path: Path) -> None:
    """Each in a folder of its own with an indented config, and its weights if it has some."""
    layers = [{"type": "dense", "size": 3, "act": "tanh"}, {"type": "normalize"}]
    config: Any = SimpleNamespace(hidden_size=4, sentence_pooling=["mean", "max"], sentence_layers=layers)
    weights = {"sentence.layers.0.dense.weight": torch.randn(3, 8), "sentence.layers.0.dense.bias": torch.randn(3),
               "other": torch.ones(1)}  # fmt: skip
    write_sentence_modules(config, weights, tmp_path)
    listed = json.loads((tmp_path / "modules.json").read_text())
    assert [(each["idx"], each["name"], each["path"]) for each in listed] == [
        (0, "0", ""),
        (1, "1", "1_Pooling"),
        (2, "2", "2_Dense"),
        (3, "3", "3_Normalize"),
    ]
    for file in (tmp_path / "modules.json", *tmp_path.glob("*/config.json")):
        assert file.read_text() == json.dumps(json.loads(file.read_text()), indent=2) + "\n"
    pooling = json.loads((tmp_path / "1_Pooling" / "config.json").read_text())
    assert pooling["pooling_mode"] == ["mean", "max"] and pooling["embedding_dimension"] == 4
    dense = json.loads((tmp_path / "2_Dense" / "config.json").read_text())
    assert (dense["in_features"], dense["out_features"], dense["bias"]) == (8, 3, True)
    assert dense["activation_function"] == "torch.nn.modules.activation.Tanh"
    assert not (tmp_path / "3_Normalize" / "model.safetensors").exists()
    found = read_sentence_modules(str(tmp_path), {})
    assert found is not None and found.pooling == ["mean", "max"]
    assert [layer["type"] for layer in found.layers] == ["dense", "normalize"]
    assert found.weights.keys() == weights.keys() - {"other"}
    assert all(torch.equal(tensor, weights[name]) for name, tensor in found.weights.items())


@pytest.mark.parametrize("key", ["module_input_name", "module_output_name"])
def test_a_module_that_reads_or_writes_something_else_is_refused(key: str) -> None:
    config = {"out_features": 4, "activation_function": "torch.nn.modules.activation.Tanh"}
    assert read_dense("folder", config)["size"] == 4
    with pytest.raises(ValueError, match="a module reads or writes .*token_embeddings"):
        read_dense("folder", {**config, key: "token_embeddings"})
