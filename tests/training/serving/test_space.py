"""The files of a Space: written once, complete, and an app that runs."""

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import huggingface_hub.constants
import pytest
import yaml

import plait
from plait.training.cli import main
from plait.training.recipes.errors import RecipeError
from plait.training.serving import launch_blocks
from plait.training.serving.space import list_requirements, write_space

from .conftest import RUNS

COMMIT = "0" * 40
RUN = str(RUNS / "translation" / "run")


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("space") / "space"
    assert main(["space", RUN, str(folder), "--api"]) == 0
    return folder


def test_the_files_of_a_space(written: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = {path.name for path in written.iterdir()}
    assert names == {"README.md", "app.py", "model", "plait", "requirements.txt"}
    _, metadata, text = (written / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    found = yaml.safe_load(metadata)
    assert found["sdk"] == "gradio" and found["app_file"] == "app.py" and found["title"] == "run"
    assert "a plait model of the task generation" in text
    pins = dict(line.split("==") for line in (written / "requirements.txt").read_text().splitlines())
    assert found["sdk_version"] == pins["gradio"] and {"torch", "transformers"} <= set(pins)
    assert all(version and "+" not in version for version in pins.values())
    assert (written / "model" / "model.safetensors").is_file() and not (written / "plait" / "tests").exists()
    assert list_requirements(["text", "audio"])[-1].startswith("soxr==")
    assert main(["space", RUN, str(written)]) == 2
    assert "exists and is not overwritten: name another folder" in capsys.readouterr().err


def test_every_module_of_plait_is_copied(written: Path) -> None:
    root, outside = Path(plait.__file__).parent, {"tests", "examples", "benchmarks", "docs", "build", "typings", "site"}
    modules = {file.relative_to(root) for file in root.glob("*.py")}
    for layer in (path for path in root.iterdir() if (path / "__init__.py").is_file() and path.name not in outside):
        modules |= {file.relative_to(root) for file in layer.rglob("*.py")}
    copied = {file.relative_to(written / "plait") for file in (written / "plait").rglob("*.py")}
    assert copied == modules and Path("registration.py") in copied


def test_its_app_serves_the_model(written: Path) -> None:
    """app.py as it stands, by the package that runs the tests."""
    names = runpy.run_path(str(written / "app.py"))
    launch_blocks(names["blocks"], prevent_thread_lock=True, quiet=True, server_name=None)
    try:
        assert "/predict" in httpx.get(f"{names['blocks'].local_url}gradio_api/info").json()["named_endpoints"]
        assert names["blocks"].served.reference == str(written / "model")
    finally:
        names["blocks"].close(verbose=False)


def test_a_model_of_the_hub_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its id stands in the app and in the metadata, and nothing is copied."""
    cached = tmp_path / "hub" / "models--me--translator"
    shutil.copytree(RUN, cached / "snapshots" / COMMIT)
    (cached / "refs").mkdir()
    (cached / "refs" / "main").write_text(COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    written = write_space("me/translator", tmp_path / "new")
    assert {path.name for path in written} == {"README.md", "app.py", "plait", "requirements.txt"}
    assert "build_blocks('me/translator', ServeSettings())" in (tmp_path / "new" / "app.py").read_text()
    assert "models:\n  - me/translator\n" in (tmp_path / "new" / "README.md").read_text()


@pytest.mark.slow
def test_the_copied_package_runs_the_app(written: Path) -> None:
    """In a process of its own, which sees no other plait."""
    code = "import runpy, plait; runpy.run_path('app.py'); print(plait.__file__)"
    environment: dict[str, Any] = {**os.environ, "PYTHONPATH": str(written), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=written, env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip().splitlines()[-1] == str(written / "plait" / "__init__.py")


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(RecipeError, match="exists and is not overwritten"):
        write_space(RUN, tmp_path / "file")
