"""The folder of a run: claimed, written, found again."""

import json
import shutil
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ...configuration.version import VERSION
from ..optimization.arguments import PlaitTrainingArguments
from ..recipes.errors import RecipeError
from ..recipes.files import VERSION_KEY, find_differences, read_yaml, save_recipe
from ..recipes.schema import Recipe
from .recipe import build_recipe

RECIPE_FILE, METRICS_FILE, HISTORY_FILE = "recipe.yaml", "metrics.json", "history.json"
PROCESSOR_FILE = "processor_config.json"


def claim_run_folder(
    folder: Path, recipe: Recipe, args: PlaitTrainingArguments, overwrite: bool, resume: bool
) -> str | None:
    """Make the run folder, or find the checkpoint to go on from; every process sees the same folder before any writes.

    Raises:
        RecipeError: the folder exists and may not be touched, or there is nothing to resume.
    """
    kept = is_run(folder)
    if resume:
        _check_resumable(folder, recipe, kept)
    elif folder.exists() and any(folder.iterdir()):
        if not overwrite:
            raise RecipeError(f"{folder} exists: --overwrite replaces it, --resume goes on, --output_dir names another")
        if not kept or folder.is_symlink():
            raise RecipeError(f"{folder} is not the folder of a run of plait, so it is not overwritten")
    wait_for_everyone()
    if args.should_save and not resume:
        if kept:
            shutil.rmtree(folder)
        folder.mkdir(parents=True, exist_ok=True)
        save_recipe(recipe, folder / RECIPE_FILE, VERSION)
    wait_for_everyone()
    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if resume and checkpoints.is_dir() else None


def is_run(folder: Path) -> bool:
    """Whether a folder was made by `train`: it holds a recipe with our mark."""
    file = folder / RECIPE_FILE
    return file.is_file() and VERSION_KEY in read_yaml(file)


def read_run_recipe(folder: Path) -> Recipe:
    """The recipe that a run folder was made with."""
    content = read_yaml(folder / RECIPE_FILE)
    return build_recipe({key: value for key, value in content.items() if key != VERSION_KEY})


def write_json(path: Path, content: Any) -> None:
    """Write a file of plain values."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def wait_for_everyone() -> None:
    """A barrier between the processes of a run."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()


def _check_resumable(folder: Path, recipe: Recipe, kept: bool) -> None:
    if not kept:
        raise RecipeError(f"{folder} is not the folder of a run: there is nothing to resume")
    changed = find_differences(read_run_recipe(folder), recipe)
    if changed:
        raise RecipeError(f"{folder} was begun with another recipe ({'; '.join(changed)}): a resumed run keeps its own")
