"""plait's own folders are read strictly: what is damaged is an error that names file, tensor and remedy."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModel, AutoModelForSequenceClassification, BertConfig, BertModel

from plait import PlaitForClassification, PlaitForQuestionAnswering, PlaitModel
from plait.configuration import PlaitConfig, PlaitTextConfig
from plait.modeling.checkpoints.saved_folder import FolderError
from plait.modeling.checkpoints.source import open_checkpoint
from plait.training.data.labels import LabelSpec
from plait.training.runs.building import load_pretrained

SIZES: dict[str, Any] = {"hidden_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 32}
WEIGHTS = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a small classifier."""
    folder = tmp_path_factory.mktemp("saved")
    PlaitForClassification(PlaitConfig(text_config=PlaitTextConfig(vocab_size=40, **SIZES))).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def change(folder: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    """Edits the tensors of a folder."""
    tensors = load_file(folder / WEIGHTS)
    edit(tensors)
    save_file(tensors, folder / WEIGHTS, {"format": "pt"})


def test_each_missing_tensor_is_an_error_of_its_own_class(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    for name in ("classifier.bias", *random.Random(0).sample(sorted(tensors), 4)):
        tensor = tensors[name]
        change(folder, lambda tensors, name=name: tensors.pop(name))
        with pytest.raises(FolderError, match=f"{WEIGHTS} lacks {name}, .*restore"):
            PlaitForClassification.from_pretrained(folder)
        with pytest.raises(FolderError, match=f"{WEIGHTS} lacks {name}"):
            AutoModelForSequenceClassification.from_pretrained(folder)
        change(folder, lambda tensors, name=name, tensor=tensor: tensors.update({name: tensor}))


def test_another_class_needs_what_it_shares_and_gets_its_own_head(folder: Path) -> None:
    model, info = PlaitForQuestionAnswering.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"qa_outputs.weight", "qa_outputs.bias"} and isinstance(
        model.config, PlaitConfig
    )
    change(folder, lambda tensors: [tensors.pop(name) for name in list(tensors) if name.startswith("classifier")])
    PlaitModel.from_pretrained(folder)  # lacks nothing that it reads
    with pytest.raises(FolderError, match="lacks classifier"):  # the folder is damaged
        PlaitForQuestionAnswering.from_pretrained(folder)


def test_a_shared_tensor_that_is_missing_is_an_error_in_every_class(folder: Path) -> None:
    name = "model.towers.text.transformer.layers.1.mlp.up_proj.weight"
    change(folder, lambda tensors: tensors.pop(name))
    for load in (PlaitModel, PlaitForQuestionAnswering, AutoModel):
        with pytest.raises(FolderError, match="lacks .*layers.1.mlp.up_proj.weight"):
            load.from_pretrained(folder)


def test_a_tensor_that_has_no_place_is_an_error_of_the_folders_own_class(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"classifier.weigth": torch.zeros(2, 16)}))
    with pytest.raises(FolderError, match="has classifier.weigth, for which its config.json has no place"):
        PlaitForClassification.from_pretrained(folder)
    PlaitModel.from_pretrained(folder)


def test_another_shape_is_an_error_that_names_the_tensor_unless_it_is_wanted(folder: Path) -> None:
    change(folder, lambda tensors: tensors.update({"classifier.weight": torch.zeros(5, 16)}))
    with pytest.raises(
        FolderError, match=r"size mismatch: classifier.weight has shape \(5, 16\) in .*model.safetensors"
    ):
        PlaitForClassification.from_pretrained(folder)
    with pytest.raises(RuntimeError, match="mismatch"):  # the class that transformers raises
        PlaitForClassification.from_pretrained(folder)
    model = PlaitForClassification.from_pretrained(folder, ignore_mismatched_sizes=True)
    assert model.classifier.weight.shape == (2, 16)


def test_every_cut_of_the_weights_is_an_error_that_names_the_file(folder: Path) -> None:
    whole = (folder / WEIGHTS).read_bytes()
    draw = random.Random(0)
    for size in [0, 1, 7, 8, 9, len(whole) - 1, *(draw.randrange(len(whole)) for _ in range(20))]:
        (folder / WEIGHTS).write_bytes(whole[:size])
        with pytest.raises(ValueError, match=f"{WEIGHTS} is truncated or corrupt"):
            PlaitForClassification.from_pretrained(folder)
    for content in (b"PK\x03\x04" + bytes(100), b"\xff" * 100, whole + b"more"):
        (folder / WEIGHTS).write_bytes(content)
        with pytest.raises(ValueError, match=f"{WEIGHTS} is truncated or corrupt"):
            PlaitForClassification.from_pretrained(folder)


