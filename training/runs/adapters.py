"""Adapters of low rank (LoRA): put into a model by the recipe's key `lora`, saved in the run folder, loaded again."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import nn
from transformers.utils import CONFIG_NAME
from transformers.utils.peft_utils import ADAPTER_CONFIG_NAME, ADAPTER_SAFE_WEIGHTS_NAME

from ...configuration import PlaitConfig
from ...configuration.messages import suggest, to_one_line
from ...configuration.modalities import MODALITIES
from ...modeling.backbone.pretrained import PlaitPreTrainedModel
from ...modeling.composition.parameter_names import part_of
from ...processing import PlaitProcessor
from ..data.labels import read_config_labels
from ..parameters import fresh_modules, unwrap_plait
from ..recipes.errors import RecipeError
from ..recipes.schema import LoraRecipe, ModelRecipe
from ..tasks.base import Task
from .building import build_model, resolve_reference
from .combinations import list_targets
from .folder import RUN_FOLDER


def select_adapted_layers(model: PlaitPreTrainedModel, lora: LoraRecipe) -> list[str]:
    """Returns the names of the linear layers that get adapters: of the pretrained, trained towers and decoder, those of
    the named parts and those whose names end as the recipe says.

    Raises RecipeError for a target that no such layer belongs to, with the nearest.
    """
    fresh = tuple(f"{name}." for name in fresh_modules(model))
    layers = [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear)
        and part_of(f"{name}.weight") in model.parts
        and not f"{name}.".startswith(fresh)
        and module.weight.requires_grad
    ]
    if not layers:
        raise RecipeError("lora: the model has no linear layer that is pretrained and not frozen: freeze fewer parts")
    targets = list_targets(lora)
    ends = {name.rpartition(".")[2] for name in layers}
    parts = {part_of(f"{name}.weight") for name in layers}
    for target in targets:
        if not any(is_target(name, target) for name in layers):
            raise RecipeError(
                f"lora.target: no layer to adapt is {target!r}{suggest(target, sorted(parts) + sorted(ends))}"
            )
    return [name for name in layers if not targets or any(is_target(name, target) for target in targets)]


def is_target(name: str, target: str) -> bool:
    """Returns whether a layer belongs to the part `target`, or its name ends so."""
    return part_of(f"{name}.weight") == target or f".{name}".endswith(f".{target}")


def select_whole_modules(model: PlaitPreTrainedModel) -> list[str]:
    """Returns the names of the modules that are trained whole beside the adapters: all that is new, and the connectors
    and the fusion, which earlier training may have made."""
    plait = unwrap_plait(model)
    base = f"{model.base_model_prefix}." if plait is not model else ""
    found = [f"{base}connectors.{name}" for name in dict(plait.connectors.named_children())]
    found += [] if plait.fusion is None else [f"{base}fusion"]
    found = [name for name in found if any(True for _ in model.get_submodule(name).parameters())]
    fresh = [name for name in fresh_modules(model) if not f"{name}.".startswith(tuple(f"{path}." for path in found))]
    return found + fresh


def adapt_model(model: PlaitPreTrainedModel, lora: LoraRecipe) -> Any:
    """Puts adapters into a model and returns peft's model around it; all else but the modules of
    `select_whole_modules` is frozen.

    Raises RecipeError as `select_adapted_layers` does.
    """
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=2 * lora.r if lora.alpha is None else lora.alpha,  # pyright: ignore[reportArgumentType]
        lora_dropout=float(lora.dropout),
        target_modules=select_adapted_layers(model, lora),
        modules_to_save=select_whole_modules(model) or None,
    )
    try:
        adapted = get_peft_model(model, config)
    except (TypeError, ValueError) as error:
        raise RecipeError(f"lora: {to_one_line(error)}") from error
    model.fresh_names |= {name for name, _ in model.named_parameters() if ".lora_" in name}
    return adapted


def save_adapted(trainer: Any, place: Path, merge: bool) -> None:
    """Saves adapters with the config of the model that they belong to, or with `merge` the whole model, with the
    adapters added to its weights."""
    adapted = trainer.accelerator.unwrap_model(trainer.model)
    if merge:
        trainer.model = trainer.model_wrapped = adapted.merge_and_unload()
    trainer.save_model(str(place))
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
    folder, with the adapters added to the weights.

    Raises RecipeError for a folder without a recipe, a missing pretrained part, or adapters that do not fit.
    """
    folder = Path(reference).expanduser()
    if not RUN_FOLDER.marks(folder):
        raise RecipeError(
            f"{reference} holds adapters and no recipe of the model that they belong to: load that model, then "
            "peft.PeftModel.from_pretrained(model, FOLDER)"
        )
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
