"""Writes the files of a Hugging Face Space that serves a model."""

import platform
import re
import shutil
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from string import Template
from typing import Any

from ...configuration import PlaitConfig
from ...configuration.version import VERSION
from ..recipes.errors import RecipeError
from ..runs.building import resolve_reference
from ..runs.loading import load_model_recipe
from ..storage.atomic import write_text
from .settings import require_gradio

MODEL_FOLDER, PACKAGE_FOLDER = "model", "plait"
SPACE_PACKAGES = (
    *("gradio", "torch", "transformers", "tokenizers", "huggingface_hub", "safetensors", "accelerate", "datasets"),
    *("evaluate", "pillow", "pyyaml", "scikit-learn", "numpy"),
)
MEDIA_PACKAGES = {"audio": ("soundfile", "soxr"), "video": ("av",)}
UNSERVED_FILES = ("checkpoints", "history.json", "run.json", "optimizer.pt", "__pycache__", "cells", "images", "runs")
PACKAGE_LAYERS = ("configuration", "modeling", "processing", "training")
PACKAGE_FILES = ("*.py", "py.typed", "LICENSE")

APP = Template('''"""Serves $name with plait."""

from pathlib import Path

from plait.training.serving import ServeSettings, build_blocks, launch_blocks

blocks = build_blocks($model, ServeSettings($settings))

if __name__ == "__main__":
    launch_blocks(blocks, server_name=None)  # the Space sets GRADIO_SERVER_NAME; alone: this machine
''')
README = Template("""---
title: $title
emoji: 🪢
colorFrom: yellow
colorTo: red
sdk: gradio
sdk_version: $gradio
python_version: "$python"
app_file: app.py
pinned: false
$models---

# $title

A page for a plait model of the task $task, written by `plait space`.

```
pip install -r requirements.txt
python app.py
```

`plait/` holds plait $plait itself, $holds.
""")


def write_space(reference: str, folder: str | Path, api: bool = False) -> list[Path]:
    """Writes app.py, requirements.txt, README.md and the package plait into a new folder, with the model if it is a
    folder; a model of the Hub is named by its id.

    Args:
        reference: a run folder, a model folder or a Hub id.
        folder: the folder to write; it must not exist, or be empty.
        api: whether the Space also serves JSON.

    Returns the files and folders that were written. Raises RecipeError for a folder that has files, or a model that
    cannot be found.
    """
    target = Path(folder).expanduser()
    check_space_folder(target)
    recipe = load_model_recipe(reference, {})
    source = Path(str(resolve_reference(reference))).expanduser()
    target.mkdir(parents=True, exist_ok=True)
    if source.is_dir():
        shutil.copytree(source, target / MODEL_FOLDER, ignore=shutil.ignore_patterns(*UNSERVED_FILES))
    copy_package(target / PACKAGE_FOLDER)
    model = 'str(Path(__file__).parent / "model")' if source.is_dir() else repr(reference)
    name = source.resolve().name if source.is_dir() else reference
    write_text(target / "app.py", render_app(name, model, api))
    write_text(target / "requirements.txt", "\n".join(list_requirements(read_modalities(reference))) + "\n")
    write_text(target / "README.md", render_readme(name, recipe.task, None if source.is_dir() else reference))
    return sorted(target.iterdir())


def check_space_folder(folder: Path) -> None:
    """Raises RecipeError for a folder that has files."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise RecipeError(f"{folder} exists and is not overwritten: name another folder")


def copy_package(target: Path) -> None:
    """Copies plait itself, without its tests: a Space installs from an index, which may hold another version."""
    root = find_package_root()
    target.mkdir()
    for layer in PACKAGE_LAYERS:
        shutil.copytree(root / layer, target / layer, ignore=shutil.ignore_patterns("__pycache__"))
    for file in (file for pattern in PACKAGE_FILES for file in root.glob(pattern)):
        shutil.copy2(file, target / file.name)


def find_package_root() -> Path:
    """Returns the folder of the package that runs."""
    return Path(__file__).resolve().parents[2]


def read_modalities(reference: str) -> list[str]:
    """Returns the modalities that a saved model reads."""
    config: Any = PlaitConfig.from_pretrained(resolve_reference(reference))
    return list(config.encoders)


def list_requirements(modalities: Sequence[str]) -> list[str]:
    """Returns the packages that a Space needs, each with the version that is installed here."""
    names = [*SPACE_PACKAGES, *(name for modality in modalities for name in MEDIA_PACKAGES.get(modality, ()))]
    return [f"{name}=={version(name).partition('+')[0]}" for name in names]


def render_app(name: str, model: str, api: bool) -> str:
    """Returns app.py. model: the expression of the model's folder or id."""
    settings = "api=True" if api else ""
    return APP.substitute(name=repr(name), model=model, settings=settings)


def render_readme(name: str, task: str, hub_id: str | None) -> str:
    """Returns README.md with the Space's metadata. hub_id: of a model that is not copied."""
    return README.substitute(
        title=re.sub(r"[^\w .-]", " ", name).strip() or "plait",
        gradio=require_gradio().__version__,
        python=".".join(platform.python_version_tuple()[:2]),
        models=f"models:\n  - {hub_id}\n" if hub_id else "",
        task=task.replace("_", " "),
        plait=VERSION,
        holds=f"the model is {hub_id} on the Hub" if hub_id else "`model/` the model",
    )
