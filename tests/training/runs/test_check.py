"""`plait check` finds every file that is not as it was saved, and says what it is."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from plait import PlaitForClassification, PlaitProcessor
from plait.configuration import PlaitConfig, PlaitTextConfig
from plait.training.cli import main
from plait.training.data.feature_cache import CachedFeatures, FeatureStore
from plait.training.data.tokenizer import train_tokenizer
from plait.training.runs.check import check_folder


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its processor in one folder."""
    folder = tmp_path_factory.mktemp("saved") / "model"
    tower = PlaitTextConfig(
        vocab_size=300, hidden_size=8, num_hidden_layers=1, num_attention_heads=2, intermediate_size=16
    )
    PlaitForClassification(PlaitConfig(text_config=tower)).save_pretrained(folder)
    PlaitProcessor(tokenizer=train_tokenizer(["a red cat"], 8, vocab_size=300, min_frequency=1)).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    """A copy of the folder, to be damaged."""
    return Path(shutil.copytree(saved, tmp_path / "copy"))


def test_a_whole_folder_is_whole(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", str(folder)]) == 0
    assert capsys.readouterr().out == f"{folder}: whole (1 folders read)\n"


def test_a_flipped_bit_anywhere_is_found(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    draw = random.Random(1)
    for name in ("model.safetensors", "config.json", "tokenizer.json", "processor_config.json"):
        file = folder / name
        whole = file.read_bytes()
        bit = draw.randrange(8 * len(whole))
        file.write_bytes(whole[: bit // 8] + bytes([whole[bit // 8] ^ 1 << bit % 8]) + whole[bit // 8 + 1 :])
        assert main(["check", str(folder)]) == 1
        assert f"{file} is not as it was saved" in capsys.readouterr().out
        file.write_bytes(whole)


def test_numbers_that_are_not_finite_are_named(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    tensors["classifier.weight"][0, 0] = torch.nan
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert any("1 of 16 numbers of classifier.weight are NaN" in line for line in check_folder(folder).problems)


def test_a_folder_without_checksums_is_checked_and_said_to_have_none(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "checksums.json").unlink()
    assert main(["check", str(folder)]) == 0
    assert "1 files were saved without checksums" in capsys.readouterr().out
    tensors = load_file(folder / "model.safetensors")
    del tensors["classifier.bias"]
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    assert main(["check", str(folder)]) == 1
    assert "model.safetensors lacks classifier.bias" in capsys.readouterr().out


def test_cached_features_are_checked(tmp_path: Path) -> None:
    folder = tmp_path / f"image-{'0' * 24}"
    FeatureStore(folder).add(["a", "b"], [CachedFeatures(torch.randn(2, 4), torch.randn(4)) for _ in "ab"])
    assert check_folder(tmp_path).problems == []
    (file,) = folder.iterdir()
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    assert check_folder(tmp_path).problems == [
        f"{file} is not as it was written: delete it, and its features are computed again"
    ]
    file.write_bytes(whole[:-1])
    assert [line for line in check_folder(tmp_path).problems if "is damaged" in line]


@pytest.mark.parametrize("name", ["none", "empty"])
def test_a_folder_without_anything_of_plait_is_an_error(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    assert main(["check", str(tmp_path / name)]) == 2
    assert "plait check: " in capsys.readouterr().err
