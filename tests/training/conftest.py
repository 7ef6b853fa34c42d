"""Made data for the training tests: coloured squares with questions, and a model small enough for one core."""

from pathlib import Path

import datasets
import pytest
import torch
from PIL import Image

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 230)}
QUESTIONS = ("what colour is it ?", "is it red ?", "is it blue ?")


@pytest.fixture(autouse=True)
def quiet_and_private(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One thread, and the data sets' cache in the test's own folder."""
    torch.set_num_threads(1)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets-cache")
    datasets.disable_progress_bars()


def answer(question: str, colour: str) -> str:
    """The right answer."""
    if question.startswith("what"):
        return colour
    return "yes" if colour in question else "no"


@pytest.fixture
def pictures(tmp_path: Path) -> dict[str, Path]:
    """A 16-pixel square of each colour, as files."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, colour in COLOURS.items():
        Image.new("RGB", (16, 16), colour).save(folder / f"{name}.png")
    return {name: folder / f"{name}.png" for name in COLOURS}


@pytest.fixture
def rows(pictures: dict[str, Path]) -> list[dict[str, str]]:
    """Every question about every square."""
    return [
        {"text": question, "image": str(path), "label": answer(question, colour)}
        for colour, path in pictures.items()
        for question in QUESTIONS
    ]
