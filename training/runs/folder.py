"""Folders that plait fills, of a run or of a comparison: how they are made, recognized and resumed."""

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
    """The folders that one command fills.

    Attributes:
        name: what messages call it.
        recipe_file: the file of its recipe, which marks the folder as plait's.
        changeable_keys: the recipe's keys that may change when the folder is resumed.
    """

    name: str
    recipe_file: str
    changeable_keys: tuple[str, ...] = ()

    def marks(self, folder: Path) -> bool:
        """Returns whether this command made the folder: it holds a recipe with plait's version."""
        file = folder / self.recipe_file
        return file.is_file() and VERSION_KEY in read_yaml(file)

    def read_recipe(self, folder: Path) -> Recipe:
        """Returns the recipe that the folder was made with."""
        content = read_yaml(folder / self.recipe_file)
        return build_recipe({key: value for key, value in content.items() if key != VERSION_KEY})

    def claim(self, folder: Path, recipe: Recipe, overwrite: bool, resume: bool, saves: bool = True) -> None:
        """Makes the folder, or checks that it can be resumed; every process checks it before one of them writes.

        Raises:
            RecipeError: the folder exists and may not be overwritten, or there is nothing to resume.
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
                raise RecipeError(
                    f"{folder} is not the folder of a {self.name} of plait, and is not overwritten: choose another one"
                )
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
            raise RecipeError(
                f"{folder} is not the folder of a {self.name}: there is nothing to resume, start without --resume"
            )
        changed = find_differences(self.read_recipe(folder), recipe, self.changeable_keys)
        if changed:
            raise RecipeError(
                f"{folder} was started with another recipe ({'; '.join(changed)}): resume the {self.name} with its own"
            )


RUN_FOLDER = FolderKind("run", RECIPE_FILE)


def find_last_checkpoint(folder: Path) -> str | None:
    """Returns the path of a run folder's last checkpoint; None if none was saved."""
    checkpoints = folder / "checkpoints"
    return get_last_checkpoint(str(checkpoints)) if checkpoints.is_dir() else None


def write_json(path: Path, content: Any) -> None:
    """Writes plain values to a JSON file."""
    path.write_text(json.dumps(content, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def wait_for_everyone() -> None:
    """Waits until all processes of the run have arrived."""
    from accelerate import PartialState

    PartialState().wait_for_everyone()
