"""What is compared: every modality alone, and every fusion, each as a recipe of its own."""

from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from ...configuration.modalities import MODALITIES
from ...modeling.backbone.parts import PARTS
from ...modeling.fusion.registry import FUSIONS
from ..recipes.errors import RecipeError, check_choice, check_keys
from ..recipes.schema import ModelRecipe, Recipe
from ..runs.building import collect_recipe_parts

UNIMODAL_FUSION = "early"  # the trunk of a single modality: a connector and a joint transformer
PART_NAMING_ARGUMENTS = ("learning_rates", "frozen", "cache_features")  # training arguments that name parts
MULTIMODAL_ARGUMENTS = ("ogm_alpha", "single_modality_weight")  # training arguments for several modalities
FUSION_KEYS = ("name", "fusion", "query", "connector", "fusion_config")


class System(NamedTuple):
    """One row of the comparison: its name, the modalities that it reads, and its model."""

    name: str
    modalities: tuple[str, ...]
    model: ModelRecipe

    @property
    def is_fusion(self) -> bool:
        return len(self.modalities) > 1

    def build_training_recipe(self, whole: Recipe, seed: int) -> Recipe:
        """The recipe of this system's training: what the others read is left out of the training arguments, and
        of a single modality's what balances several."""
        training = {
            name: self._select_own_parts(value) if name in PART_NAMING_ARGUMENTS else value
            for name, value in whole.training.items()
        }
        if not self.is_fusion:
            training = {name: value for name, value in training.items() if name not in MULTIMODAL_ARGUMENTS}
        processor = {
            name: value for name, value in whole.processor.items() if name not in MODALITIES or self._has_part(name)
        }
        return replace(whole, model=self.model, training=training, processor=processor, seed=seed)

    def _select_own_parts(self, value: Any) -> Any:
        """A list or dict of parts without those of other systems; anything else as it is."""
        if isinstance(value, list):
            return [part for part in value if part not in PARTS or self._has_part(part)]
        if isinstance(value, dict):
            return {part: rate for part, rate in value.items() if part not in PARTS or self._has_part(part)}
        return value

    def _has_part(self, part: str) -> bool:
        return part in self.modalities or part in ("fusion", "head")


def build_systems(recipe: Recipe) -> list[System]:
    """The recipe's single modalities, then its fusions.

    Raises:
        RecipeError: fewer than two towers, no towers of its own, an unknown modality or strategy, two equal names.
    """
    if recipe.model.from_pretrained is not None:
        raise RecipeError("compare: model.from_pretrained is braided already; name the towers (model.text, ...)")
    towers = [part for part in collect_recipe_parts(recipe.model) if part != "decoder"]
    if len(towers) < 2:
        raise RecipeError(f"compare: a fusion needs two towers or more, and model has {', '.join(towers)}")
    alone = towers if recipe.compare.singles is None else recipe.compare.singles
    for modality in alone:
        check_choice("compare.singles", modality, towers)
    systems = [build_unimodal_system(recipe.model, modality, towers) for modality in alone]
    systems += [build_fusion_system(recipe.model, given, towers) for given in recipe.compare.fusions]
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"compare: two systems are called {name!r}: give each a name of its own")
    if not alone or not recipe.compare.fusions:
        raise RecipeError("compare: there is nothing to compare without a single modality and a fusion")
    return systems


def build_unimodal_system(model: ModelRecipe, modality: str, towers: Iterable[str]) -> System:
    """One modality alone."""
    others = {name: None for name in towers if name != modality}
    kept = [part for part in model.freeze if part not in others]
    return System(modality, (modality,), replace(model, **others, fusion=UNIMODAL_FUSION, query=None, freeze=kept))


def build_fusion_system(model: ModelRecipe, given: str | dict[str, Any], towers: Iterable[str]) -> System:
    """All towers by one strategy; what the entry does not say is as the recipe's model says it."""
    options: dict[str, Any] = {"fusion": given} if isinstance(given, str) else dict(given)
    check_keys(options, FUSION_KEYS, "compare.fusions")
    strategy = options.get("fusion")
    if not isinstance(strategy, str):
        raise RecipeError(f"compare.fusions: {given!r} names no fusion")
    check_choice("compare.fusions", strategy, FUSIONS)
    name = options.pop("name", strategy)
    options["fusion_config"] = {**(model.fusion_config or {}), **options.get("fusion_config", {})}
    return System(str(name), tuple(towers), ModelRecipe(**{**asdict(model), **options}))
