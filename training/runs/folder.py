"""Folders that plait fills, of a run or of a comparison: how they are recognized, and what their files say."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from transformers.utils import logging

from ...configuration.version import VERSION
from ..recipes.errors import RecipeError
from ..recipes.files import VERSION_KEY, find_differences, read_yaml, save_recipe
from ..recipes.schema import Recipe
from ..storage.atomic import write_json
from ..storage.secret_values import drop_secrets
from .recipe import build_recipe

logger = logging.get_logger(__name__)

RECIPE_FILE, METRICS_FILE, HISTORY_FILE = "recipe.yaml", "metrics.json", "history.json"
PROCESSOR_FILE = "processor_config.json"
RUN_FILE = "run.json"  # of plait alone: the recipe once more, fingerprints of the data, whether the run has finished
CHECKPOINTS = "checkpoints"
CELLS = "cells"  # of a comparison: its finished trials
TRACES = (RUN_FILE, METRICS_FILE, PROCESSOR_FILE, CHECKPOINTS, CELLS)  # one of these is in every folder of plait
# what may change when a run is resumed: where things lie, what is printed, and how long it trains
RESUMABLE_TRAINING = (
    "num_train_epochs",
    "max_steps",
    "save_steps",
    "save_total_limit",
    "disable_tqdm",
    "logging_steps",
    "logging_strategy",
    "log_level",
    "report_to",
    "dataloader_num_workers",
    "push_to_hub",
    "hub_token",
    "hub_model_id",
    "hub_strategy",
)


@dataclass(frozen=True)
class FolderKind:
    """The folders that one command fills.

    Attributes:
        name: what messages call it.
        recipe_file: the file of its recipe, which marks the folder as plait's.
        changeable_keys: the recipe's keys that may change when the folder is resumed, apart from those that always may.
    """

    name: str
    recipe_file: str
    changeable_keys: tuple[str, ...] = ()

    def marks(self, folder: Path) -> bool:
        """Returns whether this command made the folder: it holds a recipe with plait's version, or one that is damaged
        and something else that plait leaves."""
        file = folder / self.recipe_file
        if not file.is_file():
            return read_run_file(folder).get("kind") == self.name
        try:
            return VERSION_KEY in read_yaml(file)
        except RecipeError:
            return any((folder / name).exists() for name in TRACES)

    def read_recipe(self, folder: Path) -> Recipe:
        """Returns the recipe that the folder was made with; if its file is damaged, from the copy in RUN_FILE.

        Raises RecipeError if both are damaged.
        """
        try:
            content = read_yaml(folder / self.recipe_file)
            return build_recipe({key: value for key, value in content.items() if key != VERSION_KEY})
        except (RecipeError, FileNotFoundError):
            copy = read_run_file(folder).get("recipe")
            if not isinstance(copy, dict):
                raise
        state = "damaged" if (folder / self.recipe_file).exists() else "missing"
        logger.warning(f"{folder / self.recipe_file} is {state}: its copy in {RUN_FILE} is used")
        return build_recipe(copy)

    def write(self, folder: Path, recipe: Recipe, **facts: Any) -> None:
        """Writes the recipe and RUN_FILE with further facts; secrets of the recipe are left out."""
        save_recipe(recipe, folder / self.recipe_file, VERSION)
        content = {VERSION_KEY: VERSION, "kind": self.name, "recipe": drop_secrets(asdict(recipe)), **facts}
        write_json(folder / RUN_FILE, content)

    def check_resumable(self, folder: Path, recipe: Recipe, changed_data: bool = False) -> None:
        """Raises RecipeError if there is nothing to resume in the folder, or another recipe; `changed_data`: whether
        other data are allowed."""
        if not self.marks(folder):
            raise RecipeError(
                f"{folder} is not the folder of a {self.name}: there is nothing to resume, start without --resume"
            )
        try:
            old = self.read_recipe(folder)
        except (RecipeError, FileNotFoundError):
            logger.warning(f"{folder / self.recipe_file} is damaged: the given recipe takes its place")
            return
        ignored = {"output_dir", "report", *self.changeable_keys, *(f"training.{key}" for key in RESUMABLE_TRAINING)}
        if changed_data or read_run_file(folder).get("data"):  # the data are compared, wherever they lie
            ignored |= list_places(old) | list_places(recipe)
        changed = find_differences(old, recipe, ignored)
        if changed:
            raise RecipeError(
                f"{folder} was started with another recipe ({'; '.join(changed)}): resume the {self.name} with its own"
            )


def list_places(recipe: Recipe) -> set[str]:
    """Returns the recipe's keys that say where its data lie."""
    sections = ["data", *(f"tasks.{name}.data" for name in recipe.tasks)]
    sources = {"": recipe.data.source} | {name: own.get("data", {}).get("source") for name, own in recipe.tasks.items()}
    splits = {split for source in sources.values() if isinstance(source, dict) for split in source}
    names = ["source", "image_root", *(f"source.{split}" for split in splits)]
    return {f"{section}.{name}" for section in sections for name in names}


def read_run_file(folder: Path) -> dict[str, Any]:
    """Returns the content of a folder's RUN_FILE; nothing if there is none or it is damaged."""
    try:
        content = json.loads((folder / RUN_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


RUN_FOLDER = FolderKind("run", RECIPE_FILE)
