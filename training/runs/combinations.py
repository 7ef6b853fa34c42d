"""Checks of keys of a recipe that exclude one another, or need a package: before any work."""

from importlib.util import find_spec
from typing import Any

from transformers.training_args import OptimizerNames

from ...configuration import INLINE
from ...configuration.modalities import MODALITIES
from ...modeling.backbone.parts import PARTS, check_parts
from ..metrics.text import TEXT_METRICS
from ..optimization.arguments import MUON
from ..recipes.errors import RecipeError, check_choice
from ..recipes.reward import IN_TRL, check_reward
from ..recipes.schema import LoraRecipe, Recipe
from ..tasks.base import Task

# the packages of optimizers that torch does not have, by what their names contain; the first that fits
OPTIMIZER_PACKAGES = {
    "adamw_torch_": "torchao",
    "galore": "galore_torch",
    "apollo": "apollo_torch",
    "8bit": "bitsandbytes",
    "bnb": "bitsandbytes",
    "paged": "bitsandbytes",
    "lion": "bitsandbytes",
    "ademamix": "bitsandbytes",
    "lomo": "lomo_optim",
    "grokadamw": "grokadamw",
    "schedule_free": "schedulefree",
    "stable_adamw": "optimi",
    "apex": "apex",
}
OF_TORCH = ("adamw_torch_fused", "adamw_torch_xla", "adamw_torch_npu_fused")


def check_optimizer(recipe: Recipe) -> None:
    """Raises RecipeError for an optimizer that there is none of this name, with the nearest, or whose package is not
    installed."""
    name = recipe.training.get("optim")
    if not isinstance(name, str):
        return
    check_choice("training.optim", name, [*(str(choice.value) for choice in OptimizerNames), MUON])
    package = (
        None if name in OF_TORCH else next((own for part, own in OPTIMIZER_PACKAGES.items() if part in name), None)
    )
    if package is not None and find_spec(package) is None:
        raise RecipeError(
            f"training.optim is {name!r}, which needs the package {package}: pip install {package.replace('_', '-')}, "
            "or choose adamw_torch"
        )


def check_inline(recipe: Recipe, task: Task) -> None:
    """Raises RecipeError for images inside a text of a task or towers that do not read them there."""
    model, fits = recipe.model, task.model_class.decoder_kind == INLINE
    if model.fusion == INLINE and not fits:
        raise RecipeError(
            f"model.fusion is {INLINE!r}, images in the decoder's text, which the task {task.name} does not read: set "
            "task to dialogue, or start from the recipe visual_chat"
        )
    if not fits or model.from_pretrained is not None:
        if model.image_token is not None:
            raise RecipeError(f"model.image_token is {model.image_token!r}, but nothing reads it: leave it out")
        return
    if model.fusion not in (None, INLINE):
        raise RecipeError(
            f"model.fusion is {model.fusion!r}, but the task {task.name} has no fusion: leave it out, or set {INLINE!r}"
        )
    others = [part for part in MODALITIES if part != "image" and getattr(model, part) is not None]
    missing = [part for part in ("image", "decoder") if model.fusion == INLINE and getattr(model, part) is None]
    if missing or (others and model.image is not None):
        wrong = f"model.{missing[0]} is missing" if missing else f"model.{others[0]} is there too"
        raise RecipeError(f"model.fusion {INLINE!r} needs an image tower and a decoder alone, and {wrong}: correct it")


def check_named_parts(recipe: Recipe) -> None:
    """Raises RecipeError for a part that no model has, with the nearest, or that the recipe's towers do not make."""
    named: dict[str, Any] = {"model.freeze": recipe.model.freeze, "model.quantize": recipe.model.quantize}
    keys = ("learning_rates", "frozen", "cache_features", "unfreeze")
    named |= {f"training.{key}": recipe.training.get(key) for key in keys}
    both = sorted(set(recipe.model.freeze) & set(recipe.training.get("unfreeze") or ()))
    if both:
        raise RecipeError(
            f"training.unfreeze: model.freeze freezes {both[0]!r} for the whole training: leave it out there"
        )
    towers = (*MODALITIES, "decoder")
    made = [part for part in towers if getattr(recipe.model, part) is not None]
    for key, parts in named.items():
        if not isinstance(parts, list | dict):
            continue
        try:
            check_parts(parts)
        except ValueError as error:
            raise RecipeError(f"{key}: {error}") from error
        absent = [part for part in parts if part in towers and part not in made]
        if made and absent and recipe.model.from_pretrained is None:
            raise RecipeError(f"{key}: the model has no part {absent[0]!r}, but {', '.join(made)}: leave it out")


DRAWING = ("image_generation", "image_autoencoding")  # tasks whose weights are all new unless a trained model is loaded


