"""Adapters of low rank (LoRA): put into a model by the recipe's key `lora`, saved in the run folder, loaded again."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from transformers.utils import CONFIG_NAME
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from ...configuration import PlaitConfig
from ...configuration.json_files import read_json_mapping
from ...configuration.messages import to_one_line
from ...configuration.modalities import MODALITIES
from ...modeling.adaptation.lora import lora_config, select_adapted_layers
from ...modeling.adaptation.quantization import is_quantized_weight
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.checkpoints.saved_folder import find_saving_class
from ...processing import PlaitProcessor
from ..data.labels import read_config_labels
from ..recipes.errors import RecipeError
from ..recipes.schema import LoraRecipe, ModelRecipe
from ..tasks.base import Task
from .building import build_model, resolve_reference
from .combinations import list_targets
from .folder import RUN_FOLDER


def adapt_model(model: PlaitPreTrainedModel, lora: LoraRecipe) -> Any:
    """Puts the adapters of `lora_config` into a model and returns peft's model around it; all else but what is trained
    whole is frozen.

    Raises RecipeError for targets that the model does not have, or none that is pretrained and not frozen.
    """
    from peft import get_peft_model

    alpha = 2 * lora.r if lora.alpha is None else lora.alpha
    try:
        targets = select_adapted_layers(model, list_targets(lora) or None)
    except ValueError as error:
        raise RecipeError(f"{'lora.target' if lora.target else 'lora'}: {to_one_line(error)}") from error
    more = {"lora_alpha": alpha, "lora_dropout": float(lora.dropout), "target_modules": targets}
    try:
        return get_peft_model(model, lora_config(model, lora.r, None, lora.dora, **more))
    except (TypeError, ValueError) as error:
        raise RecipeError(f"lora: {to_one_line(error)}") from error


def save_adapted(trainer: Any, place: Path, merge: bool) -> None:
    """Saves adapters with the config of the model that they belong to, or with `merge` the whole model, with the
    adapters added to its weights."""
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if merge:
        trainer.model = trainer.model_wrapped = adapted.merge_and_unload()
    trainer.save_model(str(place))
    if trainer.args.should_save:
        (place / "README.md").unlink(missing_ok=True)  # peft's template, in the place of which a run has its card
    if not merge and trainer.args.should_save:
        model = adapted.get_base_model()
        model.config.architectures = [type(model).__name__]
        model.config.save_pretrained(place)


def is_adapter_folder(reference: Any) -> bool:
    """Returns whether this is a folder of adapters."""
    return isinstance(reference, str) and (Path(reference).expanduser() / ADAPTER_CONFIG_NAME).is_file()


def load_weights(reference: str, task: Task) -> PlaitPreTrainedModel:
    """Loads the task's model of a run folder, a plait folder or any pretrained checkpoint; adapters are added to the
    weights that they belong to."""
    if is_adapter_folder(reference):
        return load_adapted(reference, task)
    loaded: Any = task.model_class.from_pretrained(resolve_reference(reference))
    return loaded


def load_adapted(reference: str, task: Task) -> PlaitPreTrainedModel:
    """Loads the model of a run with adapters: the pretrained parts from where its recipe has them, the rest from the
    folder, with the adapters added to the weights. A folder without a recipe, which peft saved, names its model.

    Raises RecipeError for a folder that names no model, a missing pretrained part, or adapters that do not fit.
    """
    folder = Path(reference).expanduser()
    if not RUN_FOLDER.marks(folder):
        base = read_base_model(reference)
        saved_by = find_saving_class(next(iter(PlaitConfig.get_config_dict(base)[0].get("architectures") or ()), ""))
        return attach_adapters((saved_by or task.model_class).from_pretrained(base), folder)
    recipe, processor = RUN_FOLDER.read_recipe(folder), PlaitProcessor.from_pretrained(folder)
    recipe = replace(recipe, model=locate_sources(recipe.model, folder))
    config = PlaitConfig.from_pretrained(folder)
    model = build_model(
        recipe, task, read_config_labels(config) if task.needs_labels else None, processor, verbose=False
    )
    if getattr(config, "target_mean", None) is not None:
        scaled: Any = model
        scaled.set_target_scale(config.target_mean, config.target_std)
    return attach_adapters(model, folder)


def read_base_model(reference: str) -> str:
    """Returns the folder or Hub id of the model that a folder of adapters belongs to.

    Raises RecipeError if it names none: a composed model that was not saved before it was trained has none.
    """
    file = Path(reference).expanduser() / ADAPTER_CONFIG_NAME
    base = read_json_mapping(file).get("base_model_name_or_path")
    if not base:
        raise RecipeError(
            f"{reference} holds adapters and neither a recipe nor the name of the model that they belong to "
            f"(base_model_name_or_path in {ADAPTER_CONFIG_NAME}): save that model, and name its folder there"
        )
    return resolve_reference(base)


def locate_sources(model: ModelRecipe, folder: Path) -> ModelRecipe:
    """Returns the recipe's model with relative folders that are not in the working directory found beside the run's
    folder or above it: they are relative to where the run was started."""
    found = {}
    for name in ("from_pretrained", *MODALITIES, "decoder"):
        source = getattr(model, name)
        if isinstance(source, str) and not Path(source).expanduser().exists():
            places = (place / source for place in folder.resolve().parents)
            place = next(filter(Path.is_dir, places), None)
            found |= {} if place is None else {name: str(place)}
    return replace(model, **found)


def attach_adapters(model: PlaitPreTrainedModel, folder: Path) -> PlaitPreTrainedModel:
    """Returns the model with the adapters of a folder added to its weights.

    Raises RecipeError for adapters that do not fit.
    """
    if any(map(is_quantized_weight, model.parameters())):
        model.dequantize()
    if find_spec("peft") is None:
        raise RecipeError(f"{folder} holds adapters, for which the package peft is needed: pip install peft")
    from peft import PeftModel, get_peft_model_state_dict
    from safetensors import safe_open

    try:
        adapted = PeftModel.from_pretrained(model, str(folder))
    except (OSError, RuntimeError, ValueError) as error:
        raise RecipeError(f"{folder}: the adapters do not fit the model: {to_one_line(error)}") from error
    with safe_open(folder / ADAPTER_SAFE_WEIGHTS_NAME, "pt") as file:
        saved = set(file.keys())
    check_same_names(saved, get_peft_model_state_dict(adapted), folder)
    merged: Any = adapted.merge_and_unload()
    return merged


def check_same_names(saved: Iterable[str], wanted: Mapping[str, Any], folder: Path) -> None:
    """Raises RecipeError if a folder's adapters are not those of the model."""
    different = sorted({*saved} ^ {*wanted})
    if different:
        raise RecipeError(
            f"{folder}: the adapters do not fit the model of {folder / CONFIG_NAME}: {len(different)} tensors are only "
            f"in one of the two, such as {different[0]}"
        )
