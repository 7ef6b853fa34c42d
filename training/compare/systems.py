"""The systems that are compared: every single modality and every fusion, each with its own recipe."""

import re
from collections.abc import Iterable
from dataclasses import asdict, replace
from typing import Any, NamedTuple

from ...configuration.modalities import MODALITIES
from ...modeling.backbone.parts import PARTS
from ...modeling.fusion.registry import FUSIONS
from ..recipes.bending import MODALITY_SETTINGS
from ..recipes.errors import RecipeError, check_choice, check_keys
from ..recipes.schema import LoraRecipe, ModelRecipe, Recipe
from ..runs.building import collect_recipe_parts
from ..runs.combinations import list_targets

UNIMODAL_FUSION = "early"  # of a single modality: a connector and a joint transformer
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
        """Whether the system reads several modalities."""
        return len(self.modalities) > 1

    @property
    def slug(self) -> str:
        """The name as a part of names of files."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    def build_training_recipe(self, whole: Recipe, seed: int) -> Recipe:
        """Returns the recipe that trains this system: without training arguments for the parts of other systems and,
        for a single modality, without those that balance several."""
        training = {
            name: self._select_own_parts(value) if name in PART_NAMING_ARGUMENTS else value
            for name, value in whole.training.items()
        }
        if not self.is_fusion:
            training = {name: value for name, value in training.items() if name not in MULTIMODAL_ARGUMENTS}
        processor = {
            name: value for name, value in whole.processor.items() if name not in MODALITIES or self._has_part(name)
        }
        absent = [key for key, modality in MODALITY_SETTINGS.items() if not self._has_part(modality)]
        training = {name: value for name, value in training.items() if f"training.{name}" not in absent}
        processor = {name: value for name, value in processor.items() if f"processor.{name}" not in absent}
        options = {name: v for name, v in self.model.options.items() if f"model.options.{name}" not in absent}
        model, lora = replace(self.model, options=options), self._select_lora(whole.lora)
        if whole.lora is not None and lora is None:  # nothing of this system is adapted, so that its towers stay
            model = replace(model, freeze=sorted({*model.freeze, *self._list_pretrained()}))
            rates = training.get("learning_rates") or {}
            training["learning_rates"] = {part: rate for part, rate in rates.items() if part not in model.freeze}
        return replace(whole, model=model, lora=lora, training=training, processor=processor, seed=seed)

    def _select_lora(self, lora: LoraRecipe | None) -> LoraRecipe | None:
        """Returns the adapters without the targets of other systems; None if none is left."""
        targets = [] if lora is None else list_targets(lora)
        if lora is None or not targets:
            return lora if set(self._list_pretrained()) - set(self.model.freeze) else None
        kept = [target for target in targets if target not in PARTS or self._has_part(target)]
        return replace(lora, target=kept) if kept else None

    def _list_pretrained(self) -> list[str]:
        return [name for name in self.modalities if isinstance(getattr(self.model, name), str)]

    def _select_own_parts(self, value: Any) -> Any:
        """Returns a list or dict of parts without those of other systems, any other value unchanged."""
        if isinstance(value, list):
            return [part for part in value if part not in PARTS or self._has_part(part)]
        if isinstance(value, dict):
            return {part: rate for part, rate in value.items() if part not in PARTS or self._has_part(part)}
        return value

    def _has_part(self, part: str) -> bool:
        return part in self.modalities or part in ("fusion", "head")


def build_systems(recipe: Recipe) -> list[System]:
    """Builds the systems of the recipe's single modalities, then those of its fusions.

    Raises:
        RecipeError: a composed model in place of towers, fewer than two towers, an unknown modality or fusion, equal
            names, or nothing to compare.
    """
    if recipe.model.from_pretrained is not None:
        raise RecipeError(
            "compare: model.from_pretrained names a composed model: name its towers instead (model.text, ...)"
        )
    if recipe.model.quantize:
        raise RecipeError("compare: model.quantize cannot be used: leave it out, or freeze towers")
    towers = [part for part in collect_recipe_parts(recipe.model) if part != "decoder"]
    if len(towers) < 2:
        raise RecipeError(f"compare: a fusion needs at least two towers, and model only has {', '.join(towers)}")
    alone = towers if recipe.compare.singles is None else recipe.compare.singles
    for modality in alone:
        check_choice("compare.singles", modality, towers)
    systems = [build_unimodal_system(recipe.model, modality, towers) for modality in alone]
    systems += [build_fusion_system(recipe.model, entry, towers) for entry in recipe.compare.fusions]
    names = [system.name for system in systems]
    for name in names:
        if names.count(name) > 1:
            raise RecipeError(f"compare: two systems are called {name!r}: give one of them another name")
    if not alone or not recipe.compare.fusions:
        raise RecipeError(
            "compare: nothing to compare: give at least one of compare.singles and one of compare.fusions"
        )
    return systems


def build_unimodal_system(model: ModelRecipe, modality: str, towers: Iterable[str]) -> System:
    """Builds the system of one modality alone."""
    others = {name: None for name in towers if name != modality}
    kept = [part for part in model.freeze if part not in others]
    return System(modality, (modality,), replace(model, **others, fusion=UNIMODAL_FUSION, query=None, freeze=kept))


def build_fusion_system(model: ModelRecipe, entry: str | dict[str, Any], towers: Iterable[str]) -> System:
    """Builds the system of all towers with one fusion; keys that the entry leaves out come from the recipe's model."""
    options: dict[str, Any] = {"fusion": entry} if isinstance(entry, str) else dict(entry)
    check_keys(options, FUSION_KEYS, "compare.fusions")
    strategy = options.get("fusion")
    if not isinstance(strategy, str):
        raise RecipeError(f"compare.fusions: {entry!r} names no fusion: give a name, or a mapping with the key fusion")
    check_choice("compare.fusions", strategy, FUSIONS)
    name = options.pop("name", strategy)
    options["fusion_config"] = {**(model.fusion_config or {}), **options.get("fusion_config", {})}
    return System(str(name), tuple(towers), ModelRecipe(**{**asdict(model), **options}))