def check_quantized_training(recipe: Recipe) -> None:
    """Raises RecipeError for quantized parts that the recipe would train: their weights stay as they are."""
    frozen = {*recipe.model.freeze, *(recipe.training.get("frozen") or ())}
    for part, kind in recipe.model.quantize.items():
        if recipe.lora is None and part not in frozen:
            raise RecipeError(
                f"model.quantize: the weights of {part!r} in {kind} are not trained: add it to model.freeze, or train "
                "adapters beside them (lora)"
            )
        if kind == "int8_dynamic":
            raise RecipeError(
                f"model.quantize: no gradient passes through {part!r} in int8_dynamic: choose int8 for training"
            )
    if recipe.model.quantize and recipe.lora is not None and recipe.lora.merge:
        raise RecipeError("lora.merge adds adapters to plain weights: leave it out with model.quantize; plait merge")


def check_lora(recipe: Recipe) -> None:
    """Raises RecipeError for adapters that cannot be trained as the recipe says, before any work."""
    lora = recipe.lora
    if lora is None:
        return
    if find_spec("peft") is None:
        raise RecipeError("lora needs the package peft: pip install peft")
    if lora.r < 1:
        raise RecipeError(f"lora.r is {lora.r}: expected at least 1")
    if lora.alpha is not None and not 0 < lora.alpha < float("inf"):
        raise RecipeError(f"lora.alpha is {lora.alpha}: expected more than 0")
    if not 0 <= lora.dropout < 1:
        raise RecipeError(f"lora.dropout is {lora.dropout}: expected 0 or more and less than 1")
    if recipe.task in DRAWING and (recipe.model.from_pretrained is None or recipe.task == "image_autoencoding"):
        raise RecipeError(
            f"lora adapts pretrained weights, and the task {recipe.task} trains new ones: leave lora out, or name a "
            "trained model of image_generation in model.from_pretrained"
        )
    _check_adapted_parts(recipe, lora)
    if recipe.training.get("optim") == MUON and recipe.model.fusion is None and recipe.model.from_pretrained is None:
        raise RecipeError(
            f"training.optim is {MUON!r}, which trains whole matrices of layers, and with lora only a fusion has such: "
            "choose another one"
        )
    if recipe.training.get("average_decay") is not None:
        raise RecipeError("training.average_decay averages whole weights: leave it out with lora")


def check_rewards(recipe: Recipe, task: Task) -> None:
    """Raises RecipeError for rewards that are out of range or that the task has no texts for."""
    if recipe.reward is None:
        return
    if task.reference_column is None or recipe.tasks:
        where = "several tasks" if recipe.tasks else f"the task {recipe.task}"
        raise RecipeError(f"reward scores generated texts, which {where} does not train: set task to generation")
    if recipe.training.get("gradient_cache_rows") is not None:
        raise RecipeError("training.gradient_cache_rows is for losses that compare rows: leave it out with reward")
    try:
        check_reward(recipe.reward)
    except ValueError as error:
        raise RecipeError(f"reward.{error}") from error
    if recipe.reward.objective in IN_TRL and recipe.task != "dialogue":
        raise RecipeError(
            f"reward.objective {recipe.reward.objective} trains the task dialogue, not {recipe.task}: choose "
            "policy_gradient, which trains both"
        )
    if recipe.reward.held_out is not None and recipe.reward.held_out not in TEXT_METRICS:
        check_choice("reward.held_out", recipe.reward.held_out, TEXT_METRICS)


def _check_adapted_parts(recipe: Recipe, lora: LoraRecipe) -> None:
    """Raises RecipeError for parts that are frozen, cached and adapted, or if none is left to adapt."""
    wanted = set(list_targets(lora)) & set(PARTS)
    frozen = {*recipe.model.freeze, *(recipe.training.get("frozen") or ())}
    if wanted & frozen:
        part = sorted(wanted & frozen)[0]
        raise RecipeError(f"lora.target names {part!r}, which is frozen: leave it out of one of the two")
    if {"fusion", "head"} & (wanted | frozen):
        part = sorted({"fusion", "head"} & (wanted | frozen))[0]
        raise RecipeError(f"{part!r} is trained whole with lora: leave it out of lora.target, model.freeze and frozen")
    towers = {name: getattr(recipe.model, name) for name in (*MODALITIES, "decoder")}
    pretrained = {name for name, source in towers.items() if isinstance(source, str)}
    if recipe.model.from_pretrained is None and pretrained <= frozen:
        raise RecipeError(
            "lora adapts pretrained parts, and there are none that model.freeze leaves "
            f"({', '.join(sorted(pretrained)) or 'all are new'}): freeze fewer parts, or leave lora out"
        )


def list_targets(lora: LoraRecipe) -> list[str]:
    """Returns the targets that the recipe names."""
    return [lora.target] if isinstance(lora.target, str) else list(lora.target or ())
