"""Files that are whole or absent."""

import json
from pathlib import Path

import pytest

from plait.training.storage.atomic import install_folder, replace_file, write_json


def test_a_file_is_replaced_whole_or_stays(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_text("old")

    def write_half() -> None:
        with replace_file(path) as unfinished:
            unfinished.write_text("half")
            assert path.read_text() == "old"
            raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        write_half()
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "old"
    with replace_file(path) as unfinished:
        unfinished.write_text("new")
    assert [file.name for file in tmp_path.iterdir()] == ["a.txt"] and path.read_text() == "new"


def test_json_is_valid_and_written_as_it_is_read(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"grüße": [1, None]})
    assert (tmp_path / "a.json").read_text(encoding="utf-8") == '{\n  "grüße": [\n    1,\n    null\n  ]\n}\n'
    write_json(tmp_path / "a.json", {"loss": float("nan"), "all": (float("inf"), {"x": -float("inf")}, 1.5)})

    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is no JSON")

    found = json.loads((tmp_path / "a.json").read_text(), parse_constant=refuse)
    assert found == {"loss": None, "all": [None, {"x": None}, 1.5]}


def test_a_folder_is_installed_file_by_file(tmp_path: Path) -> None:
    staged, target = tmp_path / "staged", tmp_path / "target"
    for folder, word in ((staged, "new"), (target, "old")):
        (folder / "part").mkdir(parents=True)
        (folder / "part" / "a").write_text(word)
    (target / "kept").write_text("old")
    (staged / "b").write_text("new")
    install_folder(staged, target)
    assert not staged.exists()
    assert {path.name: path.read_text() for path in target.rglob("*") if path.is_file()} == {
        "a": "new",
        "b": "new",
        "kept": "old",
    }
