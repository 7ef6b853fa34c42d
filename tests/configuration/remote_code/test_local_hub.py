"""Models of every class pushed to a Hub and loaded from it where plait cannot be imported, with the same numbers."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from contextlib import redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save_file

import plait
from plait.configuration.remote_code import export_code

from ...compatibility.tiny_models import list_tiny_models
from ..cards.test_cards import save
from .local_hub import USER, LocalHub, serve_hub
from .test_without_plait import PROGRAM, answer

NAMES = (  # one of each class, all modalities among them
    "causal_lm_image", "classification_text_image", "generation_image", "image_autoencoding", "image_generation_text",
    "masked_lm", "model_four_modalities", "pretraining", "question_answering", "retrieval_text_image",
)  # fmt: skip
PUSH = """
import json, sys
import plait
for name, class_name in json.loads(sys.argv[1]).items():
    getattr(plait, class_name).from_pretrained(name).push_to_hub(name, with_code=True)
    plait.PlaitProcessor.from_pretrained(name).push_to_hub(name, with_code=True)
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of all classes, each with its processor, and inputs."""
    folder = tmp_path_factory.mktemp("models")
    for name in NAMES:
        save(name, folder / name)
        inputs = {key: value.contiguous() for key, value in list_tiny_models()[name].inputs.items()}
        save_file(inputs, folder / f"{name}.safetensors")
    return folder


def run_with_hub(hub: LocalHub, folder: Path, *command: str, **more: str) -> str:
    """Runs Python in a process of its own, for which the Hub is this one and nothing is cached."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("HF_", "PYTHONPATH"))}
    environment |= {"HF_ENDPOINT": hub.endpoint, "HF_HOME": str(folder / "home"), "HF_TOKEN": "hf_local", **more}
    done = subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=folder, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def read_snippet(hub: LocalHub, name: str) -> str:
    """Returns the lines of Python of a repository's card."""
    card = list(hub.repositories[name].commits.values())[-1]["README.md"].decode()
    return card.partition("```python\n")[2].partition("\n```")[0]


def run_here(snippet: str, name: str, folder: Path) -> str:
    """Runs the lines with plait, on the folder in place of the repository."""
    printed = StringIO()
    with redirect_stdout(printed):
        exec(compile(snippet.replace(f'"{name}"', repr(str(folder))), "snippet", "exec"), {})
    return printed.getvalue()


@pytest.mark.slow
def test_pushed_models_answer_alike_without_plait(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By each Auto class of their auto_map; their cards' snippets print the same too."""
    classes = {name: list_tiny_models()[name].class_name for name in NAMES}
    assert set(classes.values()) == {
        name for name in plait.__all__ if name.startswith("PlaitFor") or name == "PlaitModel"
    }
    root = str(Path(plait.__file__).parents[1])
    with serve_hub() as hub:
        run_with_hub(hub, folder, "-c", PUSH, json.dumps(classes), PYTHONPATH=root)
        assert set(hub.repositories) == {f"{USER}/{name}" for name in NAMES}
        cases: dict[str, dict[str, Any]] = {}
        for name in NAMES:
            case = {"folder": f"{USER}/{name}", "class_name": classes[name]}
            case |= {"inputs": str(folder / f"{name}.safetensors"), "snippet": read_snippet(hub, f"{USER}/{name}")}
            cases[name] = case
        (tmp_path / "cases.json").write_text(json.dumps(cases))
        environment = {"HF_MODULES_CACHE": str(tmp_path / "modules")}
        printed = run_with_hub(hub, tmp_path, str(PROGRAM), str(tmp_path / "cases.json"), **environment)
    found: Mapping[str, Any] = json.loads(printed.splitlines()[-1])
    monkeypatch.chdir(tmp_path)
    for name, case in cases.items():
        expected = answer({**case, "folder": str(folder / name)})
        assert found[name]["model"] == expected["model"], name
        export_code(folder / name)  # of the classes without an Auto class, the snippet takes it from the folder
        assert found[name]["printed"] == run_here(case["snippet"], case["folder"], folder / name), case["snippet"]
        kinds = {kind for auto, kind in found[name]["classes"].items() if auto not in ("AutoConfig", "AutoModel")}
        assert kinds <= {case["class_name"]}, name
