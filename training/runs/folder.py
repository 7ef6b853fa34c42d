"""Folders that plait fills, of a run or of a comparison: claimed, written, found again."""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from transformers.trainer_utils import get_last_checkpoint

from ...configuration.version import VERSION
from ..recipes.errors import RecipeError
from ..recipes.files import VERSION_KEY, find_differences, read_yaml, save_recipe
from ..recipes.schema import Recipe
from .recipe import build_recipe

RECIPE_FILE, METRICS_FILE, HISTORY_FILE = "recipe.yaml", "metrics.json", "history.json"
PROCESSOR_FILE = "processor_config.json"


@dataclass(frozen=True)
class FolderKind:
    """What one command fills: what a message calls it, the file of its recipe, which marks the folder as plait's, and
    the keys of that recipe that may be others when it is resumed."""

    name: str
    recipe_file: str
    changeable_keys: tuple[str, ...] = ()

    def marks(self, folder: Path) -> bool:
        """Whether the folder was made by this command: it holds a recipe with plait's mark."""
        file = folder / self.recipe_file
        return file.is_file() and VERSION_KEY in read_yaml(file)

    def read_recipe(self, folder: Path) -> Recipe:
        """Returns the recipe that the folder was made with."""
        content = read_yaml(folder / self.recipe_file)
        return build_recipe({key: value for key, value in content.items() if key != VERSION_KEY})

    def claim(self, folder: Path, recipe: Recipe, overwrite: bool, resume: bool, saves: bool = True) -> None:
        """Makes the folder, or checks that it can be resumed; every process sees the same folder before any writes.

        Raises:
            RecipeError: the folder exists and may not be touched, or there is nothing to resume.
        """
        marked = self.marks(folder)
        if resume:
            self._check_resumable(folder, recipe, marked)
        elif folder.exists() and any(folder.iterdir()):
            if not overwrite:
                raise RecipeError(
                    f"{folder} exists: --overwrite replaces it, --resume continues it, --output_dir names another"
                )
            if not marked or folder.is_symlink():
                raise RecipeError(f"{folder} is not the folder of a {self.name} of plait, so it is not overwritten")
        wait_for_everyone()
        if saves and not resume:
            if marked:
                shutil.rmtree(folder)
            folder.mkdir(parents=True, exist_ok=True)
        if saves and (not resume or self.changeable_keys):
            save_recipe(recipe, folder / self.recipe_file, VERSION)
        wait_for_everyone()

    def _check_resumable(self, folder: Path, recipe: Recipe, marked: bool) -> None:
        if not marked:
            raise RecipeError(f"{folder} is not the folder of a {self.name}: there is nothing to resume")
        changed = find_differences(self.read_recipe(folder), recipe, self.changeable_keys)
        if changed:
            raise RecipeError(
                f"{folder} was begun with another recipe ({'; '.join(changed)}): a resumed {self.name} keeps its own"
            )


RUN_FOLDER = FolderKind("run", RECIPE_FILE)


def find_last_checkpoint(folder: Path) -> str | None:
    """Returns the last checkpoint of a run folder, None where no step was saved."""
    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


def write_json(path: Path, content: Any) -> None:
    """Write a file of plain values."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def wait_for_everyone() -> None:
    """A barrier between the processes of a run."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
