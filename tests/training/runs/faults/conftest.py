"""A recipe of eight steps, its finished run, and `plait train` in this process."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from plait.training.cli import main

TOWER = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 24}
TRAINING = {
    "use_cpu": True,
    "disable_tqdm": True,
    "probe_products": False,
    "save_strategy": "steps",
    "save_steps": 2,
    "num_train_epochs": 2,
    "learning_rate": 1e-2,
    "per_device_train_batch_size": 4,
}
Result = tuple[int, str]
Run = Callable[..., Result]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight steps, a checkpoint every second one."""
    folder = tmp_path_factory.mktemp("faults")
    rows = [("it is red,red", "it is blue,blue")[number % 2] for number in range(16)]
    (folder / "d.csv").write_text("\n".join(["text,label", *rows, ""]))
    content = {
        "model": {"text": {"config": TOWER}},
        "tokenizer": {"train": {"vocab_size": 300, "min_frequency": 1}},
        "data": {"source": {"train": str(folder / "d.csv")}},
        "training": TRAINING,
    }
    (folder / "r.yaml").write_text(yaml.safe_dump(content))
    return folder / "r.yaml"


@pytest.fixture(scope="module")
def whole(recipe: Path) -> Path:
    """The folder of a run that was left alone, only to be read."""
    folder = recipe.parent / "whole"
    assert main(["train", str(recipe), "--output_dir", str(folder)]) == 0
    return folder


@pytest.fixture
def run(recipe: Path, capfd: pytest.CaptureFixture[str]) -> Run:
    """Runs `plait train` with a folder and further arguments: the exit code and the last line of stderr."""

    def train(folder: Path, *arguments: str) -> Result:
        code = main(["train", str(recipe), "--output_dir", str(folder), *arguments])
        error = capfd.readouterr().err
        assert "Traceback" not in error
        return code, (error.strip().splitlines() or [""])[-1]

    return train


@pytest.fixture
def copy(whole: Path, tmp_path: Path) -> Path:
    """A copy of the whole run."""
    return Path(shutil.copytree(whole, tmp_path / "run"))
