"""Checksums of a saved folder: every changed, cut or lost file is found, and named with what changed in it."""

import json
import random
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from plait.configuration.checksums import CHECKSUM_FILE, find_changed_files, read_checksums, record_checksums
from plait.configuration.json_files import read_json_file, read_json_mapping


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A folder with a file of two tensors, a config and a file inside a subfolder, all with checksums."""
    (tmp_path / "decoder_tokenizer").mkdir()
    with record_checksums(tmp_path):
        save_file({"first": torch.arange(8.0), "second": torch.ones(3, 5)}, tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text('{"hidden_size": 16}')
        (tmp_path / "decoder_tokenizer" / "tokenizer.json").write_text("{}")
    return tmp_path


def test_a_whole_folder_has_no_damage(folder: Path) -> None:
    names = {"model.safetensors", "config.json", "decoder_tokenizer/tokenizer.json"}
    assert read_checksums(folder).keys() == names and find_changed_files(folder) == []


def test_every_flipped_bit_is_found(folder: Path) -> None:
    draw = random.Random(0)
    for name in read_checksums(folder):
        file = folder / name
        whole = file.read_bytes()
        for bit in draw.sample(range(8 * len(whole)), min(200, 8 * len(whole))):
            changed = bytearray(whole)
            changed[bit // 8] ^= 1 << bit % 8
            file.write_bytes(changed)
            assert any(line.startswith(f"{file} is not as it was saved") for line in find_changed_files(folder)), bit
        file.write_bytes(whole)
    assert find_changed_files(folder) == []


def test_the_tensor_that_changed_is_named(folder: Path) -> None:
    file = folder / "model.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1  # the last number of the last tensor
    file.write_bytes(content)
    assert find_changed_files(folder) == [f"{file} is not as it was saved: second changed"]


def test_a_cut_or_lost_file_is_named_with_its_size(folder: Path) -> None:
    file = folder / "model.safetensors"
    size = file.stat().st_size
    file.write_bytes(file.read_bytes()[:40])
    (folder / "config.json").unlink()
    lines = find_changed_files(folder)
    assert f"{file} has 40 bytes, and was saved with {size}" in lines and len(lines) == 2
    assert f"{folder / 'config.json'} is missing, and was saved with 19 bytes" in lines


def test_what_is_saved_again_is_summed_again_and_what_is_removed_is_forgotten(folder: Path) -> None:
    with record_checksums(folder):
        (folder / "config.json").unlink()
        save_file({"first": torch.zeros(2)}, folder / "model.safetensors")
    assert read_checksums(folder).keys() == {"model.safetensors", "decoder_tokenizer/tokenizer.json"}
    assert find_changed_files(folder) == []


def test_a_process_that_does_not_write_changes_nothing(folder: Path) -> None:
    before = (folder / CHECKSUM_FILE).read_bytes()
    with record_checksums(folder, writes=False):
        (folder / "config.json").write_text("{}")
    assert (folder / CHECKSUM_FILE).read_bytes() == before


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"files": 3}', '{"files": {"a": 3}}', "{" * 10_000, "\\ud800"])
def test_damaged_checksums_are_an_error_that_names_the_file(folder: Path, content: str) -> None:
    (folder / CHECKSUM_FILE).write_text(content)
    with pytest.raises(ValueError, match=CHECKSUM_FILE):
        find_changed_files(folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "a/../../b"])
def test_checksums_do_not_lead_outside_the_folder(folder: Path, name: str) -> None:
    content = json.loads((folder / CHECKSUM_FILE).read_text())
    content["files"][name] = content["files"]["config.json"]
    (folder / CHECKSUM_FILE).write_text(json.dumps(content))
    with pytest.raises(ValueError, match="outside the folder"):
        find_changed_files(folder)


def test_json_that_is_too_deep_or_not_text_is_an_error_that_names_the_file(tmp_path: Path) -> None:
    file = tmp_path / "a.json"
    for content in (b"[" * 100_000, b"\xff\xfe", b"{", b""):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="a.json is not valid JSON"):
            read_json_file(file)
    for content in (b"[1]", b"{}", b"3"):
        file.write_bytes(content)
        with pytest.raises(ValueError, match="not an object with keys"):
            read_json_mapping(file)