def test_an_index_does_not_lead_outside_the_folder(folder: Path, tmp_path: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    shutil.move(folder / WEIGHTS, tmp_path / "other.safetensors")
    index = folder / "model.safetensors.index.json"
    for shard in ("../other.safetensors", str(tmp_path / "other.safetensors"), "..", "", 3, "a\\b"):
        index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, shard)}))
        with pytest.raises(ValueError, match="index.json says that .* no file of its folder"):
            PlaitForClassification.from_pretrained(folder)
    for content in ("", "[]", "{}", '{"weight_map": {}}', "{" * 5000):
        index.write_text(content)
        with pytest.raises(ValueError, match="index.json"):
            PlaitForClassification.from_pretrained(folder)
    index.write_text(json.dumps({"metadata": {}, "weight_map": dict.fromkeys(tensors, "lost.safetensors")}))
    with pytest.raises(OSError, match="lost.safetensors"):
        PlaitForClassification.from_pretrained(folder)


def test_a_pickle_is_read_only_where_it_is_asked_for(folder: Path) -> None:
    tensors = load_file(folder / WEIGHTS)
    torch.save(tensors, folder / "pytorch_model.bin")
    (folder / WEIGHTS).unlink()
    with pytest.raises(OSError, match="only the pickle pytorch_model.bin: pass use_safetensors=False"):
        PlaitForClassification.from_pretrained(folder)
    model = PlaitForClassification.from_pretrained(folder, use_safetensors=False)
    assert torch.equal(model.classifier.weight, tensors["classifier.weight"])
    (folder / "pytorch_model.bin").write_bytes(b"garbage")
    with pytest.raises(ValueError, match="pytorch_model.bin is no pickle of tensors, or is damaged"):
        PlaitForClassification.from_pretrained(folder, use_safetensors=False)


@pytest.mark.parametrize("content", [None, b"", b"{}", b"[]", b"{" * 5000, b"\xff", b"null"])
def test_no_or_another_config_is_an_error_that_names_it(folder: Path, content: bytes | None) -> None:
    (folder / "config.json").unlink()
    if content is not None:
        (folder / "config.json").write_bytes(content)
    with pytest.raises(OSError, match="config.json"):
        PlaitForClassification.from_pretrained(folder)


def test_tensors_that_the_caller_adds_are_new(folder: Path) -> None:
    _, info = PlaitForClassification.from_pretrained(folder, classifier_bias=False, output_loading_info=True)
    assert set(info["unexpected_keys"]) == {"classifier.bias"}


def test_weights_that_are_missing_are_told_from_a_pickle(tmp_path: Path) -> None:
    config = BertConfig(vocab_size=40, **SIZES)
    BertModel(config).save_pretrained(tmp_path)
    weights = load_file(tmp_path / WEIGHTS)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(OSError, match=r"has neither model.safetensors nor .*: check the name and the variant"):
        open_checkpoint(str(tmp_path))
    torch.save(dict(weights), tmp_path / "pytorch_model.bin")
    with pytest.raises(OSError, match=r"only the pickle pytorch_model.bin: pass use_safetensors=False"):
        open_checkpoint(str(tmp_path))
    assert open_checkpoint(str(tmp_path), use_safetensors=False).tensors


def test_who_asks_for_the_loading_info_reads_the_keys_there(folder: Path) -> None:
    """As in transformers; a run that continues from the folder refuses it all the same."""
    change(folder, lambda tensors: tensors.update({"extra": tensors.pop("classifier.bias")}))
    _, info = PlaitForClassification.from_pretrained(folder, output_loading_info=True)
    assert set(info["missing_keys"]) == {"classifier.bias"} and set(info["unexpected_keys"]) == {"extra"}
    for labels in (None, LabelSpec(("a", "b"), "single_label_classification")):
        with pytest.raises(FolderError, match=f"{WEIGHTS} lacks classifier.bias"):
            load_pretrained(PlaitForClassification, str(folder), labels, {})
