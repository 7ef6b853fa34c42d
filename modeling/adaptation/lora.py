"""Adapters of low rank (LoRA, Hu et al. 2021, https://arxiv.org/abs/2106.09685): the config by which peft puts them
into a model."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import transformers
from torch import nn

from ...configuration import PlaitConfig
from ...configuration.messages import suggest
from ..composition.composable import ComposableModel
from ..composition.parameter_names import part_of
from ..kernels.plain import is_plain_weight
from .fresh import fresh_modules, select_whole_modules

LANGUAGE_PARTS = ("text", "decoder")


def lora_config(
    model: ComposableModel,
    r: int = 16,
    parts: str | Sequence[str] | None = LANGUAGE_PARTS,
    dora: bool = False,
    **more: Any,
) -> Any:
    """Builds the `peft.LoraConfig` for a model: adapters at the linear layers of its pretrained parts, all that is
    newly initialized trained and saved whole beside them. `peft.get_peft_model(model, config)` puts them in.

    A folder that peft saves names the model's class, so that `peft.AutoPeftModel.from_pretrained(FOLDER)` loads it on
    the model that it was trained on, if that one was loaded from a folder or the Hub. (Its `task_type` is None:
    AutoPeftModel refuses any other. A class without an Auto class of transformers, or a checkpoint of a known family,
    needs `import_allowlist=["plait"]` there.)

    Args:
        r: the rank of an adapter.
        parts: the parts whose linear layers get adapters (text, image, audio, video, document, decoder, denoiser), or
            ends of the names of modules, such as "q_proj"; None: all pretrained parts that are not frozen. The default
            is the language of the model: its text tower and decoder, and in a model without them all parts.
        dora: whether the weights' magnitudes are trained too (Liu et al. 2024, https://arxiv.org/abs/2402.09353).
        more: further fields of LoraConfig; `lora_alpha` is 2 r by default.

    Raises:
        ValueError: a name that is no part or end of a name of an adaptable layer, with the nearest; no pretrained
            layer to adapt; a rank below 1.
    """
    if r < 1:
        raise ValueError(f"r is {r}: the rank of an adapter is at least 1")
    fields = {"lora_alpha": 2 * r, "use_dora": dora, "modules_to_save": select_whole_modules(model) or None, **more}
    if fields.get("target_modules") is None:
        fields["target_modules"] = select_adapted_layers(model, parts)
    fields.setdefault("auto_mapping", describe_model_class(model))
    return build_config_class()(r=r, **fields)


@cache
def build_config_class() -> Any:
    """Returns LoraConfig as a class that saves its own `auto_mapping`: peft's names a module of this package, which
    AutoPeftModel does not import."""
    from peft import LoraConfig

    class PlaitLoraConfig(LoraConfig):
        def save_pretrained(self, save_directory: str, **kwargs: Any) -> None:
            super().save_pretrained(save_directory, **{**kwargs, "auto_mapping_dict": self.auto_mapping})

    return PlaitLoraConfig


def describe_model_class(model: ComposableModel) -> dict[str, str]:
    """Returns peft's `auto_mapping`, by which AutoPeftModel finds the class of the base model: an Auto class of
    transformers that loads this class from a folder of plait's, or else plait's own class."""
    name, saved_by_plait = type(model).__name__, not (model.origins and model.name_or_path)
    for auto in filter(lambda each: each.startswith("AutoModel"), dir(transformers) if saved_by_plait else ()):
        mapping = getattr(getattr(transformers, auto), "_model_mapping", None) or {}
        if PlaitConfig in mapping and mapping[PlaitConfig] is type(model):
            return {"base_model_class": auto, "parent_library": "transformers"}
    return {"base_model_class": name, "parent_library": "plait"}


def select_adapted_layers(model: ComposableModel, targets: str | Sequence[str] | None = None) -> list[str]:
    """Returns the names of the linear layers that get adapters: of the pretrained parts that are trained, those of the
    named parts (frozen or not) and those whose names end as a target says.

    Raises ValueError for a target that no such layer belongs to, with the nearest.
    """
    layers = list_adaptable_layers(model)
    trained = [name for name in layers if is_layer_trained(model, name)]
    parts = {part_of(f"{name}.weight") for name in layers}
    if targets == LANGUAGE_PARTS:
        targets = [part for part in LANGUAGE_PARTS if part in parts] or None
    wanted = [targets] if isinstance(targets, str) else list(targets or ())
    if not (layers if wanted else trained):
        raise ValueError(
            "the model has no linear layer that is pretrained and not frozen: freeze fewer parts (a model that was "
            "trained since it was composed has pretrained parts once it is saved and loaded)"
        )
    candidates = {target: layers if target in parts else trained for target in wanted}
    for target, names in candidates.items():
        if not any(is_target(name, target) for name in names):
            known = sorted(parts) + sorted({name.rpartition(".")[2] for name in layers})
            raise ValueError(f"no layer to adapt is {target!r}{suggest(target, known)}")
    chosen = {name for target, names in candidates.items() for name in names if is_target(name, target)}
    return [name for name in layers if name in chosen] if wanted else trained


def list_adaptable_layers(model: ComposableModel) -> list[str]:
    """Returns the names of all linear layers of towers, decoder and denoiser that are not newly initialized."""
    fresh = tuple(f"{name}." for name in fresh_modules(model))
    parts = {*model.parts, "denoiser"}
    return [
        name
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and part_of(f"{name}.weight") in parts and not f"{name}.".startswith(fresh)
    ]


def is_layer_trained(model: ComposableModel, name: str) -> bool:
    """Returns whether a layer is not frozen; a quantized one, whose weight never trains, if its part is not."""
    weight: Any = model.get_submodule(name).weight
    if is_plain_weight(weight):
        return weight.requires_grad
    part = part_of(f"{name}.weight")
    return any(parameter.requires_grad for other, parameter in model.named_parameters() if part_of(other) == part)


def is_target(name: str, target: str) -> bool:
    """Returns whether a layer belongs to the part `target`, or its name ends so."""
    return part_of(f"{name}.weight") == target or f".{name}".endswith(f".{target}")
