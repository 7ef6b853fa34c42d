"""Loads a trained model with its processor, and the recipe that it was trained by."""

from collections.abc import Mapping
from dataclasses import asdict
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig
from transformers.utils import CONFIG_NAME
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME

from ...configuration.messages import to_one_line
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...processing import PlaitProcessor
from ..recipes.errors import RecipeError
from ..recipes.files import set_dotted
from ..recipes.schema import Recipe
from ..tasks.base import Task
from ..tasks.registry import find_class_task, find_task
from .adapters import is_adapter_folder, load_weights, read_base_model
from .building import quantize_parts, resolve_reference
from .folder import PROCESSOR_FILE, RUN_FOLDER
from .generation_settings import set_generation
from .recipe import build_recipe
from .thresholds import read_thresholds


def load_model(reference: str, recipe: Recipe, task: Task) -> tuple[PlaitPreTrainedModel, PlaitProcessor]:
    """Loads the model and the processor of a run folder, a plait folder or any pretrained checkpoint, for the recipe's
    task.

    Raises:
        RecipeError: a reference that cannot be loaded.
    """
    try:
        model: Any = load_weights(reference, task)
        processor = PlaitProcessor.from_pretrained(resolve_reference(find_processor(reference)))
    except RecipeError:
        raise
    except (OSError, TypeError, ValueError) as error:
        raise RecipeError(f"{reference}: {to_one_line(error)}") from error
    if not has_merged_weights(reference, recipe):
        quantize_parts(model, recipe.model.quantize)
    task.finish_processor(processor, recipe)
    if task.generates:
        set_generation(model, recipe.generation, keeps_length=True)
    return model, processor


def has_merged_weights(reference: str, recipe: Recipe) -> bool:
    """Returns whether a model is that of adapters that were trained beside weights of the kinds that the recipe says:
    it answers as in its training with the values of these weights, to which the adapters were added."""
    folder = Path(reference).expanduser()
    own = RUN_FOLDER.read_recipe(folder) if is_adapter_folder(reference) and RUN_FOLDER.marks(folder) else None
    return own is not None and own.model.quantize == recipe.model.quantize


def find_processor(reference: str) -> str:
    """Returns where the processor of a model is: of adapters that peft saved alone, that of their model."""
    alone = is_adapter_folder(reference) and not (Path(reference).expanduser() / PROCESSOR_FILE).is_file()
    return read_base_model(reference) if alone else reference


def load_run(folder: str | PathLike[str]) -> tuple[PlaitPreTrainedModel, PlaitProcessor]:
    """Loads the model and the processor of a run folder, with adapters added to the weights that they belong to.

    Raises:
        RecipeError: no such folder, one that no run has filled, or a tower of its recipe that cannot be found.
    """
    recipe = load_model_recipe(fspath(folder), {})
    return load_model(fspath(folder), recipe, find_task(recipe.task))


def check_run_model(reference: str) -> None:
    """Raises RecipeError for a run folder without a model: its run was stopped before it saved one, or it has several
    tasks."""
    folder = Path(reference).expanduser()
    if not RUN_FOLDER.marks(folder) or any((folder / name).exists() for name in (CONFIG_NAME, ADAPTER_CONFIG_NAME)):
        return
    tasks = sorted(str(Path(reference, path.parent.name)) for path in folder.glob(f"*/{CONFIG_NAME}"))
    if tasks:
        raise RecipeError(f"{reference} is a run of several tasks: name the folder of one, {', '.join(tasks)}")
    raise RecipeError(f"{reference}: the run has saved no model, or lost its config.json: --resume continues it")


def find_default_task(reference: str) -> str:
    """Returns the name of a saved model's task, by its class; "classification" for any other checkpoint."""
    alone = is_adapter_folder(reference) and not (Path(reference).expanduser() / CONFIG_NAME).is_file()
    try:
        config, _ = PreTrainedConfig.get_config_dict(
            read_base_model(reference) if alone else resolve_reference(reference)
        )
    except RecipeError:
        raise
    except (OSError, ValueError) as error:
        raise RecipeError(f"{reference}: {to_one_line(error)}") from error
    task = find_class_task(next(iter(config.get("architectures") or []), ""))
    return task.name if task is not None else "classification"


def load_model_recipe(reference: str, overrides: Mapping[str, Any]) -> Recipe:
    """Returns the recipe of a run folder, with its thresholds, or of another model's task alone, changed by the
    overrides."""
    folder = Path(reference).expanduser()
    check_run_model(reference)
    if RUN_FOLDER.marks(folder):
        content = asdict(RUN_FOLDER.read_recipe(folder))
        saved = read_thresholds(folder) if content["task"] == "classification" else None
        if saved is not None and content["settings"].get("thresholds") is None:
            content["settings"]["thresholds"] = saved["thresholds"]
    else:
        content = {"model": {"from_pretrained": reference}}
        content |= {} if "task" in overrides else {"task": find_default_task(reference)}
    for key, value in overrides.items():
        set_dotted(content, key, value)
    return build_recipe(content)
