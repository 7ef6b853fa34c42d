"""References that lead nowhere are said at once: a missing folder, and a Hub that cannot be reached."""

import time
from pathlib import Path

import pytest
from huggingface_hub import constants

from plait.training.recipes.errors import RecipeError
from plait.training.recipes.references import check_reference, looks_local


@pytest.mark.parametrize(
    ("reference", "local"),
    [
        ("bert-base-uncased", False),
        ("google/vit-base-patch16-224", False),
        ("./model", True),
        ("../model", True),
        ("/models/bert", True),
        ("~/bert", True),
        ("runs/today/bert", True),
        ("no model", True),
        ("", True),
    ],
)
def test_what_looks_like_a_path(reference: str, local: bool) -> None:
    assert looks_local(reference) == local


def test_a_missing_folder_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs").mkdir()
    for reference in ("./bert", "runs/bert", str(tmp_path / "bert")):
        with pytest.raises(RecipeError, match=f"^{reference}: no such folder$"):
            check_reference(reference)
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_reference("~/runs") == str(tmp_path / "runs") and check_reference("runs") == "runs"


def test_without_a_connection_it_is_said_after_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # nothing listens there
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    begin = time.monotonic()
    with pytest.raises(RecipeError, match="someone/model: no such folder, and http://127.0.0.1:9 cannot be reached"):
        check_reference("someone/model")
    assert time.monotonic() - begin < 10
